"""States on disk: files of arrays, written whole or not at all, and read without pickle.

A checkpoint is one `.npz` file, a zip archive of NumPy arrays, with a description in JSON among
them. Every array has a checksum; nothing in a file is ever executed. The parameters of a finished
seed are in Equinox's own format.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.results.files import atomic
from experiments.training.arrays import bytes_left, read_archive, read_body, read_header

KEPT = 2
DESCRIPTION = "description"


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    path: Path
    description: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def restore(self, like: PyTree, prefix: str = "") -> PyTree:
        """The arrays, in a tree of the structure of `like`.

        Arguments:
            prefix: of the arrays' names, where `like` is a part of what was written.

        Raises:
            ValueError: if an array is missing or has another shape or dtype; it names the array.
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        found = []
        for path, leaf in leaves:
            name = prefix + jax.tree_util.keystr(path)
            array = self.arrays.get(name)
            if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
                got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
                expected = f"{leaf.dtype}{list(leaf.shape)}"
                raise ValueError(f"{self.path}: array {name}: expected {expected}, got {got}")
            found.append(array)
        return jax.tree.unflatten(structure, found)


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a damaged one."""


def write(directory: Path, tree: PyTree, description: Mapping[str, Any]) -> Path:
    """Adds a checkpoint to a directory, and removes all but the newest two.

    Arguments:
        tree: of arrays, on a device or not.
        description: plain data that JSON can hold.

    Raises:
        OSError: if it cannot be written; what was there stays as it was.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    text = json.dumps(dict(description)).encode()
    before = list_files(directory)
    number = int(before[-1].stem.rpartition("-")[2]) + 1 if before else 1
    path = directory / f"checkpoint-{number:06}.npz"
    with atomic(path) as file:
        arrays[DESCRIPTION] = np.frombuffer(text, np.uint8)
        np.savez(file, allow_pickle=False, **arrays)
    for old in [*before, path][:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        CheckpointError: if the file is not a whole checkpoint.
    """
    try:
        arrays = read_archive(path)
        description = json.loads(arrays.pop(DESCRIPTION).tobytes())
        if not isinstance(description, dict):
            raise TypeError("its description is not a mapping")
    except (
        AttributeError, EOFError, KeyError, MemoryError, NotImplementedError, OSError,
        OverflowError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged ({error})") from error
    return Checkpoint(path, description, arrays)


def newest(
    directory: Path,
    warn: Callable[[str], None],
    check: Callable[[Mapping[str, Any]], None] = lambda description: None,
) -> Checkpoint | None:
    """The newest checkpoint of a directory that is whole, or None if there is none at all.

    Arguments:
        warn: told of each damaged file that is passed over.
        check: raises ValueError for a description that is not one.

    Raises:
        CheckpointError: if there are checkpoints, and all are damaged.
    """
    files = list_files(directory)
    damaged: list[Path] = []
    for path in reversed(files):
        try:
            found = read(path)
            check(found.description)
        except ValueError as error:
            known = isinstance(error, CheckpointError)
            reason = error if known else f"{path} is damaged ({error})"
            warn(f"{reason}; the one before it is used, if it is whole")
            damaged.append(path)
            continue
        for other in damaged:  # it would count as one of the two that are kept
            other.unlink()
        return found
    if files:
        raise CheckpointError(
            f"{directory}: every checkpoint is damaged; remove the directory to start again"
        )
    return None


def list_files(directory: Path) -> list[Path]:
    """The checkpoints of a directory, oldest first."""
    return sorted(directory.glob("checkpoint-*.npz"))


def save(path: Path, tree: PyTree) -> None:
    """Writes the arrays of `tree` to `path` in Equinox's format."""
    with atomic(path) as file:
        eqx.tree_serialise_leaves(file, tree)


def load(path: Path, like: PyTree) -> PyTree:
    """The arrays that `save` wrote, in a tree of the structure, shapes and dtypes of `like`.

    Numbers of Python in `like` stay as they are, though the file has them too. No more memory is
    taken than `like` needs and the file has.

    Raises:
        CheckpointError: if the file is damaged or holds other arrays; it names the first.
        OSError: if it cannot be read.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    with open(path, "rb") as file:
        found = [_next_leaf(file, leaf, jax.tree_util.keystr(where)) for where, leaf in leaves]
        if left := bytes_left(file):
            raise CheckpointError(f"{path}: got {left:,} bytes after the last array; expected none")
    return jax.tree.unflatten(structure, found)


def _next_leaf(file: BufferedReader, leaf: Any, name: str) -> Any:
    """The array that comes next in a file, in place of a leaf; or the leaf, if it is no array."""
    is_array = hasattr(leaf, "dtype")
    if not (is_array or eqx.is_array_like(leaf)):
        return leaf
    shape, dtype = (leaf.shape, leaf.dtype) if is_array else ((), None)
    try:
        header = read_header(file)
        if header.shape != shape or dtype not in (None, header.dtype):
            raise ValueError(f"got {header}")
        array = read_body(file, header, bytes_left(file))
    except ValueError as error:
        expected = f"{dtype}{list(shape)}" if is_array else "a number"
        raise CheckpointError(f"{file.name}: array {name}: {error}; expected {expected}") from error
    if not is_array:
        return leaf
    return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)
