"""One step after the other: the form to read, and the oracle of the others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ssm.recurrence import Recurrence, closed, join, split
from ssm.transition import AbstractLazyTransition


class _Parts(NamedTuple):
    """A complex array as two real ones, with which XLA's loops on a CPU are far faster."""

    real: Array
    imag: Array


def sequential(
    r: Recurrence, h0: Inexact[Array, "n *m"]
) -> tuple[Inexact[Array, "length ..."], Inexact[Array, "n *m"]]:
    """y_1 … y_L and h_L of a recurrence, by a loop over its positions."""
    if isinstance(r.transition, AbstractLazyTransition) and r.transition.less_work_if_formed:
        r = closed(r)  # all matrices by one product
    varying, constant = split(r)

    def step(h, position):
        position = join(_whole(position), constant)
        h = position.advance(_whole(h))
        return _parts(h), _parts(position.read(h))

    last, outputs = jax.lax.scan(step, _parts(h0), _parts(varying))
    return _whole(outputs), _whole(last)


def last_state(r: Recurrence, h0: Inexact[Array, "n *m"]) -> Inexact[Array, "n *m"]:
    """h_L of a recurrence, without the outputs."""
    varying, constant = split(r)

    def step(h, position):
        return join(position, constant).advance(h), None

    return jax.lax.scan(step, h0, varying)[0]


def _parts(tree: Any) -> Any:
    return jax.tree.map(lambda x: _Parts(x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def _whole(tree: Any) -> Any:
    def is_parts(x):
        return isinstance(x, _Parts)

    return jax.tree.map(lambda x: jax.lax.complex(*x) if is_parts(x) else x, tree, is_leaf=is_parts)
