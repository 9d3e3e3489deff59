"""A causal depthwise convolution of a few taps, as the full blocks of selective models have it."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssm.control import Embedded, values
from ssm.init import fan_in_uniform, named_key
from ssm.mixers.base import AbstractMixer, Dt, check_size, no_dt

MAX_TAPS = 64
"""Of the convolution, which are added one by one."""


class ShortConvolution(AbstractMixer):
    """y_t = Σ_τ w_τ ⊙ x_{t−taps+τ} + b, τ = 1 … taps, with zeros before the first position.

    Entries are U(±1/√taps), PyTorch's default. The state is the last taps − 1 inputs.
    """

    weight: Float[Array, "taps d_model"]
    bias: Float[Array, "d_model"]

    def __init__(self, d_model: int, *, taps: int = 4, key: PRNGKeyArray):
        """A convolution of each of `d_model` channels with its own `taps` numbers.

        Raises:
            ValueError: for taps out of range.
        """
        check_size("taps", taps, MAX_TAPS)
        self.weight = fan_in_uniform(named_key(key, "conv_weight"), (taps, d_model), taps)
        self.bias = fan_in_uniform(named_key(key, "conv_bias"), (d_model,), taps)

    def __call__(
        self,
        x: Float[Array, "length d_model"] | Embedded,
        state: Float[Array, "window d_model"] | None = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], Float[Array, "window d_model"]]:
        no_dt(self, dt)
        taps, length = len(self.weight), len(x)
        padded = jnp.concatenate([self.init() if state is None else state, values(x)])
        shifted = jnp.stack([padded[i : i + length] for i in range(taps)])
        y = jnp.einsum("tld,td->ld", shifted, self.weight) + self.bias[None]
        return y, padded[length:]

    def init(self, length: int | None = None) -> Float[Array, "window d_model"]:
        return jnp.zeros_like(self.weight[1:])
