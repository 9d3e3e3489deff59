"""The sequence model: encoder → blocks → pooling → readout."""

import inspect
from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ssm.block import Activation, Block
from ssm.init import linear, named_key
from ssm.mixers.attention import sinusoidal_positions
from ssm.mixers.base import AbstractEndMixer, AbstractMixer, check_size
from ssm.precision import Bfloat16Linear, Products, with_products

Pooling = Literal["none", "mean", "last"]
MAX_DEPTH = 1_000
"""Of blocks, which are traced one by one."""


class SequenceModel(eqx.Module):
    """Tokens or a path in; logits at every position, or one vector for the sequence, out.

    The encoder is an embedding with N(0, 1) entries for tokens, a linear layer for a path; then
    (optionally) sinusoidal positions, with dropout; then `depth` blocks; then pooling over
    positions; then a linear readout. Blocks and layers share no parameters.
    """

    encoder: eqx.nn.Embedding | eqx.nn.Linear | None
    blocks: tuple[Block, ...]
    readout: eqx.nn.Linear | Bfloat16Linear
    dropout: eqx.nn.Dropout
    pooling: Pooling = eqx.field(static=True)
    positions: bool = eqx.field(static=True)

    def __init__(
        self,
        mixer: Callable[..., AbstractMixer],
        *,
        d_model: int,
        depth: int = 1,
        activation: Activation = "glu",
        dropout: float = 0.0,
        norm: bool = True,
        pooling: Pooling = "none",
        positions: bool = False,
        encode: bool = True,
        bare: bool = False,
        products: Products = "float32",
        vocabulary: int | None = None,
        channels: int | None = None,
        n_outputs: int,
        key: PRNGKeyArray,
    ):
        """A model for inputs and outputs of given sizes.

        Arguments:
            mixer: builds a block's mixer, called as `mixer(d_model, key=key)`.
            d_model: width of the residual stream.
            depth: number of blocks.
            activation, dropout, norm: of each block, see `Block`.
            pooling: over positions, before the readout.
            positions: add sinusoidal positions to the encoded input.
            encode: whether there is an encoder; without one the mixer must take `channels`.
            bare: whether blocks are their mixers only.
            products: precision of the dense layers' matrix products, see `ssm.precision`.
            vocabulary: number of tokens, for token input; or
            channels: dimension of the path, for real input.
            n_outputs: size of the readout.

        Raises:
            ValueError: for sizes out of range, an unknown pooling, unless exactly one of vocabulary
                and channels is given, or if the parts do not fit (tokens without an encoder, say);
                "mixer.…" if it is the mixer's.
        """
        check_size("d_model", d_model)
        check_size("depth", depth, MAX_DEPTH)
        check_size("n_outputs", n_outputs)
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling: got {pooling!r}; expected one of {list(get_args(Pooling))}")
        _check_input(mixer, encode, vocabulary, channels)
        if not encode and not bare and channels != d_model:
            raise ValueError(
                f"encode, bare: got False, False with {channels} channels and d_model = {d_model}; "
                "a block that is not bare adds its input to its output, so expected an encoder "
                "(encode=true), bare blocks (bare=true), or equal widths"
            )
        k_encoder = named_key(key, "encoder")
        if vocabulary is not None:
            self.encoder = eqx.nn.Embedding(vocabulary, d_model, key=k_encoder)
        elif encode and channels is not None:
            self.encoder = linear(channels, d_model, key=k_encoder)
        else:
            self.encoder = None

        def block(index: int) -> Block:
            k = named_key(key, f"block{index}")
            width = {} if encode or index > 0 else {"channels": channels}
            try:
                mixed = mixer(d_model, **width, key=named_key(k, "mixer"))
            except ValueError as error:
                raise ValueError(f"mixer.{error}") from error
            return Block(
                mixed,
                d_model,
                activation=activation,
                dropout=dropout,
                norm=norm,
                bare=bare,
                key=k,
            )

        self.blocks = with_products(tuple(block(i) for i in range(depth)), products)
        readout = linear(d_model, n_outputs, key=named_key(key, "readout"))
        self.readout = with_products(readout, products)
        self.dropout = eqx.nn.Dropout(dropout)
        self.pooling = pooling
        self.positions = positions
        if positions:
            sinusoidal_positions(1, d_model)  # fails now rather than at the first call

    def __call__(
        self, x: Shaped[Array, "length *channels"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length outputs"] | Float[Array, "outputs"]:
        """Outputs for one sequence: (length, n_outputs), or (n_outputs,) if pooled.

        Arguments:
            x: token indices (length,) or a path (length, channels).
            key: for dropout; not needed in inference mode or when dropout is 0.
        """
        h = self.features(x, key=key)
        return jax.vmap(self.readout)(h) if self.pooling == "none" else self.readout(h)

    def features(
        self, x: Shaped[Array, "length *channels"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"] | Float[Array, "d_model"]:
        """What the readout sees: (length, d_model), or (d_model,) if pooled."""
        n_keys = 1 + len(self.blocks)
        k_positions, *keys = [None] * n_keys if key is None else jr.split(key, n_keys)
        h = x if self.encoder is None else jax.vmap(self.encoder)(x)
        if self.positions:
            h = self.dropout(h + sinusoidal_positions(*h.shape).astype(h.dtype), key=k_positions)
        embedded: dict[str, Array] = {}
        if isinstance(self.encoder, eqx.nn.Embedding) and not self.positions:
            embedded = {"table": self.encoder.weight, "tokens": x}
        for block, k in zip(self.blocks, keys, strict=True):
            h = block(h, key=k, **embedded)
            embedded = {}
        if self.pooling == "mean":
            return jnp.mean(h, axis=0)
        return h[-1] if self.pooling == "last" else h

    def features_of_many(
        self,
        x: Shaped[np.ndarray, "examples length *channels"],
        done: Callable[[int], None] = lambda examples: None,
    ) -> Float[np.ndarray, "examples d_model"] | None:
        """`features` of many examples at once, if there is a faster way to them; else None.

        There is one for a bare mixer that has it, read at its end. Not for use under `jax.jit`.

        Arguments:
            x: the examples.
            done: called with how many examples' worth of work is done.
        """
        first = self.blocks[0]
        alone = self.encoder is None and len(self.blocks) == 1 and first.mix is None
        if not (alone and self.pooling == "last" and isinstance(first.mixer, AbstractEndMixer)):
            return None
        n, intervals = x.shape[0], max(1, x.shape[1] - 1)
        return first.mixer.ends_of_many(x, lambda step: done(n * step // intervals))


def _check_input(
    mixer: Callable[..., AbstractMixer], encode: bool, vocabulary: int | None, channels: int | None
) -> None:
    """Raises ValueError unless the model can read its input."""
    if (vocabulary is None) == (channels is None):
        raise ValueError(
            f"vocabulary, channels: got {vocabulary}, {channels}; expected exactly one"
        )
    if not encode and channels is None:
        raise ValueError("encode: got False for token input; tokens need an encoder")
    if not encode and "channels" not in inspect.signature(mixer).parameters:
        raise ValueError(
            "encode: got False, but this mixer cannot read the path itself; the linear CDE can"
        )
