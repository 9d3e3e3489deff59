"""S4 with a diagonal state matrix (S4D-Lin): a linear time-invariant mixer."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ssm.init import complex_xavier_normal, log_uniform, named_key
from ssm.mixers.base import AbstractStreamingMixer, check_size

FFT_LENGTH = 256
"""From this length on, the convolution is done by FFT rather than as a Toeplitz product."""


class S4(AbstractStreamingMixer):
    """y = 2 Re(C h) + D x with h_t = exp(ΔA) h_{t−1} + Δ B x_t, for each channel on its own.

    A = −exp(a_log) + i a_imag per channel and state, initially −½ + iπ(1 … d_state) (S4D-Lin);
    B, C complex Xavier-normal; D = 1; log Δ per channel, Δ log-uniform in [dt_min, dt_max]. Complex
    parameters are kept as real and imaginary parts, so that Adam scales each on its own, as PyTorch
    does. In parallel the layer is a causal convolution with K_l = 2 Re Σ_n C_n ΔB_n exp(lΔA_n).

    As a linear CDE: ω = t, ξ = ∫ X ds. Source: Gu et al., 2022 (S4D); Cirone et al., 2024, §5.

    Attributes:
        softplus_dt: the official code of the paper passes exp(log Δ) through a softplus again, so
            that its effective Δ is softplus(exp(log Δ)) ≈ 0.69 … 0.74; True reproduces that.
    """

    a_log: Float[Array, "d_model d_state"]
    a_imag: Float[Array, "d_model d_state"]
    b: Float[Array, "d_model d_state 2"]
    c: Float[Array, "d_model d_state 2"]
    d: Float[Array, "d_model"]
    log_dt: Float[Array, "d_model"]
    softplus_dt: bool = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        softplus_dt: bool = False,
        key: PRNGKeyArray,
    ):
        """An S4D-Lin layer of `d_model` channels with `d_state` complex modes each.

        Raises:
            ValueError: for d_state out of range, or unless 0 < dt_min <= dt_max.
        """
        check_size("d_state", d_state)
        shape = (d_model, d_state)
        self.a_log = jnp.full(shape, math.log(0.5))
        self.a_imag = jnp.broadcast_to(math.pi * jnp.arange(1.0, d_state + 1), shape)
        self.b = complex_xavier_normal(named_key(key, "b"), shape)
        self.c = complex_xavier_normal(named_key(key, "c"), shape)
        self.d = jnp.ones(d_model)
        self.log_dt = log_uniform(named_key(key, "log_dt"), (d_model,), dt_min, dt_max)
        self.softplus_dt = softplus_dt

    def discrete(
        self,
    ) -> tuple[
        Complex[Array, "d_model d_state"],
        Complex[Array, "d_model d_state"],
        Complex[Array, "d_model d_state"],
    ]:
        """(log Ā, B̄, C) of the recurrence h ← Ā h + B̄ x, y = 2 Re(C h)."""
        dt = jnp.exp(self.log_dt)
        if self.softplus_dt:
            dt = jax.nn.softplus(dt)
        dt = dt[:, None]
        log_a_bar = jax.lax.complex(-jnp.exp(self.a_log) * dt, self.a_imag * dt)
        b = jax.lax.complex(self.b[..., 0] * dt, self.b[..., 1] * dt)
        return log_a_bar, b, jax.lax.complex(self.c[..., 0], self.c[..., 1])

    def kernel(self, length: int) -> Float[Array, "length d_model"]:
        """K_l for l = 0 … length − 1."""
        log_a_bar, b, c = self.discrete()
        steps = jnp.arange(length, dtype=log_a_bar.real.dtype)[:, None, None]
        powers = jnp.exp(
            jax.lax.complex(steps * log_a_bar.real[None], steps * log_a_bar.imag[None])
        )
        return 2 * jnp.einsum("ldn,dn->ld", powers, b * c).real

    def __call__(
        self, x: Float[Array, "length d_model"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        kernel = self.kernel(x.shape[0])
        convolve = causal_toeplitz if x.shape[0] < FFT_LENGTH else causal_fft
        return convolve(kernel, x) + self.d[None] * x

    def init_state(self, length: int) -> Complex[Array, "d_model d_state"]:
        return jnp.zeros_like(jax.lax.complex(self.a_log, self.a_imag))

    def step(
        self, state: Complex[Array, "d_model d_state"], x: Float[Array, "d_model"]
    ) -> tuple[Complex[Array, "d_model d_state"], Float[Array, "d_model"]]:
        log_a_bar, b, c = self.discrete()
        state = jnp.exp(log_a_bar) * state + b * x[:, None].astype(state.dtype)
        return state, 2 * jnp.sum(c * state, axis=-1).real + self.d * x


def causal_toeplitz(
    kernel: Float[Array, "length d_model"], x: Float[Array, "length d_model"]
) -> Float[Array, "length d_model"]:
    """y_t = Σ_{s ≤ t} K_{t−s} x_s per channel, as one Toeplitz matrix a channel: exactly causal."""
    length = x.shape[0]
    lag = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    matrix = jnp.where((lag >= 0)[..., None], kernel[jnp.maximum(lag, 0)], 0)
    return jnp.einsum("tsd,sd->td", matrix, x)


def causal_fft(
    kernel: Float[Array, "length d_model"], x: Float[Array, "length d_model"]
) -> Float[Array, "length d_model"]:
    """`causal_toeplitz` by a zero-padded FFT: O(length log length), causal to rounding."""
    length = x.shape[0]
    n = 2 * length
    product = jnp.fft.rfft(kernel, n, axis=0) * jnp.fft.rfft(x, n, axis=0)
    return jnp.fft.irfft(product, n, axis=0)[:length]
