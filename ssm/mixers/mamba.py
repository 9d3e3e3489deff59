"""Mamba: the selective state-space model S6, bare as the paper uses it or in its full block."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssm.init import fan_in_uniform, inverse_softplus, linear, log_uniform, named_key
from ssm.mixers.base import AbstractStreamingMixer, check_size
from ssm.selective_scan import selective_scan, selective_scan_step

DT_FLOOR = 1e-4
"""The smallest initial Δ."""
MAX_FACTOR = 64
"""Of `expand`, and of the taps of the convolution, which are added one by one."""


class S6(AbstractStreamingMixer):
    """y = selective_scan(x, Δ, A, B, C, D) with (δ, B, C) = W_x x and Δ = softplus(W_Δ δ + b_Δ).

    A = −exp(a_log), initially −(1 … d_state) in each channel; D = 1; W_x has no bias; W_Δ entries
    U(±dt_rank^−½); b_Δ such that softplus(b_Δ) is log-uniform in [dt_min, dt_max], at least 1e-4.

    As a linear CDE: ω = ∫ Δ(X) ds and ξ = ∫ X ⊙ Δ(X) ds per channel, A diagonal, B and C functions
    of X. Source: Gu and Dao, 2023, §3; the layer of Cirone et al., 2024, §5.
    """

    x_proj: eqx.nn.Linear
    dt_proj: eqx.nn.Linear
    a_log: Float[Array, "d_model d_state"]
    d: Float[Array, "d_model"]

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        key: PRNGKeyArray,
    ):
        """A selective layer; dt_rank is ⌈d_model/16⌉ by default.

        Raises:
            ValueError: for d_state or dt_rank out of range, or unless 0 < dt_min <= dt_max.
        """
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
        self.a_log = jnp.broadcast_to(jnp.log(jnp.arange(1.0, d_state + 1)), (d_model, d_state))
        self.d = jnp.ones(d_model)

    def select(
        self, x: Float[Array, "d_model"]
    ) -> tuple[Float[Array, "d_model"], Float[Array, "d_state"], Float[Array, "d_state"]]:
        """(Δ, B, C) of one position."""
        rank, d_state = self.dt_proj.weight.shape[1], self.a_log.shape[1]
        dt, b, c = jnp.split(self.x_proj(x), [rank, rank + d_state])
        return jax.nn.softplus(self.dt_proj(dt)), b, c

    def __call__(
        self, x: Float[Array, "length d_model"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        delta, b, c = jax.vmap(self.select)(x)
        return selective_scan(x, delta, -jnp.exp(self.a_log), b, c, self.d)

    def init_state(self, length: int) -> Float[Array, "d_model d_state"]:
        return jnp.zeros_like(self.a_log)

    def step(
        self, state: Float[Array, "d_model d_state"], x: Float[Array, "d_model"]
    ) -> tuple[Float[Array, "d_model d_state"], Float[Array, "d_model"]]:
        delta, b, c = self.select(x)
        return selective_scan_step(state, x, delta, -jnp.exp(self.a_log), b, c, self.d)


class Mamba(AbstractStreamingMixer):
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
        key: PRNGKeyArray,
    ):
        """A Mamba layer; `expand` and `d_conv` are used by the full block only.

        Raises:
            ValueError: for an unknown variant, or sizes out of range (see `S6`).
        """
        if variant not in ("core", "full"):
            raise ValueError(f"variant: got {variant!r}; expected 'core' or 'full'")
        width, self.frame = d_model, None
        if variant == "full":
            check_size("expand", expand, MAX_FACTOR)
            check_size("d_conv", d_conv, MAX_FACTOR)
            width = expand * d_model
            dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
            self.frame = _Frame(d_model, width, d_conv, key=named_key(key, "frame"))
        self.core = S6(
            width,
            d_state=d_state,
            dt_rank=dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
            key=named_key(key, "core"),
        )

    def __call__(
        self, x: Float[Array, "length d_model"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        if self.frame is None:
            return self.core(x)
        u, gate = self.frame.enter(x)
        return self.frame.leave(self.core(jax.nn.silu(self.frame.convolve(u))), gate)

    def init_state(
        self, length: int
    ) -> tuple[Float[Array, "d_inner d_state"], Float[Array, "d_conv d_inner"] | None]:
        """The core's state, and the last d_conv inputs of the convolution."""
        window = None if self.frame is None else jnp.zeros_like(self.frame.conv_weight)
        return self.core.init_state(length), window

    def step(
        self,
        state: tuple[Float[Array, "d_inner d_state"], Float[Array, "d_conv d_inner"] | None],
        x: Float[Array, "d_model"],
    ) -> tuple[
        tuple[Float[Array, "d_inner d_state"], Float[Array, "d_conv d_inner"] | None],
        Float[Array, "d_model"],
    ]:
        h, window = state
        if self.frame is None or window is None:
            h, y = self.core.step(h, x)
            return (h, None), y
        u, gate = self.frame.enter(x[None])
        window = jnp.concatenate([window[1:], u])
        h, y = self.core.step(h, jax.nn.silu(self.frame.convolve(window)[-1]))
        return (h, window), self.frame.leave(y[None], gate)[0]


class _Frame(eqx.Module):
    """What the full block puts around the core: projections in and out, convolution and gate."""

    in_proj: eqx.nn.Linear
    conv_weight: Float[Array, "d_conv d_inner"]
    conv_bias: Float[Array, "d_inner"]
    out_proj: eqx.nn.Linear

    def __init__(self, d_model: int, width: int, d_conv: int, *, key: PRNGKeyArray):
        def sub_key(name: str) -> PRNGKeyArray:
            return named_key(key, name)

        self.in_proj = linear(d_model, 2 * width, use_bias=False, key=sub_key("in_proj"))
        self.conv_weight = fan_in_uniform(sub_key("conv_weight"), (d_conv, width), d_conv)
        self.conv_bias = fan_in_uniform(sub_key("conv_bias"), (width,), d_conv)
        self.out_proj = linear(width, d_model, use_bias=False, key=sub_key("out_proj"))

    def enter(
        self, x: Float[Array, "length d_model"]
    ) -> tuple[Float[Array, "length d_inner"], Float[Array, "length d_inner"]]:
        """(u, g)."""
        u, gate = jnp.split(jax.vmap(self.in_proj)(x), 2, axis=-1)
        return u, gate

    def convolve(self, u: Float[Array, "length d_inner"]) -> Float[Array, "length d_inner"]:
        """The causal depthwise convolution."""
        length, taps = u.shape[0], self.conv_weight.shape[0]
        padded = jnp.pad(u, ((taps - 1, 0), (0, 0)))
        shifted = jnp.stack([padded[i : i + length] for i in range(taps)])
        return jnp.einsum("tld,td->ld", shifted, self.conv_weight) + self.conv_bias[None]

    def leave(
        self, y: Float[Array, "length d_inner"], gate: Float[Array, "length d_inner"]
    ) -> Float[Array, "length d_model"]:
        """W_out (y ⊙ SiLU(g))."""
        return jax.vmap(self.out_proj)(y * jax.nn.silu(gate))
