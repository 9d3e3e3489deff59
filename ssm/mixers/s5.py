"""S5: one multi-input, multi-output linear time-invariant state-space model in a layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ssm.discretise import zero_order_hold
from ssm.init import hippo_n_diagonal, log_uniform, named_key
from ssm.mixers.base import AbstractRecurrentMixer
from ssm.precision import at_least_float32
from ssm.recurrence import Recurrence
from ssm.scans import check_form
from ssm.transition import Constant, Diagonal

MAX_BLOCK = 1_024
"""The largest HiPPO-N block: its spectrum is computed when a layer is built."""


class S5(AbstractRecurrentMixer):
    """y = 2 Re(C h) + D x with h_t = exp(ΛΔ) h_{t−1} + Λ⁻¹(exp(ΛΔ) − 1) B x_t.

    Λ is diagonal, complex, with one half of `blocks` copies of the HiPPO-N spectrum, each of size
    d_state/blocks; the other half are the conjugates, which 2 Re accounts for. Its real and
    imaginary parts are parameters. In the eigenbasis V, B = V* B₀ and C = C₀ V, with B₀ real of
    variance 1/d_state and C₀ complex with E|C₀|² = 2/d_state, truncated normal; D ~ N(0, 1); Δ per
    mode, log-uniform in [dt_min, dt_max].

    As a linear CDE: ω = t, ξ = ∫ X ds. Source: Smith et al., 2023, *Simplified State Space Layers*,
    and its code (lindermanlab/S5), with C_init = "trunc_standard_normal".

    Attributes:
        a_real, a_imag: Re Λ (or log(−Re Λ) if log_real), and Im Λ.
        log_real: whether Re Λ = −exp(a_real), so that it stays negative; not in the source.
        form: the scan, see `ssm.scans`.
    """

    a_real: Float[Array, "modes"]
    a_imag: Float[Array, "modes"]
    b: Float[Array, "modes d_model 2"]
    c: Float[Array, "d_model modes 2"]
    d: Float[Array, "d_model"]
    log_dt: Float[Array, "modes"]
    log_real: bool = eqx.field(static=True)
    form: str = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        log_real: bool = False,
        real_normal: bool = False,
        form: str = "auto",
        key: PRNGKeyArray,
    ):
        """An S5 layer.

        Arguments:
            d_state: size of the real state, that is twice the number of complex modes.
            blocks: HiPPO-N blocks in the initial state matrix.
            log_real: parametrise Re Λ by its logarithm.
            real_normal: draw B₀ real normal of variance 1/d_model, C₀ real normal of 1/d_state, as
                the kept results of the small study had it; not in the source.

        Raises:
            ValueError: unless d_state is a positive multiple of 2·blocks, of at most 1,024·blocks,
                and 0 < dt_min <= dt_max, and for an unknown form.
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
        check_form(form)
        spectrum, vectors = hippo_n_diagonal(size)
        modes = d_state // 2
        real = jnp.tile(jnp.asarray(spectrum.real, float), blocks)
        self.a_real = jnp.log(-real) if log_real else real
        self.a_imag = jnp.tile(jnp.asarray(spectrum.imag, float), blocks)
        v = jnp.asarray(np.stack([vectors.real, vectors.imag], -1), float)
        b0, c0 = (_real_normal if real_normal else _of_source)(key, d_model, blocks, size)
        conjugate = (
            v * jnp.asarray([1.0, -1.0], v.dtype)[None, None]
        )  # V* is V's conjugate transpose
        self.b = jnp.einsum("smr,ksd->kmdr", conjugate, b0).reshape(modes, d_model, 2)
        if c0.ndim == 3:
            c = jnp.einsum("dks,smr->dkmr", c0, v)
        else:  # (p + iq)(v + iw) = (pv − qw) + i(pw + qv)
            p, q = c0[..., 0], c0[..., 1]
            turned = jnp.stack([-v[..., 1], v[..., 0]], -1)
            c = jnp.einsum("dks,smr->dkmr", p, v) + jnp.einsum("dks,smr->dkmr", q, turned)
        self.c = c.reshape(d_model, modes, 2)
        self.d = jr.normal(named_key(key, "d"), (d_model,))
        self.log_dt = log_uniform(named_key(key, "log_dt"), (modes,), dt_min, dt_max)
        self.log_real = log_real
        self.form = form

    def rates(self) -> Complex[Array, "modes"]:
        """Λ."""
        real, imag = at_least_float32(self.a_real), at_least_float32(self.a_imag)
        return jax.lax.complex(-jnp.exp(real) if self.log_real else real, imag)

    def element(self, x: Float[Array, "d_model"], dt: Float[Array, ""] | None) -> Recurrence:
        b, delta, x = (
            at_least_float32(self.b),
            jnp.exp(at_least_float32(self.log_dt)),
            at_least_float32(x),
        )
        delta = delta if dt is None else delta * dt.astype(delta.dtype)
        a_bar, scale = zero_order_hold(self.rates(), delta)
        driven = jnp.concatenate([b[..., 0], b[..., 1]]) @ x  # one product, not two
        key = scale * jax.lax.complex(*jnp.split(driven, 2))
        return Recurrence(Constant(Diagonal(a_bar)) if dt is None else Diagonal(a_bar), key)

    def start(self) -> Complex[Array, "modes"]:
        return jnp.zeros_like(self.rates())

    def output(
        self, x: Float[Array, "d_model"], y: Complex[Array, "modes"]
    ) -> Float[Array, "d_model"]:
        c = at_least_float32(self.c)
        read = jnp.concatenate([c[..., 0], -c[..., 1]], 1) @ jnp.concatenate([y.real, y.imag])
        return (2 * read).astype(x.dtype) + self.d * x


def _of_source(key, d_model, blocks, size):
    """B₀ (blocks, size, d_model) real and C₀ (d_model, blocks, size, 2), of the source's code."""
    draw = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-2)
    b0 = draw(named_key(key, "b"), (blocks * size, d_model))
    c0 = draw(named_key(key, "c"), (blocks * size, 2 * d_model))
    c0 = jnp.moveaxis(c0.reshape(blocks, size, d_model, 2), 2, 0)
    return b0.reshape(blocks, size, d_model), c0


def _real_normal(key, d_model, blocks, size):
    """Real matrices, of variances 1/d_model and 1/d_state."""
    b0 = jr.normal(named_key(key, "b"), (blocks, size, d_model)) / d_model**0.5
    c0 = jr.normal(named_key(key, "c"), (d_model, blocks, size)) / (blocks * size) ** 0.5
    return b0, c0
