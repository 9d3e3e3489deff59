"""Reading files: whatever goes wrong is one `ValueError` that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What is read inside is missing or damaged if it fails, and the error says which and why."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None
    except KeyError as error:
        raise ValueError(f"{path}: damaged, it has no {error}") from error
    except (TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [""])[0].removeprefix(f"{path}, ")
        raise ValueError(f"{path}: damaged, {reason}") from error


def mapping(data: Any) -> dict[str, Any]:
    """The same data, which must be a mapping."""
    if not isinstance(data, dict):
        raise TypeError(f"got {type(data).__name__}, expected a mapping")
    return data


def number(value: Any) -> float | None:
    """A number, or None for nothing: an empty cell of a table, a null of JSON."""
    return None if value is None or value == "" else float(value)
