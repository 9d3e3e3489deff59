"""The crossovers that `ssm/scans/choice.py` rests on: every form of a structure, by length.

Forward and with all gradients, of recurrences as the families make them. The rows of a case are the
forms; the fastest is the one to choose there.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.random as jr

from benchmarks.harness import Options, Row, check_agreement, rows, time_in_turn
from ssm.cde import Euler
from ssm.mixers import S4, S5, LinearCDE
from ssm.mixers.mamba import S6

of_convolution: Any = importlib.import_module("ssm.scans.convolution")  # not the function

LENGTHS = (4, 20, 100, 1000)
"""Of a sequence: those of A5, of Figure 1's paths, and a long one."""

POSITIONS = 3200
"""In a batch, whatever the length."""

WIDTH = 64

FAMILIES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "S5: complex diagonal, constant A": (S5, ("sequential", "associative", "chunked")),
    "diagonal CDE: real diagonal": (
        partial(LinearCDE, structure="diagonal", gate_omega="path", gate_xi="path"),
        ("sequential", "associative", "chunked"),
    ),
    "S6: selective": (S6, ("sequential", "chunked", "blocked")),
    "S4: constant A, key and query": (S4, ("sequential", "chunked", "convolution")),
}

WHOLE_LENGTHS = (48, 64, 100, 128, 192, 256, 512)
"""Around the longest sequence whose convolution is one Toeplitz product."""


def dispatch(options: Options) -> list[Row]:
    """Each family in each form at each length, and the convolution whole or in chunks."""
    found: list[Row] = []
    for name, (make, forms) in FAMILIES.items():
        for length in LENGTHS:
            x = jr.normal(jr.key(1), (max(1, POSITIONS // length), length, WIDTH))
            runs = {form: _compiled(_built(make, form), x) for form in forms}
            found += _rows(f"{name}, (batch, length, width) = {x.shape}", runs, options)
    for length in WHOLE_LENGTHS:
        x = jr.normal(jr.key(1), (max(1, POSITIONS // length), length, WIDTH))
        layer = S4(WIDTH, form="convolution", key=jr.key(0))
        before, runs = of_convolution.WHOLE, {}
        try:
            for form, whole in (("in chunks", 0), ("one product", length)):
                of_convolution.WHOLE = whole
                runs[form] = _compiled(layer, x)
        finally:
            of_convolution.WHOLE = before
        found += _rows(f"convolution, (batch, length, width) = {x.shape}", runs, options)
    return found


def _built(make: Callable[..., Any], form: str) -> Any:
    if make is S5 or make is S4 or make is S6:
        return make(WIDTH, form=form, key=jr.key(0))
    return make(WIDTH, solver=Euler(form=form), key=jr.key(0))


def _compiled(layer: Any, x: jax.Array) -> Callable[[], Any]:
    """The outputs of a batch and the gradients of half the sum of their squares."""
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    def both(x, parameters):
        def forward(x, parameters):
            layer = eqx.combine(parameters, static)
            return jax.vmap(lambda x: layer(x)[0])(x)

        y, pull_back = jax.vjp(forward, x, parameters)
        return y, *pull_back(y)

    return partial(jax.jit(both).lower(x, parameters).compile(), x, parameters)


def _rows(case: str, runs: dict[str, Callable[[], Any]], options: Options) -> list[Row]:
    check_agreement({form: run() for form, run in runs.items()}, 1e-3)
    seconds = time_in_turn(runs, options.repeats)
    best = min(seconds, key=lambda form: seconds[form])
    extra: dict[str, Row] = {form: {"fastest": "yes" if form == best else ""} for form in runs}
    first = next(iter(runs))
    return rows("dispatch", f"{case}, forward and backward", seconds, first, extra)
