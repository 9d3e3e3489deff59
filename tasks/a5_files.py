"""The published files of the A5 word problem: reading, writing, checking and redrawing them.

The format is that of the repository jopetty/word-problem: a header `seed,input,target`, then lines
such as `892858,3 0 59,3 3 40` (the generator's seed, the tokens, the running products), every line
ended by a newline. Files are written so to the byte, and read as what other programs make of them.
"""

import codecs
import contextlib
import csv
import errno
import gzip
import io
import itertools
import operator
import os
import random
import re
import stat
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from tasks import arguments
from tasks.base import DamagedData
from tasks.groups import Group, parse_group
from tasks.rows import find_repeat

COLUMNS = {"seed": "seed", "input": "a b c", "target": "x y z"}
HEADER = ",".join(COLUMNS)
GIT_LFS = "version https://git-lfs.github.com"
GZIP = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHUNK = 20_000
MAX_SIZE = 2**30
"""In bytes, and in characters once decompressed: nine times the largest published file."""
MAX_LINE = 2**18

Row = tuple[int, list[str]]
"""The number of a line, from 1, and its fields."""


class WordFile(NamedTuple):
    """The three columns: seeds (rows,), inputs (rows, length) and targets (rows, length)."""

    seeds: Integer[np.ndarray, " rows"]
    inputs: Integer[np.ndarray, "rows length"]
    targets: Integer[np.ndarray, "rows length"]


def read_word_file(path: str | os.PathLike[str]) -> WordFile:
    """Returns the columns of a CSV file, seeds as int64 and tokens as uint16.

    The columns may be in any order and quoted; lines may end in any way, and the last not at all;
    blank lines at the end, a byte-order mark and gzip compression change nothing.

    Raises:
        OSError: if the file cannot be read, or is something else than a regular file.
        DamagedData: naming the file and, but for damaged compression and a file that is too large,
            the line, if the header or a row is damaged, or the file holds no rows, or only the
            pointer that Git LFS leaves when the data were not downloaded.
    """
    seeds, tokens = [], []
    try:
        with _opened(path) as file:
            rows = _rows(path, file)
            for numbers in _chunks(path, _header(path, rows), rows):
                seeds.append(numbers[:, 0])
                tokens.append(numbers[:, 1:].astype(np.uint16))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedData(
            f"{path}: must be whole, got damaged gzip compression ({error})."
        ) from error
    inputs, targets = np.split(np.concatenate(tokens), 2, axis=1)
    return WordFile(np.concatenate(seeds), inputs, targets)


def write_word_file(
    path: str | os.PathLike[str],
    seed: int,
    inputs: Integer[np.ndarray, "rows length"],
    targets: Integer[np.ndarray, "rows length"],
) -> None:
    """Writes rows in the published format, byte for byte, with the same seed on every line.

    Raises:
        OSError: if the file cannot be written.
    """
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write(f"{HEADER}\n")
        for tokens, products in zip(inputs, targets, strict=True):
            left, right = " ".join(map(str, tokens)), " ".join(map(str, products))
            file.write(f"{seed},{left},{right}\n")


def check_word_file(path: str | os.PathLike[str], words: WordFile, group: Group) -> None:
    """Checks that targets are the running products of the inputs, and that no row is there twice.

    Raises:
        DamagedData: naming the file and the line.
    """
    large = np.flatnonzero(words.inputs.max(axis=1) >= group.order)
    if len(large):
        raise DamagedData(
            f"{path}, line {large[0] + 2}: tokens must be 0 to {group.order - 1} for {group.name}, "
            f"got {words.inputs[large[0]].max()}."
        )
    wrong = np.argwhere(group.running_products(words.inputs) != words.targets)
    if len(wrong):
        row, position = wrong[0]
        raise DamagedData(
            f"{path}, line {row + 2}: targets must be the running products of the inputs in "
            f"{group.name}, got {words.targets[row, position]} at position {position + 1}."
        )
    repeat = find_repeat(words.inputs)
    if repeat is not None:
        first, second = repeat
        raise DamagedData(f"{path}, line {second + 2}: inputs repeat those of line {first + 2}.")


