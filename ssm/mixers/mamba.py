"""Mamba: the selective state-space model S6, bare as the paper uses it or in its full block."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssm.init import fan_in_uniform, inverse_softplus, linear, log_uniform, named_key
from ssm.mixers.base import AbstractStreamingMixer
from ssm.selective_scan import selective_scan, selective_scan_step

DT_FLOOR = 1e-4
"""The smallest initial Δ."""


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
            ValueError: unless d_state >= 1, dt_rank >= 1 and 0 < dt_min <= dt_max.
        """
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        for name, value in (("d_state", d_state), ("dt_rank", dt_rank)):
            if value < 1:
                raise ValueError(f"{name}: got {value}; expected at least 1")
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

    def select(self, x: Float[Array, "d_model"]):
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
    in_proj: eqx.nn.Linear | None
    conv_weight: Float[Array, "d_conv d_inner"] | None
    conv_bias: Float[Array, "d_inner"] | None
    out_proj: eqx.nn.Linear | None

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
        full = variant == "full"
        if full and (expand < 1 or d_conv < 1):
            raise ValueError(f"expand, d_conv: got {expand}, {d_conv}; expected at least 1")
        width = expand * d_model if full else d_model
        if full and dt_rank is None:
            dt_rank = math.ceil(d_model / 16)
        self.core = S6(
            width, d_state=d_state, dt_rank=dt_rank, dt_min=dt_min, dt_max=dt_max,
            key=named_key(key, "core"),
        )
        self.in_proj = self.conv_weight = self.conv_bias = self.out_proj = None
        if full:
            k_in, k_weight, k_bias, k_out = (
                named_key(key, name) for name in ("in_proj", "conv_weight", "conv_bias", "out_proj")
            )
            self.in_proj = linear(d_model, 2 * width, use_bias=False, key=k_in)
            self.conv_weight = fan_in_uniform(k_weight, (d_conv, width), d_conv)
            self.conv_bias = fan_in_uniform(k_bias, (width,), d_conv)
            self.out_proj = linear(width, d_model, use_bias=False, key=k_out)

    def __call__(
        self, x: Float[Array, "length d_model"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        if self.in_proj is None:
            return self.core(x)
        assert self.conv_weight is not None and self.conv_bias is not None and self.out_proj
        length, taps = x.shape[0], self.conv_weight.shape[0]
        u, gate = jnp.split(jax.vmap(self.in_proj)(x), 2, axis=-1)
        padded = jnp.pad(u, ((taps - 1, 0), (0, 0)))
        conv = sum(w[None] * padded[i : i + length] for i, w in enumerate(self.conv_weight))
        y = self.core(jax.nn.silu(conv + self.conv_bias[None])) * jax.nn.silu(gate)
        return jax.vmap(self.out_proj)(y)

    def init_state(self, length: int) -> tuple[Array, Float[Array, "taps d_inner"] | None]:
        window = None if self.conv_weight is None else jnp.zeros_like(self.conv_weight)
        return self.core.init_state(length), window

    def step(self, state, x: Float[Array, "d_model"]):
        """The next state (of the core, and the last d_conv inputs of the convolution) and output."""
        h, window = state
        if self.in_proj is None:
            h, y = self.core.step(h, x)
            return (h, None), y
        assert self.conv_weight is not None and self.conv_bias is not None and self.out_proj
        u, gate = jnp.split(self.in_proj(x), 2)
        window = jnp.concatenate([window[1:], u[None]])
        conv = jnp.sum(self.conv_weight * window, axis=0) + self.conv_bias
        h, y = self.core.step(h, jax.nn.silu(conv))
        return (h, window), self.out_proj(y * jax.nn.silu(gate))
