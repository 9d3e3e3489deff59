"""The abstract mixers: the layers that move information along a sequence."""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray, PyTree

from ssm.control import Embedded, values
from ssm.recurrence import Heads, Recurrence, at, stack
from ssm.scans import scan

MAX_SIZE = 2**20
"""Of any width: more would fill every memory, or take for ever to trace."""

MOST_ROWS = 1024
"""The longest table of which a recurrence makes the elements of all rows, for the sequences to look
up, rather than an element for each position."""

Dt = float | Float[Array, ""] | Float[Array, "length"] | None
"""Time from a position to the next, in steps of the mixer's own: one number, or one each."""


def check_size(name: str, value: int, most: int = MAX_SIZE) -> None:
    """Raises ValueError unless 1 <= value <= most."""
    if not 1 <= value <= most:
        raise ValueError(f"{name}: got {value}; expected 1 to {most:,}")


class AbstractMixer(eqx.Module):
    """A causal map of one sequence, (length, d_input) → (length, d_model), with a state.

    Position t of the result depends on positions 1 … t of the input only. Concrete mixers are final
    and are built as `Mixer(d_model, …, *, key)`. A sequence may be read whole, in pieces, or one
    position at a time:

        y, state = mixer(x)                          # whole; jax.vmap(lambda x: mixer(x)) for many
        y1, state = mixer(x[:10], mixer.init(len(x)))
        y2, state = mixer(x[10:], state)
        state, y = jax.lax.scan(mixer.step, mixer.init(len(x)), x)

    A mixer is a PyTree of arrays, which `jax.jit` cannot hash: it is compiled by
    `equinox.filter_jit(mixer)` or `jax.jit(lambda x: mixer(x))`.
    """

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, "length d_input"] | Embedded,
        state: PyTree = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], PyTree]:
        """The mixed sequence, and the state after it.

        Arguments:
            x: one sequence, or the next piece of one.
            state: from `init`, or after the piece before; None at the start of a whole sequence.
            dt: time since the position before, in steps of the mixer's own; 1 by default.
            key: for dropout, in the mixers that have it (attention); None otherwise or when the
                model is in inference mode (`equinox.nn.inference_mode`).

        Raises:
            ValueError: if `dt` is given to a mixer that knows no time.
        """

    @abc.abstractmethod
    def init(self, length: int | None = None) -> PyTree:
        """The state before the first position.

        Arguments:
            length: of the whole sequence, for the mixers that must know: attention, which keeps
                what it has read, and a linear CDE whose `dt` is "1/length".

        Raises:
            ValueError: if the mixer must know, and it is None.
        """

    @property
    def step(self) -> Callable[..., tuple[PyTree, Float[Array, "d_model"]]]:
        """The function (state, x_t) ↦ (state, y_t) of one position; also (state, x_t, dt_t)."""

        def step(
            state: PyTree, x: Float[Array, "d_input"], dt: Dt = None
        ) -> tuple[PyTree, Float[Array, "d_model"]]:
            y, state = self(x[None], state, dt=dt)
            return state, y[0]

        return step


class AbstractRecurrentMixer(AbstractMixer):
    """A mixer that is a linear recurrence; a family is its `element`.

    Concrete here: an element for each position (or for each row of an embedding's table), a scan,
    an output for each position.
    """

    form: eqx.AbstractVar[str]
    """The scan, see `ssm.scans`."""
    starts_at_zero: ClassVar[bool] = True
    """Whether h_0 = 0, by which some scans have less to do."""

    @abc.abstractmethod
    def element(
        self, x: Float[Array, "d_model"], dt: Float[Array, ""] | None
    ) -> Recurrence | Heads:
        """A_t, k_t, v_t and q_t of one position; dt is 1 if it is None."""

    @abc.abstractmethod
    def start(self) -> Inexact[Array, "..."]:
        """h_0."""

    @abc.abstractmethod
    def output(
        self, x: Float[Array, "d_model"], y: Inexact[Array, "..."]
    ) -> Float[Array, "d_model"]:
        """The result at a position, from its input and what the recurrence reads there."""

    def __call__(
        self,
        x: Float[Array, "length d_model"] | Embedded,
        state: PyTree = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_model"], PyTree]:
        if isinstance(x, Embedded) and dt is None and len(x.table) <= MOST_ROWS:
            of_rows = stack(lambda row: self.element(row, None), x.table)
            r, x = at(of_rows, x.tokens), x.values()
        else:
            x = values(x)
            r = _elements(self.element, x, dt)
        h0 = state if self.starts_at_zero or state is not None else self.start()
        y, state = scan(r, h0, form=self.form)
        return jax.vmap(self.output)(x, y), state

    def init(self, length: int | None = None) -> Inexact[Array, "..."]:
        return self.start()


def _elements(element, x, dt):
    if dt is None:
        return stack(lambda x: element(x, None), x)
    return stack(element, x, jnp.broadcast_to(jnp.asarray(dt, x.dtype), (len(x),)))


def no_dt(mixer: AbstractMixer, dt: Dt) -> None:
    """Raises ValueError if a mixer that knows no time is told of it."""
    if dt is not None:
        raise ValueError(f"dt: got {dt}; {type(mixer).__name__} has no time, so expected None")
