"""Nodes of a configuration: checked against what they will call, then built.

A node with a `_target_` is checked against its target's signature, and so is everything below it:
an unknown key, a missing one, a value of the wrong type, or a number that is not finite is one
`ConfigError` that names the key in full, the value, and what is valid.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import hydra.utils
from beartype.door import is_bearable
from beartype.roar import BeartypeException
from hydra.errors import HydraException

from experiments.errors import ConfigError
from experiments.trust import find_target

GIVEN = {
    "model": ("vocabulary", "channels", "n_outputs", "key"),
    "model.mixer": ("d_model", "channels", "key"),
}
"""Arguments that the program gives to what a `_partial_` node makes, and a user may not."""
HYDRA_KEYS: dict[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": typing.Literal["none", "partial", "object", "all"],
    "_args_": list,
}


def instantiate(path: str, node: Any, kind: Any) -> Any:
    """Checks a node and everything below it, then builds it: an object of some kind."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path}: got {node!r}; expected an option of this group")
    _check_node(path, node)
    try:
        # Of Hydra's own search by name the result might be another than was checked.
        built = hydra.utils.instantiate(_with_targets(node), _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, TypeError | ValueError | OSError | HydraException):
            raise cause from None  # a fault of the program, not of what was given
        inner = re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE)
        part, where = (below(node, inner[1]), f"{path}.{inner[1]}") if inner else (node, path)
        raise ConfigError(located(where, cause, part)) from error
    if not isinstance(built, kind):
        raise ConfigError(
            f"{path}._target_: got {node['_target_']!r}; expected what makes an {kind.__name__}"
        )
    return built


def _with_targets(node: Any) -> Any:
    """The same node with the classes and functions themselves in place of their names."""
    if isinstance(node, list):
        return [_with_targets(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    return {
        key: find_target("", value) if key == "_target_" else _with_targets(value)
        for key, value in node.items()
    }


def _check_node(path: str, node: Any) -> None:
    """Checks what is in a node against the signatures of its target and of those below it."""
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{path}: got {node}; expected a finite number")
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check_node(f"{path}[{index}]", item)
    if isinstance(node, Mapping):
        for key, value in node.items():
            _check_node(f"{path}.{key}", value)
        if "_target_" in node:
            _check_call(path, node)


def _check_call(path: str, node: Mapping[str, Any]) -> None:
    """Checks one node's keys and values against its target's signature."""
    target = find_target(path, node["_target_"])
    parameters, hints = inspect.signature(target).parameters, _type_hints(target)
    named = {
        k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    takes = [name for name in named if name not in GIVEN.get(path, ())]
    for key, value in node.items():
        hint = HYDRA_KEYS.get(key, hints.get(key, Any))
        if key not in takes and key not in HYDRA_KEYS:
            valid = ", ".join(takes) or "no arguments"
            raise ConfigError(f"{path}.{key}: unknown key; {node['_target_']} takes {valid}")
        if wrong := _misfit(value, hint):
            where, part = wrong
            raise ConfigError(f"{path}.{key}{where}: got {part!r}; expected {_describe(hint)}")
    partial = node.get("_partial_", False)
    if path in GIVEN and not partial:
        raise ConfigError(f"{path}._partial_: got {partial}; expected True")
    missing = [k for k in takes if named[k].default is inspect.Parameter.empty and k not in node]
    if missing and "_args_" not in node and (path in GIVEN or not partial):
        raise ConfigError(f"{path}: {node['_target_']} needs {', '.join(missing)}")


def _type_hints(target: Any) -> dict[str, Any]:
    """Annotations of a target's arguments, as far as they can be resolved."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        annotations = {k: p.annotation for k, p in inspect.signature(target).parameters.items()}
        return {k: a for k, a in annotations.items() if a is not inspect.Parameter.empty}


def _misfit(value: Any, hint: Any) -> tuple[str, Any] | None:
    """Where in a value, and what there, is not of a type; None if all is."""
    if not value or not _fits(type(value)(), hint):
        return None if _fits(value, hint) else ("", value)
    if isinstance(value, list):  # beartype looks at one item only, by chance
        wrong = [(f"[{i}]", item) for i, item in enumerate(value) if not _fits([item], hint)]
    elif isinstance(value, Mapping) and "_target_" not in value:
        wrong = [(f".{k}", item) for k, item in value.items() if not _fits({k: item}, hint)]
    else:
        wrong = [] if _fits(value, hint) else [("", value)]
    return wrong[0] if wrong else None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; an integer may be a real number, a boolean is no number."""
    try:
        value = _stand_in(value)
        if isinstance(value, bool):
            return is_bearable(value, hint) and bool in _members(hint)
        real = float(value) if isinstance(value, int) else value
        return is_bearable(value, hint) or is_bearable(real, hint)
    except OverflowError:
        return False
    except (BeartypeException, _UnknownType):
        return True


class _UnknownType(Exception):
    """What a node makes is not known before it is called."""


def _stand_in(value: Any) -> Any:
    """The value with an empty object in place of each node, of the type of what the node makes."""
    if isinstance(value, list):
        return [_stand_in(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {key: _stand_in(item) for key, item in value.items()}
    if value.get("_partial_"):
        return _stand_in  # a function, as it makes one
    target = find_target("", value["_target_"])
    if not inspect.isclass(target) or issubclass(target, tuple):
        raise _UnknownType
    return object.__new__(target)


def _members(hint: Any) -> set[Any]:
    """The types of a union; `bool` stands for anything."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return {t for member in typing.get_args(hint) for t in _members(member)}
    return {bool} if hint in (Any, object) else {hint}


def _describe(hint: Any) -> str:
    """A type in words: "int or null", "one of 'core', 'full'"."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(dict.fromkeys(map(_describe, typing.get_args(hint))))
    if hint is type(None):
        return "null"
    plain = isinstance(hint, type) and typing.get_origin(hint) is None
    return hint.__name__ if plain else re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))


def located(path: str, error: BaseException, node: Any) -> str:
    """An error's first line, with the full keys of the arguments that it begins with.

    It is "name: got …", "name must be …", or "first, second: got …"; "mixer.name: …" is of a node
    below.
    """
    message = first_line(error)
    match = re.match(r"((?:\w+\.)*)(\w+(?:, \w+)*)(?=: | must )", message)
    owner = below(node, match[1].rstrip(".")) if match else None
    names = match[2].split(", ") if match else []
    if match is None or not isinstance(owner, Mapping) or not all(n in owner for n in names):
        return f"{path}: {message}"
    return ", ".join(f"{path}.{match[1]}{name}" for name in names) + message[match.end() :]


def first_line(error: BaseException) -> str:
    """Of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def below(node: Any, key: str) -> Any:
    """What plain data hold at a dotted key, or None."""
    for part in filter(None, key.split(".")):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
