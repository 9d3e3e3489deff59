"""The abstract mixers: a map of sequences; one that can also read them as they come; and two that
gain from what is known of the input: that it is an embedding of tokens, or is many paths."""

import abc
from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

MAX_SIZE = 2**20
"""Of any width: more would fill every memory, or take for ever to trace."""


def check_size(name: str, value: int, most: int = MAX_SIZE) -> None:
    """Raises ValueError unless 1 <= value <= most."""
    if not 1 <= value <= most:
        raise ValueError(f"{name}: got {value}; expected 1 to {most:,}")


class AbstractMixer(eqx.Module):
    """A causal map of one sequence, (length, d_input) → (length, d_model).

    Position t of the result depends on positions 1 … t of the input only. Concrete mixers are final
    and are built as `Mixer(d_model, …, *, key)`.
    """

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "length d_input"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_model"]:
        """The mixed sequence.

        Arguments:
            x: one sequence.
            key: for dropout, in the mixers that have it (attention); None otherwise or when the
                model is in inference mode (`equinox.nn.inference_mode`).
        """


class AbstractStreamingMixer(AbstractMixer):
    """A mixer with a state: it can read its input one position at a time.

    Reading a sequence with `step` gives what `__call__` gives for the whole.
    """

    @abc.abstractmethod
    def init_state(self, length: int) -> PyTree:
        """The state before the first position of a sequence of `length`.

        Only the linear CDE uses `length`: its time runs from 0 to 1 over the sequence.
        """

    @abc.abstractmethod
    def step(
        self, state: PyTree, x: Float[Array, "d_input"]
    ) -> tuple[PyTree, Float[Array, "d_model"]]:
        """The next state and output, given the next position of the input."""


class AbstractEndMixer(AbstractMixer):
    """A mixer that may have a faster way to the ends of many sequences than one by one."""

    @abc.abstractmethod
    def ends_of_many(
        self,
        x: Float[np.ndarray, "examples length d_input"],
        after_step: Callable[[int], None] = lambda step: None,
    ) -> Float[np.ndarray, "examples d_model"] | None:
        """What `__call__` gives at the last position of each, or None if there is no faster way.

        Not for use under `jax.jit`: it may look at the numbers.

        Arguments:
            x: the sequences.
            after_step: called with the number of intervals done.
        """


class AbstractTokenMixer(AbstractMixer):
    """A mixer that can use that its input has few different values."""

    @abc.abstractmethod
    def of_tokens(
        self, table: Float[Array, "vocabulary d_input"], tokens: Int[Array, "length"]
    ) -> Float[Array, "length d_model"]:
        """What `__call__` gives for the embedded sequence, table[tokens]."""
