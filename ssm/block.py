"""The block of every sequence model here: a mixer, and what surrounds it."""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssm.init import linear, named_key
from ssm.mixers.base import AbstractMixer, AbstractTokenMixer
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
    steps are absent: the paper's A5 models have both, its signature models neither. A bare block is
    its mixer alone.

    Source: Cirone et al., 2024, §5 and the official code.
    """

    mixer: AbstractMixer
    mix: eqx.nn.Linear | Bfloat16Linear | None
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
        bare: bool = False,
        key: PRNGKeyArray,
    ):
        """A block around `mixer`.

        Raises:
            ValueError: for an unknown activation, dropout outside [0, 1), or a bare block with an
                activation, dropout or norm.
        """
        if activation not in get_args(Activation):
            raise ValueError(
                f"activation: got {activation!r}; expected one of {list(get_args(Activation))}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}; expected a number in [0, 1)")
        if bare and (activation != "identity" or dropout or norm):
            raise ValueError(
                f"bare: got True with activation {activation!r}, dropout {dropout}, norm {norm}; a "
                "bare block is its mixer alone, with 'identity', 0 and False"
            )
        width = 2 * d_model if activation == "glu" else d_model
        self.mixer = mixer
        self.mix = None if bare else linear(d_model, width, key=named_key(key, "mix"))
        self.norm = eqx.nn.LayerNorm(d_model) if norm else None
        self.dropout = eqx.nn.Dropout(dropout)
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "length d_input"],
        *,
        key: PRNGKeyArray | None = None,
        table: Float[Array, "vocabulary d_input"] | None = None,
        tokens: Int[Array, "length"] | None = None,
    ) -> Float[Array, "length d_model"]:
        """The block applied to one sequence.

        Arguments:
            x: the sequence.
            key: for dropout.
            table, tokens: if x is table[tokens], a mixer may be told so.
        """
        k1, k2, k3 = (None,) * 3 if key is None else jr.split(key, 3)
        if table is not None and tokens is not None and isinstance(self.mixer, AbstractTokenMixer):
            y = self.mixer.of_tokens(table, tokens)
        else:
            y = self.mixer(x, key=key if self.mix is None else k1)
        if self.mix is None:
            return y
        y = self.dropout(y, key=k2)
        y = ACTIVATIONS[self.activation](jax.vmap(self.mix)(y))
        y = x + self.dropout(y, key=k3)
        return y if self.norm is None else jax.vmap(self.norm)(y)
