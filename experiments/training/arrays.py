"""Arrays from files that a stranger may have written: no pickle, and never more than is there.

A `.npy` header says a shape and a type. They are held against what the file has left before any
memory is taken, so that a header which claims 400 GB costs an error and nothing else.
"""

import io
import math
import os
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple, cast

import numpy as np
from numpy.lib import format as npy

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Header(NamedTuple):
    """What a `.npy` header says of the array that follows it."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def read_header(file: io.BufferedIOBase) -> Header:
    """The header that comes next in a file.

    Raises:
        ValueError: if none does, or if it is of objects, which only pickle could read.
    """
    start = file.read(npy.MAGIC_LEN)
    if not start:
        raise ValueError("got the end of the file")
    try:
        read = HEADERS[npy.read_magic(io.BytesIO(start))]
        header = Header(*read(file))
    except (KeyError, MemoryError, RecursionError, SyntaxError, TokenError, ValueError) as error:
        raise ValueError("got no header of an array as NumPy writes it") from error
    if header.dtype.hasobject or min(header.shape, default=0) < 0:
        raise ValueError(f"got an array {header}, which is not of numbers")
    return header


def read_body(file: io.BufferedIOBase, header: Header, left: int) -> np.ndarray:
    """The array that follows its header.

    Arguments:
        left: bytes that the file still has.

    Raises:
        ValueError: if the array would have more than that.
    """
    if header.nbytes > left:
        raise ValueError(f"got {left:,} bytes of an array {header}, which has {header.nbytes:,}")
    data = bytearray(file.read(header.nbytes))
    if len(data) < header.nbytes:
        raise ValueError(f"got {len(data):,} bytes of an array {header}; expected all")
    return np.ndarray(
        header.shape, header.dtype, buffer=data, order="F" if header.by_columns else "C"
    )


def bytes_left(file: io.BufferedIOBase) -> int:
    """From where a file on disk stands, to its end."""
    return os.fstat(file.fileno()).st_size - file.tell()


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` archive as `numpy.savez` writes it, not compressed.

    Every array's checksum is compared.

    Raises:
        OSError, RuntimeError, ValueError, zipfile.BadZipFile: if it is none, or is damaged.
    """
    size, arrays = path.stat().st_size, {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise ValueError("got a compressed archive; expected one as numpy.savez writes it")
        if sum(m.file_size for m in members) > size:
            raise ValueError("got an archive whose arrays have more bytes than the file")
        for member in members:
            with cast(zipfile.ZipExtFile, archive.open(member)) as file:
                header = read_header(file)
                arrays[member.filename.removesuffix(".npy")] = read_body(
                    file, header, member.file_size - file.tell()
                )
                if file.read(1):  # at the end the checksum is compared
                    raise ValueError(f"{member.filename}: got more than an array {header}")
    return arrays
