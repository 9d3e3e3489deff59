"""The word problem of a finite group: state tracking as running products."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from tasks import arguments
from tasks.a5_files import check_word_file, read_word_file
from tasks.base import AbstractTask, DamagedData, Data, Split
from tasks.groups import Group, parse_group
from tasks.rows import distinct_rows, token_dtype

MAX_AUXILIARY = 5_000_000
MAX_TEST = 10_000
"""Sequences of a test, unless more are asked for."""


@final
@dataclass(frozen=True)
class WordProblem(AbstractTask):
    """Given x_1, …, x_k in a group, output every running product y_t = x_1·x_2 ⋯ x_t.

    With A5, the even permutations of five elements, this is the problem of Merrill et al. (2024),
    *The Illusion of State in State-Space Models* (arXiv 2404.08819): it is complete for NC¹, so no
    stack of diagonal recurrences of fixed depth solves it at every length, if TC⁰ is not NC¹.

    All order^k sequences are used if they are at most `samples`, otherwise `samples` distinct
    random ones; they are shuffled, the first int(train_fraction · N) are trained on and the rest
    validate, so that no sequence is in both.

    Arguments:
        group: a name that `tasks.groups.parse_group` reads.
        length: k, at least 2.
        samples: the largest number of sequences.
        train_fraction: share of them to train on, in (0, 1).
        auxiliary_length: length, below k, of a second training stream with every shorter sequence;
            None for no stream.
        auxiliary_fraction: share of that stream to keep, in (0, 1].
        log_epsilon: ε ≥ 0; the loss is −log(softmax + ε). The published linear CDE runs have 1e-10.
        seed: of the draw, the shuffles, and nothing else.
        path: a CSV file to take the sequences from, its first `samples` rows, instead of drawing;
            `tasks.a5_files.read_word_file` says what it may be like.

    Raises:
        TypeError, ValueError: for any argument outside its range.
    """

    group: str = "A5"
    length: int = 3
    samples: int = 1_000_000
    train_fraction: float | int = 0.8
    auxiliary_length: int | None = 2
    auxiliary_fraction: float | int = 1.0
    log_epsilon: float | int = 0.0
    seed: int = 0
    path: str | None = None

    metric: ClassVar[str] = "accuracy"
    maximise: ClassVar[bool] = True
    channels: ClassVar[None] = None
    per_position: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.group, str):
            raise TypeError(f"group must be a name such as 'A5', got {self.group!r}.")
        if self.path is not None and not isinstance(self.path, str):
            raise TypeError(f"path must be the name of a CSV file or None, got {self.path!r}.")
        order = self._group.order
        if order < 2:
            raise ValueError(f"group must have at least two elements, got {self.group!r}.")
        arguments.integer("length", self.length, 2)
        arguments.integer("samples", self.samples, 2)
        arguments.integer("seed", self.seed, 0)
        self._check_real("train_fraction", "a number between 0 and 1", 1.0, "()")
        self._check_real("auxiliary_fraction", "a number above 0 and at most 1", 1.0, "(]")
        self._check_real("log_epsilon", "a finite number of at least 0", math.inf, "[)")
        if self.path is None:
            available = min(self.samples, order ** min(self.length, 63))
            arguments.memory("samples, length", available, self.length)
            arguments.train_size(self.train_fraction, available)
        if self.auxiliary_length is not None:
            self._check_auxiliary(self.auxiliary_length, order)

    def _check_real(self, name: str, valid: str, high: float, ends: str) -> None:
        value = arguments.real(name, getattr(self, name), valid, 0.0, high, ends)
        object.__setattr__(self, name, value)

    def _check_auxiliary(self, length: int, order: int) -> None:
        arguments.integer("auxiliary_length", length, 1)
        if length >= self.length:
            raise ValueError(
                f"auxiliary_length must be below length={self.length} or None, got {length}."
            )
        if order ** min(length, 63) > MAX_AUXILIARY:
            raise ValueError(
                f"auxiliary_length must leave at most {MAX_AUXILIARY:,} sequences, got {length}, "
                f"which makes {order}^{length} for {self.group}."
            )
        if int(self.auxiliary_fraction * order**length) == 0:
            raise ValueError(
                f"auxiliary_fraction must keep at least one sequence, got "
                f"{self.auxiliary_fraction!r} of {order**length}."
            )

    @property
    def vocabulary(self) -> int:
        return self._group.order

    @property
    def n_outputs(self) -> int:
        return self._group.order

    @property
    def _group(self) -> Group:
        return parse_group(self.group)

    def load(self) -> Data:
        draw, shuffle, short = (np.random.default_rng((self.seed, stream)) for stream in range(3))
        if self.path is None:
            rows = distinct_rows(self._group.order, self.length, self.samples, draw)
        else:
            rows = self._read(self.path)
        cut = arguments.train_size(self.train_fraction, len(rows))
        rows = rows[shuffle.permutation(len(rows))]
        return Data(
            train=self._labelled(rows[:cut]),
            validation=self._labelled(rows[cut:]),
            auxiliary=self._auxiliary(short),
        )

    def _labelled(self, rows: np.ndarray) -> Split:
        return Split(rows, self._group.running_products(rows))

    def _auxiliary(self, rng: np.random.Generator) -> Split | None:
        if self.auxiliary_length is None:
            return None
        kept = int(self.auxiliary_fraction * self._group.order**self.auxiliary_length)
        return self._labelled(distinct_rows(self._group.order, self.auxiliary_length, kept, rng))

    def _read(self, path: str) -> np.ndarray:
        try:
            words = read_word_file(path)
        except OSError as error:
            raise type(error)(
                f"path must be a file that can be read, got {path!r}: {error.strerror}."
            ) from error
        check_word_file(path, words, self._group)
        if words.inputs.shape[1] != self.length:
            raise ValueError(
                f"path must hold sequences of length={self.length}, got {path!r} with sequences of "
                f"length {words.inputs.shape[1]}."
            )
        return words.inputs[: self.samples].astype(token_dtype(self._group.order))

    def loss(
        self, outputs: Float[Array, "positions classes"], targets: Integer[Array, " positions"]
    ) -> Float[Array, ""]:
        """Returns the cross-entropy of one sequence of any length, averaged over its positions."""
        if self.log_epsilon == 0:
            log_probabilities = jax.nn.log_softmax(outputs)
        else:
            log_probabilities = jnp.log(jax.nn.softmax(outputs) + self.log_epsilon)
        chosen = jnp.take_along_axis(log_probabilities, targets[:, None].astype(jnp.int32), axis=1)
        return -jnp.mean(chosen)

    def statistics(
        self, outputs: Float[Array, "positions classes"], targets: Integer[Array, " positions"]
    ) -> dict[str, Array]:
        """Returns "correct" (positions,) and "sequence" (), 0 or 1 in float32, and "loss" ()."""
        correct = jnp.argmax(outputs, axis=1) == targets.astype(jnp.int32)
        return {
            "correct": correct.astype(jnp.float32),
            "sequence": jnp.all(correct).astype(jnp.float32),
            "loss": self.loss(outputs, targets),
        }

    def join(
        self,
        pieces: Sequence[Mapping[str, Float[np.ndarray, "examples ..."]]],
        counts: Sequence[Float[np.ndarray, "examples"]],
    ) -> dict[str, np.ndarray]:
        """Returns the statistics of whole sequences: one is right if each of its pieces is."""
        right = np.min([piece["sequence"] for piece in pieces], axis=0)
        return super().join(pieces, counts) | {"sequence": right}

    @classmethod
    def test_settings(cls, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns arguments for at most 10,000 sequences, without a second training stream.

        Those of another length are drawn, unless a file is given; those of a file have its length.
        """
        samples = min(own.get("samples", MAX_TEST), MAX_TEST)
        settings = {**own, "samples": samples, "auxiliary_length": None}
        if "length" in given:
            settings["path"] = None
        elif isinstance(given.get("path"), str):
            with contextlib.suppress(OSError, DamagedData):  # which `load` tells of
                settings["length"] = read_word_file(given["path"]).inputs.shape[1]
        return {**settings, **given}

    def metrics(self, means: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Returns the loss and shares of right answers.

        "accuracy" counts every position, "accuracy_last" the last, "accuracy_sequence" the
        sequences without a mistake, and "accuracy_at_1", …, "accuracy_at_k" each position.
        """
        correct = np.asarray(means["correct"], np.float64)
        return {
            "accuracy": float(correct.mean()),
            "accuracy_last": float(correct[-1]),
            "accuracy_sequence": float(np.asarray(means["sequence"])),
            "loss": float(np.asarray(means["loss"])),
        } | {f"accuracy_at_{t}": float(share) for t, share in enumerate(correct, start=1)}

    def baselines(self, data: Data) -> dict[str, float]:
        """Returns what two predictors are expected to reach in a group with n elements.

        "accuracy_uniform" = 1/n and "loss_uniform" = −log(1/n + ε) belong to the uniform
        distribution; "accuracy_two_positions" = (2 + (k − 2)/n)/k to knowing the first two products
        and guessing the others.
        """
        share = 1 / self._group.order
        return {
            "accuracy_uniform": share,
            "accuracy_two_positions": (2 + (self.length - 2) * share) / self.length,
            "loss_uniform": -math.log(share + self.log_epsilon),
        }
