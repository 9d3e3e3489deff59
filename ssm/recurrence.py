"""The linear recurrence that every linear family is an instance of.

    h_t = A_t h_{t−1} + k_t v_tᵀ,      y_t = q_tᵀ h_t  (or its real part),

with a state h of shape (n,), or (n, *m) for m copies with different values v. In the language of
controlled differential equations, ω chooses A_t and ξ chooses k_t v_tᵀ.

A mixer makes the recurrence of one position, its `element`; `stack` makes that of a sequence, in
which every array has a leading time axis but those marked `Constant`; `ssm.scans.scan` solves it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from ssm.transition import AbstractLazyTransition, Constant, plain

T = TypeVar("T")


class Recurrence(eqx.Module):
    """One position of the recurrence above, or a sequence of them.

    Attributes:
        transition: A_t: an `AbstractTransition`, or a `Constant` one.
        key: k_t, an array (n,) or a `Constant` one; None for no drive.
        value: v_t, of shape (*m); None for a vector state, whose drive is k_t.
        query: q_t, an array (n,) or a `Constant` one; None to read the whole state, y_t = h_t.
        real: whether y_t is the real part of q_tᵀ h_t: of a complex state with conjugate modes.
    """

    transition: Any
    key: Any = None
    value: Inexact[Array, "*time_m"] | None = None
    query: Any = None
    real: bool = eqx.field(static=True, default=False)

    def drive(self) -> Inexact[Array, "n *m"] | None:
        """k_t v_tᵀ of one position."""
        if self.key is None:
            return None
        key = plain(self.key)
        if self.value is None:
            return key
        value = self.value.astype(key.dtype)
        return jnp.expand_dims(key, range(1, 1 + value.ndim)) * value[None]

    def advance(self, h: Inexact[Array, "n *m"]) -> Inexact[Array, "n *m"]:
        """h_t from h_{t−1}."""
        h, drive = plain(self.transition).apply(h), self.drive()
        return h if drive is None else h + drive.astype(h.dtype)

    def read(self, h: Inexact[Array, "n *m"]) -> Inexact[Array, "..."]:
        """y_t from h_t."""
        if self.query is None:
            return h
        query = plain(self.query).astype(h.dtype)
        if not self.real:
            return jnp.tensordot(query, h, axes=1)
        return jnp.tensordot(query.real, h.real, 1) - jnp.tensordot(query.imag, h.imag, 1)


class Heads(eqx.Module):
    """Independent recurrences side by side: every array has an axis of heads, after that of time.

    Attributes:
        each: the recurrence of a head; y_t is the heads' outputs, stacked.
    """

    each: Recurrence


def stack(element: Callable[..., T], *inputs: PyTree) -> T:
    """The recurrence of a sequence: `element` of every position of the inputs.

    What `element` marks `Constant` is made once, and must not depend on the position.
    """
    return join(*jax.vmap(lambda *x: split(element(*x)), out_axes=(0, None))(*inputs))


def split(recurrence: T) -> tuple[T, T]:
    """What varies along time, and what is constant, each with None in place of the other."""
    varies = jax.tree.map(lambda x: not _is_constant(x), recurrence, is_leaf=_is_constant)
    return eqx.partition(recurrence, varies)


def join(varying: T, constant: T) -> T:
    """The inverse of `split`."""
    return eqx.combine(varying, constant)


def at(recurrence: T, index: Any) -> T:
    """Some of the positions of a sequence: an index or slice of its time axis."""
    varying, constant = split(recurrence)
    return join(jax.tree.map(lambda x: x[index], varying), constant)


def length_of(recurrence: Recurrence | Heads) -> int:
    """The number of positions of a sequence."""
    return jax.tree.leaves(split(recurrence)[0])[0].shape[0]


def zero_state(recurrence: Recurrence) -> Inexact[Array, "n *m"]:
    """h_0 = 0 for a sequence that has a drive."""
    varying, constant = split(recurrence)

    def like_state(position):
        r = join(position, constant)
        matrix, drive = plain(r.transition).matrix(), r.drive()
        return jnp.zeros(drive.shape, jnp.promote_types(matrix.dtype, drive.dtype))

    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), varying)
    zero = jax.eval_shape(like_state, first)
    return jnp.zeros(zero.shape, zero.dtype)


def closed(recurrence: Recurrence) -> Recurrence:
    """The same recurrence with transitions that vary along time, formed if they were lazy."""
    transition = recurrence.transition
    if isinstance(transition, Constant):
        length = length_of(recurrence)
        varying, constant = split(transition.value)
        repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), varying)
        transition = join(repeated, constant)
    if isinstance(transition, AbstractLazyTransition):
        varying, constant = split(transition)
        transition = jax.vmap(lambda t: join(t, constant).form())(varying)
    r = recurrence
    return Recurrence(transition, r.key, r.value, r.query, r.real)


def _is_constant(x: Any) -> bool:
    return isinstance(x, Constant)
