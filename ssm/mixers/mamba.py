"""Mamba: the selective state-space model S6, bare as the paper uses it or in its full block."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ssm.control import Embedded, values
from ssm.init import fan_in_uniform, inverse_softplus, linear, log_uniform, named_key
from ssm.mixers.base import AbstractMixer, AbstractRecurrentMixer, Dt, check_size
from ssm.mixers.short_convolution import MAX_TAPS, ShortConvolution
from ssm.recurrence import Recurrence
from ssm.scans import check_form
from ssm.transition import Constant, Decay

DT_FLOOR = 1e-4
"""The smallest initial Δ."""
MAX_EXPAND = 64
"""Of the full block's inner width."""


class S6(AbstractRecurrentMixer):
    """h_t = exp(Δ_t A) ⊙ h_{t−1} + B_t (Δ_t x_t)ᵀ, y_t = C_t h_t + D x_t: the selective scan.

    (δ, B, C) = W_x x and Δ = softplus(W_Δ δ + b_Δ), at each position; h is (d_state, d_model).

    A = −exp(a_log), initially −(1 … d_state) in each channel; D = 1; W_x has no bias; W_Δ entries
    U(±dt_rank^−½); b_Δ such that softplus(b_Δ) is log-uniform in [dt_min, dt_max], at least 1e-4.

    As a linear CDE: ω = ∫ Δ(X) ds and ξ = ∫ X ⊙ Δ(X) ds per channel, A diagonal, B and C functions
    of X. Source: Gu and Dao, 2023, §3; the layer of Cirone et al., 2024, §5.

    Attributes:
        form: the scan, see `ssm.scans`; those that "auto" chooses have derivatives by reverse mode,
            "chunked" and "sequential" by forward mode too.
    """

    x_proj: eqx.nn.Linear
    dt_proj: eqx.nn.Linear
    a_log: Float[Array, "d_model d_state"]
    d: Float[Array, "d_model"]
    form: str = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        form: str = "auto",
        key: PRNGKeyArray,
    ):
        """A selective layer; dt_rank is ⌈d_model/16⌉ by default.

        Raises:
            ValueError: for d_state or dt_rank out of range, unless 0 < dt_min <= dt_max, or for an
                unknown form.
        """
        check_form(form)
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        check_size("d_state", d_state)
        check_size("dt_rank", dt_rank)
        self.x_proj = linear(
            d_model, dt_rank + 2 * d_state, use_bias=False, key=named_key(key, "x_proj")
        )
        dt_weight = fan_in_uniform(named_key(key, "dt_weight"), (d_model, dt_rank), dt_rank)
        log_dt = log_uniform(named_key(key, "dt_bias"), (d_model,), dt_min, dt_max)
        dt_bias = inverse_softplus(jnp.maximum(jnp.exp(log_dt), DT_FLOOR))
        dt_proj = linear(dt_rank, d_model, key=key)
        self.dt_proj = eqx.tree_at(lambda m: (m.weight, m.bias), dt_proj, (dt_weight, dt_bias))
        rates = jnp.arange(1.0, d_state + 1, dtype=float)
        self.a_log = jnp.broadcast_to(jnp.log(rates), (d_model, d_state))
        self.d = jnp.ones(d_model, float)
        self.form = form

    def select(
        self, x: Float[Array, "d_model"]
    ) -> tuple[Float[Array, "d_model"], Float[Array, "d_state"], Float[Array, "d_state"]]:
        """(Δ, B, C) of one position."""
        rank, d_state = self.dt_proj.weight.shape[1], self.a_log.shape[1]
        dt, b, c = jnp.split(self.x_proj(x), [rank, rank + d_state])
        return jax.nn.softplus(self.dt_proj(dt)), b, c

    def element(self, x: Float[Array, "d_model"], dt: Float[Array, ""] | None) -> Recurrence:
        delta, b, c = self.select(x)
        delta = delta if dt is None else delta * dt.astype(delta.dtype)
        rate = Constant(-jnp.exp(self.a_log).T)
        return Recurrence(Decay(delta, rate), key=b, value=delta * x, query=c)

    def start(self) -> Float[Array, "d_state d_model"]:
        return jnp.zeros_like(self.a_log.T)

    def output(
        self, x: Float[Array, "d_model"], y: Float[Array, "d_model"]
    ) -> Float[Array, "d_model"]:
        return y + self.d * x


class Mamba(AbstractMixer):
    """The S6 core, or the full Mamba block around it.

    - `variant="core"`: y = S6(x), the layer of the paper's experiments.
    - `variant="full"`: (u, g) = W_in x, each of width expand·d_model; u ← SiLU(causal depthwise
      convolution of u, `d_conv` taps); y = W_out (S6(u) ⊙ SiLU(g)). Source: Gu and Dao, 2023, §3.4.
    """

    core: S6
    frame: "_Frame | None"

    def __init__(
        self,
        d_model: int,
        *,
        variant: Literal["core", "full"] = "core",
        d_state: int = 16,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        expand: int = 2,
        d_conv: int = 4,
        form: str = "auto",
        key: PRNGKeyArray,
    ):
        """A Mamba layer; `expand` and `d_conv` are used by the full block only.

        Raises:
            ValueError: for an unknown variant, or sizes or a form out of range (see `S6`).
        """
        if variant not in ("core", "full"):
            raise ValueError(f"variant: got {variant!r}; expected 'core' or 'full'")
        width, self.frame = d_model, None
        if variant == "full":
            check_size("expand", expand, MAX_EXPAND)
            check_size("d_conv", d_conv, MAX_TAPS)
            width = expand * d_model
            dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
            self.frame = _Frame(d_model, width, d_conv, key=named_key(key, "frame"))
        self.core = S6(
            width,
            d_state=d_state,
            dt_rank=dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
            form=form,
            key=named_key(key, "core"),
        )

    def __call__(
        self,
        x: Float[Array, "length d_model"] | Embedded,
        state: PyTree = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], PyTree]:
        if self.frame is None:
            return self.core(x, state, dt=dt)
        window, h = (None, None) if state is None else state
        u, gate = jnp.split(jax.vmap(self.frame.in_proj)(values(x)), 2, axis=-1)
        u, window = self.frame.convolution(u, window)
        y, h = self.core(jax.nn.silu(u), h, dt=dt)
        return jax.vmap(self.frame.out_proj)(y * jax.nn.silu(gate)), (window, h)

    def init(self, length: int | None = None) -> PyTree:
        core = self.core.init(length)
        return core if self.frame is None else (self.frame.convolution.init(length), core)


class _Frame(eqx.Module):
    """What the full block puts around the core: projections in and out, and a convolution."""

    in_proj: eqx.nn.Linear
    convolution: ShortConvolution
    out_proj: eqx.nn.Linear

    def __init__(self, d_model: int, width: int, d_conv: int, *, key: PRNGKeyArray):
        in_key, out_key = named_key(key, "in_proj"), named_key(key, "out_proj")
        self.in_proj = linear(d_model, 2 * width, use_bias=False, key=in_key)
        self.convolution = ShortConvolution(width, taps=d_conv, key=key)
        self.out_proj = linear(width, d_model, use_bias=False, key=out_key)
