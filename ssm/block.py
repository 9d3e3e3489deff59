"""The block of every sequence model here: a mixer, and what surrounds it."""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ssm.control import Embedded, values
from ssm.init import linear, named_key
from ssm.mixers.base import AbstractMixer, Dt
from ssm.precision import Bfloat16Linear

Activation = Literal["glu", "relu", "gelu", "identity"]


def _exact_gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _glu(x: Array) -> Array:
    """PyTorch's gated linear unit over the last axis: the first half times σ(the second)."""
    value, gate = jnp.split(x, 2, axis=-1)
    return value * jax.nn.sigmoid(gate)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "glu": _glu,
    "relu": jax.nn.relu,
    "gelu": _exact_gelu,
    "identity": lambda x: x,
}


class Block(eqx.Module):
    """x ↦ norm(x + dropout(activation(mix(dropout(mixer(x)))))), with a linear mix of channels.

    "glu" mixes to twice the width and halves it again. Without a norm, or with dropout 0, those
    steps are absent: the paper's A5 models have both, its signature models neither.

    Source: Cirone et al., 2024, §5 and the official code.
    """

    mixer: AbstractMixer
    mix: eqx.nn.Linear | Bfloat16Linear
    norm: eqx.nn.LayerNorm | None
    dropout: eqx.nn.Dropout
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        mixer: AbstractMixer,
        d_model: int,
        *,
        activation: Activation = "glu",
        dropout: float = 0.0,
        norm: bool = True,
        key: PRNGKeyArray,
    ):
        """A block around `mixer`.

        Raises:
            ValueError: for an unknown activation, or dropout outside [0, 1).
        """
        if activation not in get_args(Activation):
            raise ValueError(
                f"activation: got {activation!r}; expected one of {list(get_args(Activation))}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}; expected a number in [0, 1)")
        width = 2 * d_model if activation == "glu" else d_model
        self.mixer = mixer
        self.mix = linear(d_model, width, key=named_key(key, "mix"))
        self.norm = eqx.nn.LayerNorm(d_model) if norm else None
        self.dropout = eqx.nn.Dropout(dropout)
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "length d_model"] | Embedded,
        state: PyTree = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], PyTree]:
        """The block applied to one sequence or the next piece of one, and the mixer's state after.

        Arguments:
            x, state, dt: as of a mixer, see `ssm.mixers.base.AbstractMixer`.
            key: for dropout.
        """
        k1, k2, k3 = (None,) * 3 if key is None else jr.split(key, 3)
        y, state = self.mixer(x, state, dt=dt, key=k1)
        y = self.dropout(y, key=k2)
        y = ACTIVATIONS[self.activation](jax.vmap(self.mix)(y))
        y = values(x) + self.dropout(y, key=k3)
        return y if self.norm is None else jax.vmap(self.norm)(y), state

    def init(self, length: int | None = None) -> PyTree:
        """The state before the first position, see `ssm.mixers.base.AbstractMixer.init`."""
        return self.mixer.init(length)
