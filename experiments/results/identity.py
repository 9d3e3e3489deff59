"""What a run computes, as a hash: the same configuration, seeds and code give the same number.

Where the results go, how they are logged and how many devices compute them are no part of it.
"""

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNRELATED = ("options", "logger", "published", "see_also", "resume", "train.checkpoint_seconds")
"""Keys that do not change what is computed."""

SWEEP_CODE = "SELECTIVE_SSM_SWEEP_CODE"


def cell_of(config: Mapping[str, Any]) -> str:
    """Eight digits that tell configurations apart, whatever their seeds."""
    flat = flatten(config)
    return _hash({k: v for k, v in flat.items() if not _under(k, (*UNRELATED, "seeds"))})


def configuration_of(config: Mapping[str, Any]) -> str:
    """Eight digits that tell what is computed apart, seeds and all, whatever the code."""
    return _hash({k: v for k, v in flatten(config).items() if not _under(k, UNRELATED)})


def identity_of(config: Mapping[str, Any], code: str | None = None) -> str:
    """Eight digits that tell runs apart: by configuration, seeds and code.

    Unless given, the code of a sweep is what it was when the sweep was started (`SWEEP_CODE` in the
    environment), so that a job which starts late, or again, finds its directory.
    """
    flat = {k: v for k, v in flatten(config).items() if not _under(k, UNRELATED)}
    return _hash({**flat, "code": code or os.environ.get(SWEEP_CODE) or code_version()})


@functools.cache
def code_version() -> str:
    """A hash of the source of `ssm`, `tasks` and `experiments`, and of what the user trusts."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in ("ssm", "tasks", "experiments"):
        for path in sorted((root / package).rglob("*.py")):
            if (root / package / "analysis") in path.parents:  # computes no result
                continue
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    for package in filter(None, os.environ.get("SELECTIVE_SSM_TRUST", "").split(",")):
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec else None
        files = [p for folder in folders or () for p in sorted(Path(folder).rglob("*.py"))]
        for path in files or ([Path(spec.origin)] if spec and spec.origin else []):
            digest.update(f"{package} {path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys in which two configurations compute different things, as "key: old, now new"."""
    old, new = flatten(before), flatten(now)
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key, "absent"), new.get(key, "absent")
        if a != b and not _under(key, UNRELATED):
            found.append(f"{key}: {a!r}, now {b!r}")
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _under(key: str, parents: tuple[str, ...]) -> bool:
    return any(key == p or key.startswith(f"{p}.") for p in parents)


def _hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]
