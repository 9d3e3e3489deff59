"""S4 with a diagonal state matrix (S4D-Lin): a linear time-invariant mixer."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ssm.discretise import exponential_euler
from ssm.init import complex_xavier_normal, log_uniform, named_key
from ssm.mixers.base import AbstractRecurrentMixer, check_size
from ssm.precision import as_complex, at_least_float32
from ssm.recurrence import Heads, Recurrence
from ssm.scans import check_form
from ssm.transition import Constant, Decay, Diagonal


class S4(AbstractRecurrentMixer):
    """y = 2 Re(C h) + D x with h_t = exp(ΔA) h_{t−1} + Δ B x_t, for each channel on its own.

    A = −exp(a_log) + i a_imag per channel and state, initially −½ + iπ(1 … d_state) (S4D-Lin);
    B, C complex Xavier-normal; D = 1; log Δ per channel, Δ log-uniform in [dt_min, dt_max]. Complex
    parameters are kept as real and imaginary parts, so that Adam scales each on its own, as PyTorch
    does. A whole sequence is a causal convolution with K_l = 2 Re Σ_n C_n ΔB_n exp(lΔA_n).

    As a linear CDE: ω = t, ξ = ∫ X ds. Source: Gu et al., 2022 (S4D); Cirone et al., 2024, §5.

    Attributes:
        softplus_dt: the official code of the paper passes exp(log Δ) through a softplus again, so
            that its effective Δ is softplus(exp(log Δ)) ≈ 0.69 … 0.74; True reproduces that.
        form: the scan, see `ssm.scans`.
    """

    a_log: Float[Array, "d_model d_state"]
    a_imag: Float[Array, "d_model d_state"]
    b: Float[Array, "d_model d_state 2"]
    c: Float[Array, "d_model d_state 2"]
    d: Float[Array, "d_model"]
    log_dt: Float[Array, "d_model"]
    softplus_dt: bool = eqx.field(static=True)
    form: str = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        softplus_dt: bool = False,
        form: str = "auto",
        key: PRNGKeyArray,
    ):
        """An S4D-Lin layer of `d_model` channels with `d_state` complex modes each.

        Raises:
            ValueError: for d_state out of range, unless 0 < dt_min <= dt_max, or for an unknown
                form.
        """
        check_size("d_state", d_state)
        check_form(form)
        shape = (d_model, d_state)
        self.a_log = jnp.full(shape, math.log(0.5), float)
        self.a_imag = jnp.broadcast_to(math.pi * jnp.arange(1.0, d_state + 1, dtype=float), shape)
        self.b = complex_xavier_normal(named_key(key, "b"), shape)
        self.c = complex_xavier_normal(named_key(key, "c"), shape)
        self.d = jnp.ones(d_model, float)
        self.log_dt = log_uniform(named_key(key, "log_dt"), (d_model,), dt_min, dt_max)
        self.softplus_dt = softplus_dt
        self.form = form

    def step_size(self) -> Float[Array, "d_model"]:
        """Δ."""
        dt = jnp.exp(at_least_float32(self.log_dt))
        return jax.nn.softplus(dt) if self.softplus_dt else dt

    def rates(self) -> Complex[Array, "d_model d_state"]:
        """A."""
        a_log, a_imag = at_least_float32(self.a_log), at_least_float32(self.a_imag)
        return jax.lax.complex(-jnp.exp(a_log), a_imag)

    def element(self, x: Float[Array, "d_model"], dt: Float[Array, ""] | None) -> Heads:
        delta, rates, x = self.step_size(), self.rates(), at_least_float32(x)
        key, query = (
            as_complex(delta[:, None, None] * at_least_float32(self.b)),
            as_complex(2 * self.c),
        )
        transition: Any
        if dt is None:
            transition = Constant(Diagonal(exponential_euler(rates, delta[:, None])[0]))
        else:
            dt = dt.astype(delta.dtype)
            transition, x = Decay(delta * dt, Constant(rates)), dt * x
        return Heads(Recurrence(transition, Constant(key), x, Constant(query), real=True))

    def start(self) -> Complex[Array, "d_model d_state"]:
        return jnp.zeros_like(self.rates())

    def output(
        self, x: Float[Array, "d_model"], y: Float[Array, "d_model"]
    ) -> Float[Array, "d_model"]:
        return y.astype(x.dtype) + self.d * x
