"""What a configuration may call: this project's classes, Optax, and packages that the user names.

A `_target_` comes from the command line, or from the directory of a run that a stranger may have
made. It is checked by its name before anything is imported, and by what it turns out to be before
anything is called: a class or a function defined in one of the packages, reached by its name, not
by way of a module that one of them imports.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from experiments.errors import ConfigError

PACKAGES = ("ssm", "tasks", "experiments", "optax")
VARIABLE = "SELECTIVE_SSM_TRUST"
"""Holds the packages that the user trusts beside these, separated by commas. The jobs of a sweep
inherit it; no run's directory has it."""

FUNCTIONS = ("ssm", "optax", "experiments.training.optimizer")
"""Where functions may be called too. Others of this project have effects, on files for example."""


def trust(packages: str) -> None:
    """Trusts packages for the life of the process and of those it starts.

    Arguments:
        packages: names separated by commas.

    Raises:
        ConfigError: for what is no name of a package.
    """
    names = [name.strip() for name in packages.rstrip(",").split(",")]
    if wrong := [name for name in names if not name.isidentifier()]:
        raise ConfigError(
            f"trust: got {wrong[0]!r}; expected the names of packages whose classes a "
            "configuration may call, as in trust=mypackage"
        )
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_named(), *names]))


def check_targets(path: str, node: Any) -> None:
    """Checks every `_target_` of plain data, by name; imports nothing.

    Raises:
        ConfigError: for the first that is of another package.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_name(path, node["_target_"])
        for key, value in node.items():
            check_targets(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            check_targets(f"{path}[{index}]", value)


def check_resolved(path: str, node: Any) -> None:
    """Refuses what is left of a reference once all are resolved: it would be resolved again later,
    after the targets were checked.

    Raises:
        ConfigError: for the first.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            check_resolved(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            check_resolved(f"{path}[{index}]", value)
    elif isinstance(node, str) and "${" in node:
        raise ConfigError(f"{path}: got {node!r}; expected a value without '${{'")


def find_target(path: str, name: Any) -> Any:
    """The class or function of a name.

    Raises:
        ConfigError: unless it is one that a configuration may call.
    """
    _check_name(path, name)
    target = _resolve(path, name)
    where = getattr(target, "__module__", None) or ""
    function = inspect.isroutine(target) and not inspect.isclass(target)
    packages = (*FUNCTIONS, *_named()) if function else (*PACKAGES, *_named())
    if isinstance(target, ModuleType) or not (function or inspect.isclass(target)):
        raise ConfigError(f"{path}._target_: got {name!r}; expected a class or function")
    if not _within(where, packages):
        kind = "function" if function else "class"
        raise ConfigError(
            f"{path}._target_: got {name!r}, a {kind} of {where or 'no module'}; expected "
            f"{_expected()}"
        )
    if inspect.isabstract(target):
        raise ConfigError(f"{path}._target_: got {name!r}; expected a class that is not abstract")
    return target


def _check_name(path: str, name: Any) -> None:
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(
            f"{path}._target_: got {name!r}; expected the name of a class, as in ssm.mixers.Mamba"
        )
    if parts[0] not in (*PACKAGES, *_named()):
        raise ConfigError(
            f"{path}._target_: got {name!r}; expected {_expected()} (trust={parts[0]} adds one, "
            "on the command line)"
        )


def _resolve(path: str, name: str) -> Any:
    """Imports the module, and looks the rest up in it."""
    parts = name.split(".")
    here = f"{path}._target_: got {name!r}"
    count = 1
    try:
        found: Any = importlib.import_module(parts[0])
        while count < len(parts) and _is_module(".".join(parts[: count + 1])):
            count += 1
            found = importlib.import_module(".".join(parts[:count]))
    except Exception as error:  # importing a module can fail in any way
        module = ".".join(parts[:count])
        reason = (str(error).splitlines() or [""])[0]
        if isinstance(error, ModuleNotFoundError):
            reason += "; is its folder in PYTHONPATH?"
        raise ConfigError(
            f"{here}; importing {module} fails: {type(error).__name__}: {reason}"
        ) from error
    module = ".".join(parts[:count])
    for part in parts[count:]:
        if part.startswith("_") or not hasattr(found, part):
            valid = sorted(n for n, x in vars(found).items() if _is_own(n, x, module))
            raise ConfigError(
                f"{here}; {module} has no {part}; expected one of {', '.join(valid) or 'nothing'}"
            )
        found = getattr(found, part)
    return found


def _is_module(name: str) -> bool:
    parent = importlib.import_module(name.rpartition(".")[0])
    if name in sys.modules or not hasattr(parent, "__path__"):
        return name in sys.modules
    return importlib.util.find_spec(name) is not None


def _is_own(name: str, value: Any, module: str) -> bool:
    own = str(getattr(value, "__module__", "")).partition(".")[0] == module.partition(".")[0]
    return own and inspect.isclass(value) and not name.startswith("_")


def _named() -> tuple[str, ...]:
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _expected() -> str:
    return f"a class or function of {', '.join((*PACKAGES, *_named()))}"
