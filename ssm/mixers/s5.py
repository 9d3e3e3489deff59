"""S5: one multi-input, multi-output linear time-invariant state-space model a layer."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ssm import recurrence
from ssm.discretise import zero_order_hold
from ssm.init import hippo_n_diagonal, log_uniform, named_key
from ssm.mixers.base import AbstractStreamingMixer

MAX_BLOCK = 1_024
"""The largest HiPPO-N block: its spectrum is computed when a layer is built."""


class S5(AbstractStreamingMixer):
    """y = 2 Re(C h) + D x with h_t = exp(ΛΔ) h_{t−1} + Λ⁻¹(exp(ΛΔ) − 1) B x_t.

    Λ is diagonal, complex, with one half of `blocks` copies of the HiPPO-N spectrum, each of size
    d_state/blocks; the other half are the conjugates, which 2 Re accounts for. In the eigenbasis V,
    B = V* B₀ and C = C₀ V, with B₀ and C₀ Lecun-normal; D ~ N(0, 1); Δ per mode, log-uniform in
    [dt_min, dt_max]. In parallel the layer is an associative scan.

    As a linear CDE: ω = t, ξ = ∫ X ds. Source: Smith et al., 2023, *Simplified State Space Layers*.
    """

    a_log: Float[Array, "modes"]
    a_imag: Float[Array, "modes"]
    b: Float[Array, "modes d_model 2"]
    c: Float[Array, "d_model modes 2"]
    d: Float[Array, "d_model"]
    log_dt: Float[Array, "modes"]

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        key: PRNGKeyArray,
    ):
        """An S5 layer.

        Arguments:
            d_state: size of the real state, that is twice the number of complex modes.
            blocks: HiPPO-N blocks in the initial state matrix.

        Raises:
            ValueError: unless d_state is a positive multiple of 2·blocks, of at most 1,024·blocks,
                and 0 < dt_min <= dt_max.
        """
        if blocks < 1 or d_state < 1 or d_state % (2 * blocks):
            raise ValueError(
                f"d_state, blocks: got {d_state}, {blocks}; d_state must be a positive multiple of "
                "2·blocks, since the modes come in conjugate pairs"
            )
        size = d_state // blocks
        if size > MAX_BLOCK:
            raise ValueError(
                f"d_state, blocks: got {d_state}, {blocks}; expected d_state/blocks of at most "
                f"{MAX_BLOCK:,}, whose eigenvalues are computed"
            )
        spectrum, vectors = hippo_n_diagonal(size)
        modes = d_state // 2
        self.a_log = jnp.log(-jnp.tile(jnp.asarray(spectrum.real, jnp.float32), blocks))
        self.a_imag = jnp.tile(jnp.asarray(spectrum.imag, jnp.float32), blocks)
        v = jnp.stack([jnp.asarray(vectors.real), jnp.asarray(vectors.imag)], -1).astype(
            jnp.float32
        )
        b0 = jr.normal(named_key(key, "b"), (blocks, size, d_model)) / d_model**0.5
        c0 = jr.normal(named_key(key, "c"), (d_model, blocks, size)) / d_state**0.5
        sign = jnp.asarray([1.0, -1.0])  # V* is the conjugate transpose
        self.b = jnp.einsum("smr,ksd->kmdr", v * sign[None, None], b0).reshape(modes, d_model, 2)
        self.c = jnp.einsum("dks,smr->dkmr", c0, v).reshape(d_model, modes, 2)
        self.d = jr.normal(named_key(key, "d"), (d_model,))
        self.log_dt = log_uniform(named_key(key, "log_dt"), (modes,), dt_min, dt_max)

    def discrete(
        self,
    ) -> tuple[
        Complex[Array, "modes"], Complex[Array, "modes d_model"], Complex[Array, "d_model modes"]
    ]:
        """(Ā, B̄, C) of the recurrence h ← Ā h + B̄ x, y = 2 Re(C h)."""
        a = jax.lax.complex(-jnp.exp(self.a_log), self.a_imag)
        a_bar, b_scale = zero_order_hold(a, jnp.exp(self.log_dt))
        b_bar = b_scale[:, None] * jax.lax.complex(self.b[..., 0], self.b[..., 1])
        return a_bar, b_bar, jax.lax.complex(self.c[..., 0], self.c[..., 1])

    def __call__(
        self, x: Float[Array, "length d_model"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        a_bar, b_bar, c = self.discrete()
        drive = x.astype(b_bar.dtype) @ b_bar.T
        states = recurrence.associative(
            jnp.broadcast_to(a_bar, drive.shape), drive, jnp.zeros_like(a_bar)
        )
        return 2 * (states @ c.T).real + self.d[None] * x

    def init_state(self, length: int) -> Complex[Array, "modes"]:
        return jnp.zeros_like(jax.lax.complex(self.a_log, self.a_imag))

    def step(
        self, state: Complex[Array, "modes"], x: Float[Array, "d_model"]
    ) -> tuple[Complex[Array, "modes"], Float[Array, "d_model"]]:
        a_bar, b_bar, c = self.discrete()
        state = a_bar * state + b_bar @ x.astype(b_bar.dtype)
        return state, 2 * (c @ state).real + self.d * x
