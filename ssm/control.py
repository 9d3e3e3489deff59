"""From a sampled path X to the gates ω and ξ of a linear CDE: dω and dξ are defined here alone.

A gate is a path made from X, linear between samples t_0 < t_1 < …:

- `path`:      ω = (t, X_t), whose increments are those of time and of X;
- `integral`:  ω = ∫ (s, X_s) ds, whose derivative is (t, X_t) itself, so that the *values* of X
               act on the state: each token has its own transition matrix.
"""

from typing import Literal, NamedTuple, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

GateName = Literal["path", "integral"]

PER_LENGTH = "1/length"
"""The step of the official code, which depends on the length of the whole sequence."""


class Embedded(eqx.Module):
    """A sequence whose values are rows of a table: x_t = table[tokens_t].

    What acts on each position alone may act on the table instead, which all sequences share.
    """

    table: Float[Array, "vocabulary d"]
    tokens: Integer[Array, "length"]

    def values(self) -> Float[Array, "length d"]:
        """The sequence as an array."""
        return self.table[self.tokens]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, positions: slice) -> "Embedded":
        """Some of its positions."""
        return Embedded(self.table, self.tokens[positions])


def values(x: Float[Array, "length d"] | Embedded) -> Float[Array, "length d"]:
    """A sequence as an array."""
    return x.values() if isinstance(x, Embedded) else x


class Steps(NamedTuple):
    """How time goes on from sample to sample: of `path`, and the weight h of `integral`."""

    time: float
    integral: float


def steps_of(dt: float | int | str, length: int | None) -> Steps:
    """The steps that a mixer's `dt` names.

    "1/length" is the official code's: time is i/(length − 1) at sample i, and `integral` has steps
    of 1/length, of which there are length − 1, so that they cover all but one part in `length` of
    [0, 1].

    Raises:
        ValueError: if the length is needed and is not known.
    """
    if dt != PER_LENGTH:
        return Steps(float(dt), float(dt))
    if length is None:
        raise ValueError(
            f"dt: got {PER_LENGTH!r} for a sequence of unknown length; expected a number, or "
            "init(length=…), the length of the whole sequence"
        )
    return Steps(1 / max(length - 1, 1), 1 / max(length, 1))


def gate_increments(
    gate: GateName,
    steps: Steps,
    x: Float[Array, "k channels"],
    previous: Float[Array, "k channels"],
    times: Float[Array, "k"],
    gaps: Float[Array, "k"],
) -> Float[Array, "k 1+channels"]:
    """Δω over k intervals between samples.

    - `path`: Δω_i = (t_i − t_{i−1}, X_i − X_{i−1});
    - `integral`: Δω_i = h_i (t_i, X_i), the right-point rule.

    Arguments:
        gate: "path" or "integral".
        steps: of time.
        x, previous: the samples at the ends of the intervals, and at their beginnings.
        times: at their ends.
        gaps: how long they are, in steps.
    """
    if gate == "path":
        return jnp.concatenate([(steps.time * gaps)[:, None], x - previous], axis=-1)
    return (steps.integral * gaps)[:, None] * jnp.concatenate([times[:, None], x], axis=-1)


def check_gate(name: str, gate: str) -> None:
    """Raises ValueError unless `gate` is one."""
    if gate not in get_args(GateName):
        raise ValueError(f"{name}: got {gate!r}; expected one of {list(get_args(GateName))}")


def check_dt(dt: float | int | str) -> None:
    """Raises ValueError unless `dt` is a positive number or "1/length"."""
    positive = isinstance(dt, int | float) and not isinstance(dt, bool) and 0 < dt < float("inf")
    if dt != PER_LENGTH and not positive:
        raise ValueError(f"dt: got {dt!r}; expected a positive number or {PER_LENGTH!r}")