def historical_rows(
    length: int, seed: int, rows: int
) -> tuple[Integer[np.ndarray, "rows length"], Integer[np.ndarray, "rows length"]]:
    """Returns the inputs and targets of a published A5 file, in its order.

    The published generator seeds CPython's `random`, adds `random.choices(range(60), k=length)` to
    a set of tuples until there are `rows` of them, and writes the set in its own order, which is
    the same on every 64-bit CPython (3.11 to 3.13 were tried). If `rows` is the number of all
    sequences they come in lexicographic order and the seed has no effect, as in the length-2 file.

    Raises:
        TypeError, ValueError: if `length` or `rows` is not a positive integer, `seed` is negative,
            or there are fewer than `rows` sequences.
    """
    group = parse_group("A5")
    arguments.integer("length", length, 1)
    arguments.integer("seed", seed, 0)
    population = group.order ** min(length, 10)  # beyond that, more than fits into memory
    arguments.integer("rows", rows, 1, population)
    if rows == population:
        ordered = list(itertools.product(range(group.order), repeat=length))
    else:
        generator = random.Random(seed)
        words: set[tuple[int, ...]] = set()
        while len(words) < rows:
            words.add(tuple(generator.choices(range(group.order), k=length)))
        ordered = list(words)
    inputs = np.array(ordered, np.uint8)
    return inputs, group.running_products(inputs)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[io.TextIOWrapper]:
    """The text of a file, which is looked at before it is opened: a pipe would block."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", path)
    with open(path, "rb") as file:
        if status.st_size > MAX_SIZE:
            raise DamagedData(
                f"{path}: must have at most {MAX_SIZE:,} bytes, got {status.st_size:,}; leave out "
                "rows that are not needed."
            )
        content = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == GZIP else file
        encoding = "utf-16" if content.peek(2)[:2] in UTF_16 else "utf-8-sig"
        with io.TextIOWrapper(content, encoding, errors="replace", newline="") as text:
            yield text


def _lines(path: str | os.PathLike[str], file: io.TextIOWrapper) -> Iterator[str]:
    """Lines with their ends; one that is unreasonably long, or far into a text, is not read."""
    size = 0
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        size += len(line)
        if len(line) > MAX_LINE:
            raise DamagedData(
                f"{path}, line {number}: must have at most {MAX_LINE:,} characters, got more, from "
                f"{line[:60]!r} on."
            )
        if size > MAX_SIZE:
            raise DamagedData(
                f"{path}, line {number}: must be within the first {MAX_SIZE:,} characters; leave "
                "out rows that are not needed."
            )
        if not line:
            return
        yield line


def _rows(path: str | os.PathLike[str], file: io.TextIOWrapper) -> Iterator[Row]:
    """Lines as CSV; a quoted field may go on for several, and the row has the last one's number."""
    reader = csv.reader(_lines(path, file), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DamagedData(f"{path}, line {reader.line_num}: must be CSV, got {error}.") from error


def _header(path: str | os.PathLike[str], rows: Iterator[Row]) -> list[str]:
    """The names of the columns in the order of the file."""
    _, header = next(rows, (1, []))
    if header and header[0].startswith(GIT_LFS):
        raise DamagedData(f"{path}, line 1: this is a Git LFS pointer, not the data themselves.")
    if sorted(header) != sorted(COLUMNS):
        raise DamagedData(
            f"{path}, line 1: must be {HEADER!r}, in any order, as plain text or compressed by "
            f"gzip, got {','.join(header)[:60]!r}."
        )
    return header


def _chunks(
    path: str | os.PathLike[str], header: list[str], rows: Iterator[Row]
) -> Iterator[np.ndarray]:
    """Blocks of rows as int64 (rows, 1 + 2·length); the first row fixes the length."""
    valid = ",".join(COLUMNS[name] for name in header)
    valid = f"must be {valid!r} with equally many tokens on every line"
    in_order = operator.itemgetter(*(header.index(name) for name in COLUMNS))
    pattern, blank = None, 0
    while chunk := list(itertools.islice(rows, CHUNK)):
        lines = []
        for number, row in chunk:
            line = ",".join(in_order(row)) if len(row) == len(COLUMNS) else ""
            if not line and not "".join(row).strip():
                blank = blank or number
                continue
            if blank:
                raise DamagedData(
                    f"{path}, line {blank}: {valid}, and blank lines at the end only, got one."
                )
            if pattern is None:
                pattern = _row_pattern(line)
            if pattern.fullmatch(line) is None:
                raise DamagedData(f"{path}, line {number}: {valid}, got {','.join(row)[:60]!r}.")
            lines.append(line)
        if lines:
            text = " ".join(lines).replace(",", " ")
            yield np.fromstring(text, np.int64, sep=" ").reshape(len(lines), -1)
    if pattern is None:
        raise DamagedData(f"{path}, line 2: {valid}, got no rows.")


def _row_pattern(line: str) -> re.Pattern[str]:
    """Matches rows with as many tokens as `line`, of at most 4 digits, and a seed of at most 18."""
    more = max(len(line.split(",")[1].split(" ")) - 1, 0) if "," in line else 0
    tokens = rf"[0-9]{{1,4}}(?: [0-9]{{1,4}}){{{more}}}"
    return re.compile(rf"[0-9]{{1,18}},{tokens},{tokens}")
