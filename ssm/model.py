"""The models: encoder → blocks → pooling → readout; and a mixer of a path with a readout."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from ssm.block import Activation, Block
from ssm.control import Embedded, values
from ssm.init import linear, named_key
from ssm.mixers.attention import sinusoidal_positions
from ssm.mixers.base import AbstractMixer, Dt, check_size
from ssm.mixers.linear_cde import LinearCDE
from ssm.precision import Bfloat16Linear, Products, with_products
from ssm.scans.grouped import Ungrouped

Pooling = Literal["none", "mean", "last"]
MAX_DEPTH = 1_000
"""Of blocks, which are traced one by one."""


class ModelState(eqx.Module):
    """A model between two pieces of a sequence.

    Attributes:
        blocks: the state of each block.
        read: how many positions it has read.
        pooled: the sum, or the last, of the features so far; zeros before the first.
    """

    blocks: tuple[PyTree, ...]
    read: Int[Array, ""]
    pooled: Float[Array, "d_model"]


class SequenceModel(eqx.Module):
    """Tokens or a path in; logits at every position, or one vector for the sequence, out.

    The encoder is an embedding with N(0, 1) entries for tokens, a linear layer for a path; then
    (optionally) sinusoidal positions, with dropout; then `depth` blocks; then pooling over
    positions; then a linear readout. Blocks and layers share no parameters.
    """

    encoder: eqx.nn.Embedding | eqx.nn.Linear
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
            products: precision of the dense layers' matrix products, see `ssm.precision`.
            vocabulary: number of tokens, for token input; or
            channels: dimension of the path, for real input.
            n_outputs: size of the readout.

        Raises:
            ValueError: for sizes out of range, an unknown pooling, or unless exactly one of
                vocabulary and channels is given; "mixer.…" if it is the mixer's.
        """
        check_size("d_model", d_model)
        check_size("depth", depth, MAX_DEPTH)
        check_size("n_outputs", n_outputs)
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling: got {pooling!r}; expected one of {list(get_args(Pooling))}")
        if (vocabulary is None) == (channels is None):
            raise ValueError(
                f"vocabulary, channels: got {vocabulary}, {channels}; expected exactly one"
            )
        if positions:
            sinusoidal_positions(1, d_model)  # fails now rather than at the first call
        k_encoder = named_key(key, "encoder")
        if channels is None:
            self.encoder = eqx.nn.Embedding(vocabulary, d_model, key=k_encoder)
        else:
            self.encoder = linear(channels, d_model, key=k_encoder)

        def block(index: int) -> Block:
            k = named_key(key, f"block{index}")
            mixed = _built(mixer, d_model, key=named_key(k, "mixer"))
            return Block(mixed, d_model, activation=activation, dropout=dropout, norm=norm, key=k)

        self.blocks = with_products(tuple(block(i) for i in range(depth)), products)
        readout = linear(d_model, n_outputs, key=named_key(key, "readout"))
        self.readout = with_products(readout, products)
        self.dropout = eqx.nn.Dropout(dropout)
        self.pooling = pooling
        self.positions = positions

    def __call__(
        self,
        x: Shaped[Array, "length *channels"],
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "length outputs"] | Float[Array, "outputs"]:
        """Outputs for one sequence: (length, n_outputs), or (n_outputs,) if pooled.

        Arguments:
            x: token indices (length,) or a path (length, channels).
            dt: time from each position to the next, see `ssm.mixers.base.AbstractMixer`.
            key: for dropout; not needed in inference mode or when dropout is 0.
        """
        return self._read_out(self.features(x, dt=dt, key=key))

    def features(
        self,
        x: Shaped[Array, "length *channels"],
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "length d_model"] | Float[Array, "d_model"]:
        """What the readout sees: (length, d_model), or (d_model,) if pooled."""
        h, _ = self._mix(x, (None,) * len(self.blocks), 0, dt, key)
        if self.pooling == "mean":
            return jnp.mean(h, axis=0)
        return h[-1] if self.pooling == "last" else h

    def init(self, length: int | None = None) -> ModelState:
        """The state before the first position.

        Arguments:
            length: of the whole sequence, for the mixers that must know it.
        """
        states = tuple(block.init(length) for block in self.blocks)
        return ModelState(states, jnp.int32(0), jnp.zeros_like(self._encoder_weight[0]))

    def read(
        self,
        x: Shaped[Array, "length *channels"],
        state: ModelState,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length outputs"] | Float[Array, "outputs"], ModelState]:
        """The outputs for the next piece of a sequence, and the state after it.

        They are those of the whole sequence, piece by piece. If pooled, they are those of all that
        has been read.

        Arguments:
            state: from `init`, or after the piece before.
        """
        h, blocks = self._mix(x, state.blocks, state.read, dt, key)
        read, pooled = state.read + len(x), state.pooled
        if self.pooling == "none":
            return self._read_out(h), ModelState(blocks, read, pooled)
        if self.pooling == "mean":
            pooled = pooled + jnp.sum(h, axis=0)
            return self._read_out(pooled / read.astype(h.dtype)), ModelState(blocks, read, pooled)
        pooled = h[-1] if len(h) else pooled
        return self._read_out(pooled), ModelState(blocks, read, pooled)

    @property
    def step(self) -> Callable[..., tuple[ModelState, Array]]:
        """The function (state, x_t) ↦ (state, output) of one position."""

        def step(
            state: ModelState, x: Shaped[Array, "*channels"], dt: Dt = None
        ) -> tuple[ModelState, Array]:
            y, state = self.read(x[None], state, dt=dt)
            return state, y[0] if self.pooling == "none" else y

        return step

    def _mix(self, x, states, read, dt, key):
        """The last block's outputs, and the blocks' states."""
        n_keys = 1 + len(self.blocks)
        k_positions, *keys = [None] * n_keys if key is None else jr.split(key, n_keys)
        h: Any
        if isinstance(self.encoder, eqx.nn.Embedding):
            h = Embedded(self.encoder.weight, x)
        else:
            h = jax.vmap(self.encoder)(x)
        if self.positions:
            h = values(h)
            h = h + sinusoidal_positions(len(h), h.shape[1], read).astype(h.dtype)
            h = self.dropout(h, key=k_positions)
        after = []
        for block, state, k in zip(self.blocks, states, keys, strict=True):
            h, state = block(h, state, dt=dt, key=k)
            after.append(state)
        return h, tuple(after)

    @property
    def _encoder_weight(self) -> Float[Array, "inputs d_model"]:
        weight = self.encoder.weight
        return weight if isinstance(self.encoder, eqx.nn.Embedding) else weight.T

    def _read_out(self, h):
        return self.readout(h) if h.ndim == 1 else jax.vmap(self.readout)(h)


class MixerReadout(eqx.Module):
    """A mixer that reads a path itself, and a linear readout of its last output: Figure 1's random
    features, when the mixer is a linear CDE with frozen coefficients."""

    mixer: AbstractMixer
    readout: eqx.nn.Linear
    pooling: ClassVar[Pooling] = "last"

    def __init__(
        self,
        mixer: Callable[..., AbstractMixer],
        *,
        d_model: int,
        vocabulary: int | None = None,
        channels: int | None = None,
        n_outputs: int,
        key: PRNGKeyArray,
    ):
        """A mixer from `channels` to d_model, and a readout to n_outputs.

        Arguments:
            mixer: builds it, called as `mixer(d_model, channels=channels, key=key)`.

        Raises:
            ValueError: for sizes out of range, for tokens, or for a mixer whose input is as wide as
                its output; "mixer.…" if it is the mixer's.
        """
        check_size("d_model", d_model)
        check_size("n_outputs", n_outputs)
        if channels is None:
            raise ValueError(
                f"vocabulary: got {vocabulary}; the mixer reads a path itself, so expected a task "
                "with real inputs, or a model with an encoder (`SequenceModel`)"
            )
        if "channels" not in inspect.signature(mixer).parameters:
            raise ValueError(
                "mixer: got one whose input is as wide as its output; expected one that takes "
                "channels, as the linear CDE does, or a model with an encoder (`SequenceModel`)"
            )
        k = named_key(named_key(key, "block0"), "mixer")
        self.mixer = _built(mixer, d_model, channels=channels, key=k)
        self.readout = linear(d_model, n_outputs, key=named_key(key, "readout"))

    def __call__(
        self,
        x: Float[Array, "length channels"],
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "outputs"]:
        """The readout of the last output of the mixer; arguments as of `SequenceModel`."""
        return self.readout(self.features(x, dt=dt, key=key))

    def features(
        self,
        x: Float[Array, "length channels"],
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "d_model"]:
        """The last output of the mixer."""
        return self.mixer(x, dt=dt, key=key)[0][-1]

    def features_of_many(
        self,
        x: Float[np.ndarray, "examples length channels"],
        unit: float,
        done: Callable[[int], None] = lambda examples: None,
    ) -> Float[np.ndarray, "examples d_model"]:
        """`features` of many paths on a lattice at once. Not for use under `jax.jit`.

        Arguments:
            x: paths whose coordinates are whole numbers of `unit`.
            done: called with how many paths' worth of work is done.

        Raises:
            Ungrouped: if there is no faster way than one by one.
        """
        if not isinstance(self.mixer, LinearCDE):
            raise Ungrouped("expected a linear CDE")
        n, intervals = x.shape[0], max(1, x.shape[1] - 1)
        return self.mixer.last_of_many(x, unit, lambda step: done(n * step // intervals))

    def init(self, length: int | None = None) -> PyTree:
        """The mixer's state before the first position."""
        return self.mixer.init(length)

    def read(
        self,
        x: Float[Array, "length channels"],
        state: PyTree,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "outputs"], PyTree]:
        """The output for all that has been read after the next piece, which is not empty."""
        y, state = self.mixer(x, state, dt=dt, key=key)
        return self.readout(y[-1]), state

    @property
    def step(self) -> Callable[..., tuple[PyTree, Float[Array, "outputs"]]]:
        """The function (state, x_t) ↦ (state, output) of one position."""

        def step(
            state: PyTree, x: Float[Array, "channels"], dt: Dt = None
        ) -> tuple[PyTree, Float[Array, "outputs"]]:
            y, state = self.read(x[None], state, dt=dt)
            return state, y

        return step


def _built(mixer: Callable[..., AbstractMixer], *sizes: int, **options: Any) -> AbstractMixer:
    """The mixer; an error about one of its arguments says that it is the mixer's."""
    try:
        return mixer(*sizes, **options)
    except ValueError as error:
        raise ValueError(f"mixer.{error}") from error
