"""Which scan for which structure, length and backend: chosen here, and nowhere else.

The choices are measured ones; `scripts/benchmark.py` measures them again (docs/performance.md).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ssm.batching import reverse_only_tree
from ssm.recurrence import Heads, Recurrence, join, length_of, split, zero_state
from ssm.scans.blocked import blocked
from ssm.scans.convolution import convolution
from ssm.scans.kernel import kernel, kernel_runs
from ssm.scans.parallel import associative, chunked
from ssm.scans.sequential import sequential
from ssm.scans.tokens import tokens
from ssm.transition import (
    AbstractClosedTransition,
    AbstractLazyTransition,
    Constant,
    Decay,
    Diagonal,
    Generated,
    TokenIncrement,
    plain,
)

Form = Literal[
    "auto", "sequential", "associative", "chunked", "convolution", "blocked", "kernel", "tokens"
]
"""The names of the scans; "auto" chooses."""

Scan = Callable[[Recurrence, Any], tuple[Array, Array]]
_SCANS: dict[str, Scan] = {
    "sequential": sequential,
    "associative": associative,
    "chunked": chunked,
    "convolution": convolution,
    "blocked": blocked,
    "kernel": kernel,
    "tokens": tokens,
}
_FROM_NONE = ("convolution", "blocked")
"""Forms that have less to do from a zero state."""

_REVERSE_MODE = {"blocked": "chunked", "kernel": "chunked", "tokens": "sequential"}
"""Forms with a derivative of their own, and the plain forms beside them."""


def scan(
    r: Recurrence | Heads, h0: Inexact[Array, "..."] | None = None, *, form: str = "auto"
) -> tuple[Inexact[Array, "length ..."], Inexact[Array, "..."]]:
    """The outputs y_1 … y_L of a recurrence, and its last state h_L.

    Arguments:
        r: a sequence, from `ssm.recurrence.stack`. Of heads, each is scanned on its own.
        h0: the state before it; None for zero.
        form: the algorithm, see `ssm.scans`; "auto" chooses.

    Returns:
        y of shape (length, …), and h_L.

    Raises:
        ValueError: for a form that the structure does not admit, or that cannot run here.
    """
    if isinstance(r, Heads):
        varying, constant = split(r.each)
        return jax.vmap(
            lambda v, c, h: scan(join(v, c), h, form=form), in_axes=(1, 0, 0), out_axes=(1, 0)
        )(varying, constant, h0)
    form = chosen(r) if form == "auto" else form
    if form not in forms(r):
        raise ValueError(
            f"form: got {form!r} for {_described(r)}; expected one of {['auto', *forms(r)]}"
        )
    if length_of(r) == 0:
        form = "sequential"
    if form not in _FROM_NONE and h0 is None:
        h0 = zero_state(r)
    if form in _REVERSE_MODE:
        message = (
            f"form: {form!r} has derivatives by reverse mode only; for forward mode (jvp, "
            "linearize, Hessian-vector products) build the mixer with "
            f"form={_REVERSE_MODE[form]!r}"
        )
        return _SCANS[form](*reverse_only_tree((r, h0), message))
    return _SCANS[form](r, h0)


def forms(r: Recurrence) -> list[str]:
    """The forms that a recurrence admits, here."""
    transition = plain(r.transition)
    admitted = ["sequential"]
    if isinstance(transition, AbstractClosedTransition | AbstractLazyTransition):
        admitted += ["associative", "chunked"]
    if _is_convolution(r):
        admitted += ["convolution"]
    if _is_selective(r):
        admitted += ["blocked"]
        decay: Any = transition
        if kernel_runs(*jax.tree.leaves((decay.delta, decay.rate.value, r.key, r.value, r.query))):
            admitted += ["kernel"]
    if _is_of_tokens(r):
        admitted += ["tokens"]
    return admitted


def chosen(r: Recurrence) -> str:
    """The form that "auto" is."""
    admitted, on_cpu = forms(r), jax.default_backend() == "cpu"
    if "tokens" in admitted:  # for a single position too: the derivative of A is laid out for it
        return "tokens"
    if length_of(r) <= 1:
        return "sequential"
    if "kernel" in admitted:
        return "kernel"
    if "blocked" in admitted:
        return "blocked" if on_cpu else "chunked"
    if "convolution" in admitted:
        return "convolution"
    diagonal = isinstance(plain(r.transition), Diagonal | Decay)
    return "chunked" if diagonal and not on_cpu else "sequential"


def check_form(form: str) -> None:
    """Raises ValueError unless `form` is the name of a form."""
    if form not in get_args(Form):
        raise ValueError(f"form: got {form!r}; expected one of {list(get_args(Form))}")


def _is_convolution(r: Recurrence) -> bool:
    parts = (r.transition, r.key, r.query)
    if not all(isinstance(x, Constant) for x in parts) or r.value is None or r.value.ndim != 1:
        return False
    transition, key, query = map(plain, parts)
    diagonal = isinstance(transition, Diagonal) and transition.d.ndim == 1
    return diagonal and (r.real or not any(map(jnp.iscomplexobj, (transition.d, key, query))))


def _is_selective(r: Recurrence) -> bool:
    if not isinstance(r.transition, Decay) or r.transition.delta.ndim != 2:
        return False
    parts = (r.key, r.value, r.query)
    if any(isinstance(x, Constant) or x is None for x in parts):
        return False
    rate = r.transition.rate.value
    return rate.size > 0 and not any(map(jnp.iscomplexobj, (rate, *parts)))


def _is_of_tokens(r: Recurrence) -> bool:
    of_tokens = isinstance(r.transition, Generated) and isinstance(
        r.transition.d_omega, TokenIncrement
    )
    driven = r.key is not None and not isinstance(r.key, Constant)
    return of_tokens and driven and r.value is None and r.query is None


def _described(r: Recurrence) -> str:
    kind = type(plain(r.transition)).__name__
    return f"constant {kind}" if isinstance(r.transition, Constant) else kind
