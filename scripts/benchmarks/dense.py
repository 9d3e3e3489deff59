"""Dense linear recurrences over given matrices, forward and backward, in two forms."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.random as jr

from benchmarks.harness import (
    Options,
    Row,
    check_agreement,
    rows,
    temporary_megabytes,
    time_in_turn,
)
from ssm.recurrence import Recurrence, stack
from ssm.scans import associative, sequential
from ssm.transition import Dense

RECURRENCES = [(32, 64), (32, 1024), (256, 64), (256, 1024)]
"""(d_hidden, length) of a dense recurrence."""

RECURRENCE_BATCH = 4


def dense_recurrence(options: Options) -> list[Row]:
    """h_t = A_t h_{t−1} + b_t for given dense A_t, step by step and as a parallel scan."""
    found: list[Row] = []
    for d_hidden, length in RECURRENCES:
        k = jr.split(jr.key(0), 3)
        shape = (RECURRENCE_BATCH, length, d_hidden)
        a = jr.normal(k[0], (*shape, d_hidden)) / d_hidden**0.5
        arguments = (a, jr.normal(k[1], shape), jr.normal(k[2], (RECURRENCE_BATCH, d_hidden)))
        compiled = {
            name: _compile_recurrence(form, arguments)
            for name, form in (
                ("sequential", sequential),
                ("associative", associative),
            )
        }
        runs: dict[str, Callable[[], Any]] = {
            name: partial(c, *arguments)
            for name, c in compiled.items()
            if temporary_megabytes(c) <= options.limit
        }
        check_agreement({name: run() for name, run in runs.items()}, 1e-3)
        seconds = time_in_turn(runs, options.repeats)
        extra: dict[str, Row] = {
            name: {"temporary MB": temporary_megabytes(compiled[name])} for name in runs
        }
        case = f"(batch, length, d_hidden) = {shape}"
        found += rows("dense_recurrence", case, seconds, "sequential", extra)
    return found


def _compile_recurrence(form: Callable[..., Any], arguments: tuple[jax.Array, ...]) -> Any:
    """The states, and all gradients of Σ h²/2, compiled."""

    def states(a, b, h0):
        return form(stack(lambda a, b: Recurrence(Dense(a), b), a, b), h0)[0]

    def run(*args):
        h, pull_back = jax.vjp(jax.vmap(states), *args)
        return h, *pull_back(h)

    return jax.jit(run).lower(*arguments).compile()
