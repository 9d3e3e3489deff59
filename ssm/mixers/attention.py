"""The Transformer encoder layer, causal and post-norm, as PyTorch has it."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssm.causal import guarded
from ssm.control import Embedded, values
from ssm.init import fan_in_uniform, linear, named_key, xavier_uniform
from ssm.mixers.base import AbstractMixer, Dt, check_size, no_dt
from ssm.precision import at_least_float32


class Cache(eqx.Module):
    """What attention has read: keys and values, zeros where nothing has been read yet."""

    keys: Float[Array, "capacity heads d_head"]
    values: Float[Array, "capacity heads d_head"]
    read: Int[Array, ""]

    def extended(
        self,
        keys: Float[Array, "length heads d_head"],
        values: Float[Array, "length heads d_head"],
    ) -> "Cache":
        """The cache after further positions; an error at run time if they do not fit."""
        capacity, length = len(self.keys), len(keys)
        too_many = (
            f"state: got room for {capacity} positions, and more were read; expected "
            "init(length=…) with the length of the whole sequence"
        )
        if length > capacity:
            raise ValueError(too_many)
        read = eqx.error_if(self.read, self.read + length > capacity, too_many)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), read, 0)
            for old, new in ((self.keys, keys), (self.values, values))
        )
        return Cache(keys, values, read + length)


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
        self,
        x: Float[Array, "length d_model"] | Embedded,
        state: Cache | None = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], Cache]:
        no_dt(self, dt)
        k1, k2, k3, k4 = (None,) * 4 if key is None else jr.split(key, 4)
        x = values(x)
        attended, state = self._attend(x, state, k1)
        x = jax.vmap(self.attention_norm)(x + self.dropout(attended, key=k2))
        hidden = self.dropout(jax.nn.relu(jax.vmap(self.expand)(x)), key=k3)
        hidden = self.dropout(jax.vmap(self.contract)(hidden), key=k4)
        return jax.vmap(self.feedforward_norm)(x + hidden), state

    def _attend(
        self, x: Float[Array, "length d_model"], state: Cache | None, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "length d_model"], Cache]:
        """Softmax attention of the new positions to all that have been read, and the cache then.

        A masked position has weight 0, and 0·NaN is NaN: what is not finite is taken out of the
        products, and put back from its position on (`ssm.causal`).
        """
        attention, length = self.attention, len(x)
        query, new_keys, new_values = (
            jax.vmap(linear)(x).reshape(
                length, attention.num_heads, x.shape[1] // attention.num_heads
            )
            for linear in (attention.query_proj, attention.key_proj, attention.value_proj)
        )
        if state is None:
            before, state = jnp.int32(0), Cache(new_keys, new_values, jnp.int32(length))
        else:
            before, state = state.read, state.extended(new_keys, new_values)
        keys, _ = guarded(state.keys)
        clean, poison = guarded(state.values)
        poison = jax.lax.dynamic_slice_in_dim(poison, before, length)
        position = before + jnp.arange(length, dtype=jnp.int32)
        mask = position[:, None] >= jnp.arange(len(keys), dtype=jnp.int32)[None]
        scores = jnp.einsum("shd,Shd->hsS", query / math.sqrt(query.shape[-1]), keys)
        scores = jnp.where(mask[None], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(at_least_float32(scores)).astype(x.dtype)
        if key is None:
            weights = attention.dropout(weights)
        else:
            keys_of_heads = jr.split(key, attention.num_heads)
            weights = jax.vmap(lambda w, k: attention.dropout(w, key=k))(weights, keys_of_heads)
        mixed = jnp.einsum("hsS,Shd->shd", weights, clean) + poison
        return jax.vmap(attention.output_proj)(mixed.reshape(x.shape)), state

    def init(self, length: int | None = None) -> Cache:
        if length is None:
            raise ValueError(
                "length: got None; attention keeps what it has read, so expected the length of the "
                "whole sequence"
            )
        (d_model,), heads = self.attention_norm.shape, self.attention.num_heads
        assert self.attention_norm.weight is not None
        shape = (length, heads, d_model // heads)
        empty = jnp.zeros(shape, self.attention_norm.weight.dtype)
        return Cache(empty, empty, jnp.int32(0))


def sinusoidal_positions(
    length: int, d_model: int, start: Int[Array, ""] | int = 0
) -> Float[Array, "length d_model"]:
    """P_{t,2i} = sin(t·10000^{−2i/d_model}), P_{t,2i+1} = cos(the same) (Vaswani et al., 2017).

    Raises:
        ValueError: if d_model is odd: sines and cosines come in pairs.
    """
    if d_model % 2:
        raise ValueError(f"d_model: got {d_model}; sinusoidal positions need an even width")
    frequency = jnp.exp(jnp.arange(0.0, d_model, 2.0) * (-math.log(10000.0) / d_model))
    position = jnp.asarray(start, frequency.dtype) + jnp.arange(length, dtype=frequency.dtype)
    angle = position[:, None] * frequency[None, :]
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(length, d_model)
