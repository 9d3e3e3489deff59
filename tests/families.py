"""Every mixer there is, found: a file in `ssm/mixers/` is enough for a family to be tested.

A mixer is built with its defaults; with each other value of each option that is a choice (`Literal`
or `bool`), one at a time; and a linear CDE with each solver.
"""

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable

import ssm.mixers
from ssm import cde
from ssm.mixers.base import AbstractMixer, AbstractRecurrentMixer

WIDTH = 8


def _classes() -> list[type[AbstractMixer]]:
    modules = [
        importlib.import_module(f"ssm.mixers.{module.name}")
        for module in pkgutil.iter_modules(ssm.mixers.__path__)
    ]
    return [
        c
        for m in modules
        for c in vars(m).values()
        if inspect.isclass(c)
        and issubclass(c, AbstractMixer)
        and not inspect.isabstract(c)
        and c.__module__ == m.__name__
    ]


def _choices(hint) -> tuple:
    if hint is bool:
        return (False, True)
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if inspect.isclass(hint) and issubclass(hint, cde.AbstractSolver):
        return (cde.Euler(), cde.ExactFlow(substeps=2), cde.Tsit5())
    return tuple(c for member in typing.get_args(hint) for c in _choices(member))


def _variants() -> dict[str, Callable[..., AbstractMixer]]:
    found: dict[str, Callable[..., AbstractMixer]] = {}
    for c in _classes():
        found[c.__name__] = c
        hints = typing.get_type_hints(c.__init__)
        for name, parameter in inspect.signature(c.__init__).parameters.items():
            for value in _choices(hints.get(name)):
                if value != parameter.default:
                    text = value if isinstance(value, str) else type(value).__name__
                    found[f"{c.__name__}, {name} {text}"] = functools.partial(c, **{name: value})
    for solver in (cde.ExactFlow(), cde.Tsit5()):  # two options at once
        options = {"structure": "diagonal", "gate_omega": "path", "gate_xi": "path"}
        name = f"LinearCDE, diagonal, path, {type(solver).__name__}"
        found[name] = functools.partial(ssm.mixers.LinearCDE, **options, solver=solver)
    return found


MIXERS = _variants()
"""Constructors, called as `MIXERS[name](WIDTH, key=key)`."""

FAMILIES = [n for n in MIXERS if " bool" not in n]
"""Without the variants that change numbers only: for what takes long."""

RECURRENT = [
    n for n, make in MIXERS.items()
    if n in FAMILIES and issubclass(getattr(make, "func", make), AbstractRecurrentMixer)
]  # fmt: skip
"""Those that are linear recurrences by their `element`."""

ADAPTIVE = [n for n in MIXERS if "Tsit5" in n]
"""Those whose steps depend on all that is solved at once: pieces agree with the whole to the
solver's tolerance, and an input that is not finite is an error."""
