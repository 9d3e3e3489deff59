"""Model states on disk: one file of arrays, written whole or not at all, without pickle."""

import os
import tempfile
from pathlib import Path

import equinox as eqx
from jaxtyping import PyTree


def save(path: Path, tree: PyTree) -> None:
    """Writes the arrays of `tree` to `path`: to a temporary file that then replaces it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            eqx.tree_serialise_leaves(file, tree)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path, like: PyTree) -> PyTree:
    """The arrays at `path`, in a tree of the structure, shapes and dtypes of `like`.

    Raises:
        RuntimeError: if the file holds other shapes or dtypes.
    """
    with open(path, "rb") as file:
        return eqx.tree_deserialise_leaves(file, like)
