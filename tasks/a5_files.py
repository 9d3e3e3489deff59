"""The published files of the A5 word problem: reading, writing, checking and redrawing them.

The format is that of the repository jopetty/word-problem: a header `seed,input,target`, then lines
such as `892858,3 0 59,3 3 40` (the generator's seed, the tokens, the running products), every line
ended by a newline.
"""

import itertools
import os
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from tasks import arguments
from tasks.base import DamagedData
from tasks.groups import Group, parse_group
from tasks.rows import find_repeat

HEADER = "seed,input,target\n"
GIT_LFS = "version https://git-lfs.github.com"
CHUNK = 20_000
DAMAGED = "must be 'seed,a b c,x y z' with equally many tokens on every line, ended by a newline"


class WordFile(NamedTuple):
    """The three columns: seeds (rows,), inputs (rows, length) and targets (rows, length)."""

    seeds: Integer[np.ndarray, " rows"]
    inputs: Integer[np.ndarray, "rows length"]
    targets: Integer[np.ndarray, "rows length"]


def read_word_file(path: str | os.PathLike[str]) -> WordFile:
    """Returns the columns of a file in the published format, seeds as int64 and tokens as uint16.

    Raises:
        OSError: if the file cannot be read.
        DamagedData: naming the file and the line, if the header or a row is damaged, or the file
            holds no rows, or only the pointer that Git LFS leaves when the data were not
            downloaded.
    """
    seeds, tokens = [], []
    with open(path, encoding="ascii", errors="replace") as file:
        header = file.readline()
        if header.startswith(GIT_LFS):
            raise DamagedData(
                f"{path}, line 1: this is a Git LFS pointer, not the data themselves."
            )
        if header != HEADER:
            raise DamagedData(
                f"{path}, line 1: must be {HEADER.strip()!r} and a newline, got {header[:60]!r}."
            )
        for numbers in _chunks(path, file):
            seeds.append(numbers[:, 0])
            tokens.append(numbers[:, 1:].astype(np.uint16))
    if not tokens:
        raise DamagedData(f"{path}, line 2: {DAMAGED}, got no rows.")
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
        file.write(HEADER)
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


def _chunks(path: str | os.PathLike[str], lines: Iterator[str]) -> Iterator[np.ndarray]:
    """Blocks of rows as int64 (rows, 1 + 2·length); the first row fixes the length."""
    row, line_number = None, 2
    while chunk := list(itertools.islice(lines, CHUNK)):
        if row is None:
            row = _row_pattern(chunk[0])
        for offset, line in enumerate(chunk):
            if row.fullmatch(line) is None:
                raise DamagedData(
                    f"{path}, line {line_number + offset}: {DAMAGED}, got {line[:60]!r}."
                )
        text = " ".join(chunk).replace(",", " ")
        yield np.fromstring(text, np.int64, sep=" ").reshape(len(chunk), -1)
        line_number += len(chunk)


def _row_pattern(line: str) -> re.Pattern[str]:
    """Matches rows with as many tokens as `line`, of at most 4 digits, and a seed of at most 18."""
    more = max(len(line.split(",")[1].split(" ")) - 1, 0) if "," in line else 0
    tokens = rf"[0-9]{{1,4}}(?: [0-9]{{1,4}}){{{more}}}"
    return re.compile(rf"[0-9]{{1,18}},{tokens},{tokens}\n")
