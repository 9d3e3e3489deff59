"""The Elman recurrent network: the nonlinear recurrence the linear ones are compared with."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssm.control import Embedded, values
from ssm.init import fan_in_uniform, named_key
from ssm.mixers.base import AbstractMixer, Dt, no_dt


class RNN(AbstractMixer):
    """h_t = tanh(W x_t + b + U h_{t−1} + c), h_0 = 0; the output is h_t.

    All entries are U(±1/√d_model). The two biases, b and c, are PyTorch's: redundant in value, but
    an optimiser that scales each entry moves their sum at twice the rate. Source: Elman, 1990.
    """

    input_weight: Float[Array, "d_model d_model"]
    state_weight: Float[Array, "d_model d_model"]
    input_bias: Float[Array, "d_model"]
    state_bias: Float[Array, "d_model"]

    def __init__(self, d_model: int, *, key: PRNGKeyArray):
        """An Elman layer of width d_model."""

        def draw(name, *shape):
            return fan_in_uniform(named_key(key, name), shape, d_model)

        self.input_weight = draw("input_weight", d_model, d_model)
        self.state_weight = draw("state_weight", d_model, d_model)
        self.input_bias = draw("input_bias", d_model)
        self.state_bias = draw("state_bias", d_model)

    def __call__(
        self,
        x: Float[Array, "length d_model"] | Embedded,
        state: Float[Array, "d_model"] | None = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], Float[Array, "d_model"]]:
        no_dt(self, dt)
        driven = values(x) @ self.input_weight.T + self.input_bias[None]

        def step(h, driven_t):
            h = jnp.tanh(driven_t + self.state_weight @ h + self.state_bias)
            return h, h

        last, y = jax.lax.scan(step, self.init() if state is None else state, driven)
        return y, last

    def init(self, length: int | None = None) -> Float[Array, "d_model"]:
        return jnp.zeros_like(self.state_bias)
