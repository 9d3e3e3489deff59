"""Regression on a coordinate of the path signature, its logarithm or its alternating part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from tasks import arguments
from tasks.base import AbstractTask, Data, Split
from tasks.coordinates import check_target, check_word, signature_coordinates
from tasks.paths import rounded_random_walks

TARGETS = ("coordinate", "log_signature", "alternating")


@final
@dataclass(frozen=True)
class SignatureTask(AbstractTask):
    """Predict one coordinate of a rounded random walk's signature from the walk.

    Inputs are the walks of `tasks.paths.rounded_random_walks`. With word (i_1, …, i_n) the label is
    made of the signature S^{i_1 … i_n} = ∫_{t_1 < … < t_n} dX^{i_1} … dX^{i_n} of the piecewise
    linear path, which begins at its first point (no basepoint):

        coordinate:     S^{i_1 … i_n}
        log_signature:  (log S)^{i_1 … i_n}, of the logarithm in the tensor algebra
        alternating:    (1/n!) Σ_σ sgn(σ) S^{i_σ(1) … i_σ(n)}, the signed volume

    For (1, 2) the last two are both the Lévy area (S^{12} − S^{21})/2. Labels are divided by their
    largest absolute value over the data set. The first part of the paths is for training, the rest
    for validation. Words (1, 2) and (1, 2, 3) with the other arguments at their defaults are the
    published "area" and "volume" problems of Cirone et al. (2024), Figure 1.

    Arguments:
        dimension: number of channels d.
        word: letters in 1, …, d, first integrated first.
        length: points per path.
        n_paths: paths in all.
        train_fraction: share of them to train on, in (0, 1).
        target: "coordinate", "log_signature" or "alternating".
        seed: of the walks.

    Raises:
        TypeError, ValueError: for any argument outside its range, for a word of more than 12
            letters or 100,000 signature coefficients, and for a target that vanishes on every
            path.
    """

    dimension: int = 2
    word: Sequence[int] = (1, 2)
    length: int = 100
    n_paths: int = 100_000
    train_fraction: float | int = 0.8
    target: Literal["coordinate", "log_signature", "alternating"] = "coordinate"
    seed: int = 1234

    metric: ClassVar[str] = "rmse"
    maximise: ClassVar[bool] = False
    vocabulary: ClassVar[None] = None
    n_outputs: ClassVar[int] = 1
    per_position: ClassVar[bool] = False

    def __post_init__(self) -> None:
        arguments.integer("dimension", self.dimension, 1)
        object.__setattr__(self, "word", check_word(self.word, self.dimension))
        arguments.integer("length", self.length, 2)
        arguments.integer("n_paths", self.n_paths, 2)
        arguments.memory("n_paths, length, dimension", self.n_paths, self.length * self.dimension)
        arguments.integer("seed", self.seed, 0, 2**32 - 1)
        fraction = arguments.real(
            "train_fraction", self.train_fraction, "a number between 0 and 1", 0.0, 1.0, "()"
        )
        object.__setattr__(self, "train_fraction", fraction)
        arguments.train_size(fraction, self.n_paths)
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {TARGETS}, got {self.target!r}.")
        check_target(self.target, tuple(self.word), self.length)

    @property
    def channels(self) -> int:
        return self.dimension

    def load(self) -> Data:
        walks = rounded_random_walks(self.n_paths, self.length, self.dimension, self.seed)
        paths = walks.paths
        labels = signature_coordinates(paths, tuple(self.word), self.target)
        largest = np.abs(labels).max()
        if largest == 0:
            raise ValueError(
                f"n_paths must be large enough for one label that is not zero, got {self.n_paths} "
                f"paths of length {self.length} whose {self.target} {self.word} is zero."
            )
        targets = (labels / largest)[:, None]
        cut = arguments.train_size(self.train_fraction, self.n_paths)
        return Data(
            train=Split(paths[:cut], targets[:cut]),
            validation=Split(paths[cut:], targets[cut:]),
            auxiliary=None,
            unit=walks.unit,
        )

    def loss(
        self, outputs: Float[Array, "1"], targets: Float[Array, "1"] | Float[Array, ""]
    ) -> Float[Array, ""]:
        """Returns the squared error of one example."""
        return jnp.square(outputs.reshape(()) - targets.reshape(()))

    def statistics(
        self, outputs: Float[Array, "1"], targets: Float[Array, "1"] | Float[Array, ""]
    ) -> dict[str, Array]:
        """Returns {"squared_error": ()}."""
        return {"squared_error": self.loss(outputs, targets)}

    def metrics(self, means: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Returns "rmse" and "loss", the mean squared error."""
        squared_error = float(np.asarray(means["squared_error"]))
        return {"rmse": squared_error**0.5, "loss": squared_error}

    def baselines(self, data: Data) -> dict[str, float]:
        """Returns "rmse_zero", of predicting 0, and "rmse_linear".

        The latter is the RMSE on the validation paths of the affine function of a whole path that
        has the least squared error on the training paths: no linear time-invariant model, whatever
        its depth, can do better except by chance.
        """
        weights = _affine_least_squares(data.train)
        values = data.validation.targets.astype(np.float64)
        errors = values - _with_constant(data.validation.inputs) @ weights
        return {
            "rmse_zero": float(np.sqrt(np.mean(values**2))),
            "rmse_linear": float(np.sqrt(np.mean(errors**2))),
        }


def _with_constant(paths: np.ndarray) -> np.ndarray:
    flat = paths.reshape(len(paths), -1).astype(np.float64)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def _affine_least_squares(split: Split) -> np.ndarray:
    """argmin_w ‖F w − y‖ for F = [flattened paths, 1], in float64.

    F is reduced to a triangle block by block (QR), then solved by singular values: F is never
    squared nor held whole.
    """
    triangle = np.empty((0, split.inputs[0].size + 2))
    for i in range(0, len(split.inputs), 10_000):
        features = _with_constant(split.inputs[i : i + 10_000])
        block = np.concatenate([features, split.targets[i : i + 10_000]], axis=1)
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return np.linalg.lstsq(triangle[:, :-1], triangle[:, -1:], rcond=None)[0]
