"""The abstract mixers: a map of sequences; one that can also read them as they come; and one that
gains from knowing that its input is an embedding of tokens."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree


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


class AbstractTokenMixer(AbstractMixer):
    """A mixer that can use that its input has few different values."""

    @abc.abstractmethod
    def of_tokens(
        self, table: Float[Array, "vocabulary d_input"], tokens: Int[Array, "length"]
    ) -> Float[Array, "length d_model"]:
        """What `__call__` gives for the embedded sequence, table[tokens]."""
