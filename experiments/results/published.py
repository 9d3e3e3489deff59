"""The published results, read from their tables."""

import csv
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.places import PUBLISHED
from experiments.results.reading import number, reading


def published(reference: str) -> str:
    """One line on what the paper reports, or that it reports nothing there.

    Arguments:
        reference: "figure1/<id>" or "figure2/<id>", an id of the table `<figure>.csv`.
    """
    figure, _, identity = reference.partition("/")
    path = PUBLISHED / f"{figure}.csv"
    rows = {row["id"]: row for row in read_table(path)}
    if identity not in rows:
        return f"nothing for {reference}"
    row = rows[identity]
    if figure == "figure1":
        spread = f"{row['rmse_min']} to {row['rmse_max']}, " if row["rmse_min"] else ""
        return f"validation RMSE {row['rmse']} ({spread}5 runs, Cirone et al., 2024, Figure 1)"
    if not row["blocks"]:
        return "no depth of 1 to 4 passes 0.90 (1 run, Cirone et al., 2024, Figure 2)"
    return (
        f"{row['blocks']} block(s) pass 0.90, within {row['thousand_steps']},000 steps "
        "(1 run, Cirone et al., 2024, Figure 2)"
    )


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a published table; lines that begin with # say where it comes from."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@dataclass(frozen=True)
class Spread:
    """A mean, or another middle, and the lowest and highest where they are known."""

    mean: float
    low: float | None
    high: float | None

    @staticmethod
    def of(values: Sequence[float], middle: Callable[..., float] = statistics.fmean) -> "Spread":
        """Of one value or more."""
        return Spread(middle(values), min(values), max(values))


@dataclass(frozen=True)
class PublishedCurve:
    """A curve of Figure 1: validation RMSE at some steps, at step None if nothing is trained."""

    id: str
    model: str
    dimension: int
    depth: int
    nonlinear: bool
    at: Mapping[int | None, Spread]
    rmse_zero: float


@dataclass(frozen=True)
class PublishedDepth:
    """A cell of Figure 2: the fewest blocks that pass the threshold; infinite if none does.

    Arguments:
        steps: within which they pass.
        deepest: the most blocks that the model was published with.
        threshold: the accuracy to pass.
        last_step: of the last evaluation.
    """

    id: str
    model: str
    length: int
    blocks: float
    steps: int | None
    deepest: int
    threshold: float
    last_step: int


def read_figure1(path: Path) -> list[PublishedCurve]:
    """The rows of `figure1.csv`; a missing or damaged table is a `ValueError` that names it."""
    with reading(path):
        return [_curve(row) for row in read_table(path)]


def read_figure2(path: Path) -> list[PublishedDepth]:
    """The rows of `figure2.csv`; a missing or damaged table is a `ValueError` that names it."""
    with reading(path):
        return [_depth(row) for row in read_table(path)]


def _curve(row: Mapping[str, str]) -> PublishedCurve:
    thousands = [key[5:-1] for key in row if re.fullmatch(r"rmse_\d+k", key)]
    columns: dict[int | None, str] = {int(n) * 1000: f"rmse_{n}k" for n in thousands}
    columns[int(row["last_step"]) if row["last_step"] else None] = "rmse"
    return PublishedCurve(
        row["id"],
        row["model"],
        int(row["dimension"]),
        int(row["depth"]),
        nonlinear=row["nonlinear"] == "true",
        at={
            step: Spread(float(row[c]), number(row[f"{c}_min"]), number(row[f"{c}_max"]))
            for step, c in columns.items()
            if row[c]
        },
        rmse_zero=float(row["rmse_zero"]),
    )


def _depth(row: Mapping[str, str]) -> PublishedDepth:
    return PublishedDepth(
        row["id"],
        row["model"],
        int(row["length"]),
        blocks=float(row["blocks"] or math.inf),
        steps=int(row["thousand_steps"]) * 1000 if row["thousand_steps"] else None,
        deepest=int(row["deepest"]),
        threshold=float(row["threshold"]),
        last_step=int(row["last_step"]),
    )
