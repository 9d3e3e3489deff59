"""The abstract task, and the arrays it hands over."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped


class Split(NamedTuple):
    """Examples along the leading axis.

    `inputs` is (examples, length) token indices or (examples, length, channels) float32;
    `targets` is (examples, length) classes or (examples, n_outputs) float32.
    """

    inputs: np.ndarray
    targets: np.ndarray


class Data(NamedTuple):
    """A training split, a validation split, and a second stream of training examples or None.

    Where the inputs are paths on a lattice, every coordinate is a whole number of `unit`.
    """

    train: Split
    validation: Split
    auxiliary: Split | None
    unit: float | None = None


class DamagedData(ValueError):
    """A data file does not hold what its format says; the message names the file and the line."""


class AbstractTask(abc.ABC):
    """A learning problem: its data, its sizes, its loss and its metrics.

    `loss` and `statistics` take ONE example and are pure JAX, so the caller batches them with
    `jax.vmap`. The caller averages every entry of `statistics` over a split and gives the averages
    to `metrics`: a metric is therefore the same however the split was cut into batches.

    A trained model may be tested on sequences that are read in pieces; `count`, `join` and
    `test_settings` are for that, and most tasks have them as they are here.

    Attributes:
        metric: name of the primary entry of `metrics`, "accuracy" or "rmse".
        maximise: whether a larger value of it is better.
    """

    metric: ClassVar[str]
    maximise: ClassVar[bool]

    @property
    @abc.abstractmethod
    def vocabulary(self) -> int | None:
        """Number of tokens if the inputs are token indices, else None."""

    @property
    @abc.abstractmethod
    def channels(self) -> int | None:
        """Number of channels if the inputs are real paths, else None."""

    @property
    @abc.abstractmethod
    def n_outputs(self) -> int:
        """Number of classes, or of dimensions of a regression target."""

    @property
    @abc.abstractmethod
    def per_position(self) -> bool:
        """True if there is one output per position, False if one per sequence."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """Length of an input sequence."""

    @abc.abstractmethod
    def load(self) -> Data:
        """Returns the whole data set as NumPy arrays; equal arguments give equal data.

        Tokens and classes have the smallest unsigned integer type that holds them, everything else
        is float32.
        """

    @abc.abstractmethod
    def loss(
        self, outputs: Float[Array, "*position outputs"], targets: Shaped[Array, "*target"]
    ) -> Float[Array, ""]:
        """Returns the differentiable training loss of one example."""

    @abc.abstractmethod
    def statistics(
        self, outputs: Float[Array, "*position outputs"], targets: Shaped[Array, "*target"]
    ) -> dict[str, Array]:
        """Returns what one example adds to the metrics, to be averaged over a split."""

    @abc.abstractmethod
    def metrics(self, means: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Returns named metrics from the averages of `statistics`: `self.metric`, "loss", and any
        others."""

    @abc.abstractmethod
    def baselines(self, data: Data) -> dict[str, float]:
        """Returns validation metrics of predictors that learn nothing of the problem's point."""

    def count(self, targets: Shaped[Array, "positions *target"]) -> Float[Array, ""]:
        """Returns how many positions of a piece count: the weight of its means. Here, all do."""
        return jnp.float32(len(targets))

    def join(
        self,
        pieces: Sequence[Mapping[str, Float[np.ndarray, "examples ..."]]],
        counts: Sequence[Float[np.ndarray, "examples"]],
    ) -> dict[str, np.ndarray]:
        """Returns the `statistics` of whole sequences from those of their pieces, in order.

        Here, a number for each position is put together, and any other is a mean over the positions
        that count. A task whose statistics are something else says how those are joined.

        Arguments:
            pieces: the statistics of each piece, of several sequences.
            counts: `count` of each piece.
        """
        weights = np.stack(counts).astype(np.float64)
        total = np.sum(weights, axis=0)

        def whole(values: list[np.ndarray]) -> np.ndarray:
            if values[0].ndim > 1:
                return np.concatenate(values, axis=1)
            terms = np.where(weights > 0, weights * np.stack(values), 0.0)
            return np.sum(terms, axis=0) / np.where(total > 0, total, 1.0)

        return {name: whole([piece[name] for piece in pieces]) for name in pieces[0]}

    @classmethod
    def test_settings(cls, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a task's arguments for a test on other data than it was trained on.

        Arguments:
            own: the arguments of the task that was trained on.
            given: those that are to be others.
        """
        return {**own, **given}
