"""The Transformer encoder layer, causal and post-norm, as PyTorch has it."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ssm.init import fan_in_uniform, linear, named_key, xavier_uniform
from ssm.mixers.base import AbstractMixer, check_size


class TransformerLayer(AbstractMixer):
    """x ← norm(x + dropout(attention(x))), then x ← norm(x + dropout(W₂ dropout(relu(W₁ x)))).

    Attention is multi-head with a causal mask and dropout on its weights. Initial projections of
    queries, keys and values are Xavier-uniform as one (3·d_model, d_model) matrix, the output
    projection U(±1/√d_model), and the attention's biases zero, as in PyTorch's
    `TransformerEncoderLayer`. Source: Vaswani et al., 2017.
    """

    attention: eqx.nn.MultiheadAttention
    attention_norm: eqx.nn.LayerNorm
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear
    feedforward_norm: eqx.nn.LayerNorm
    dropout: eqx.nn.Dropout

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 8,
        d_feedforward: int = 2048,
        dropout: float = 0.1,
        key: PRNGKeyArray,
    ):
        """An encoder layer.

        Raises:
            ValueError: if num_heads does not divide d_model, d_feedforward is out of range, or
                dropout is outside [0, 1).
        """
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(
                f"num_heads: got {num_heads}; expected a divisor of d_model = {d_model}"
            )
        check_size("d_feedforward", d_feedforward)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}; expected a number in [0, 1)")
        attention = eqx.nn.MultiheadAttention(
            num_heads,
            d_model,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            dropout_p=dropout,
            key=key,
        )
        shape = (d_model, d_model)

        def projections(m: eqx.nn.MultiheadAttention) -> list[eqx.nn.Linear]:
            return [m.query_proj, m.key_proj, m.value_proj, m.output_proj]

        weights = [
            xavier_uniform(named_key(key, name), shape, fan_sum=4 * d_model)
            for name in ("query", "key", "value")
        ] + [fan_in_uniform(named_key(key, "output"), shape, d_model)]
        attention = eqx.tree_at(lambda m: [p.weight for p in projections(m)], attention, weights)
        self.attention = eqx.tree_at(
            lambda m: [p.bias for p in projections(m)], attention, [jnp.zeros(d_model)] * 4
        )
        self.attention_norm = eqx.nn.LayerNorm(d_model)
        self.expand = linear(d_model, d_feedforward, key=named_key(key, "expand"))
        self.contract = linear(d_feedforward, d_model, key=named_key(key, "contract"))
        self.feedforward_norm = eqx.nn.LayerNorm(d_model)
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self, x: Float[Array, "length d_model"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        k1, k2, k3, k4 = (None,) * 4 if key is None else jr.split(key, 4)
        length = x.shape[0]
        mask = jnp.tril(jnp.ones((length, length), bool))
        attended = self.attention(x, x, x, mask=mask, key=k1)
        x = jax.vmap(self.attention_norm)(x + self.dropout(attended, key=k2))
        hidden = self.dropout(jax.nn.relu(jax.vmap(self.expand)(x)), key=k3)
        hidden = self.dropout(jax.vmap(self.contract)(hidden), key=k4)
        return jax.vmap(self.feedforward_norm)(x + hidden)


def sinusoidal_positions(length: int, d_model: int) -> Float[Array, "length d_model"]:
    """P_{t,2i} = sin(t·10000^{−2i/d_model}), P_{t,2i+1} = cos(the same) (Vaswani et al., 2017).

    Raises:
        ValueError: if d_model is odd: sines and cosines come in pairs.
    """
    if d_model % 2:
        raise ValueError(f"d_model: got {d_model}; sinusoidal positions need an even width")
    frequency = jnp.exp(jnp.arange(0.0, d_model, 2.0) * (-math.log(10000.0) / d_model))
    angle = jnp.arange(float(length))[:, None] * frequency[None, :]
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(length, d_model)
