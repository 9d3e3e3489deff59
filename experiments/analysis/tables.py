"""Rows as tables for readers, and as JSON."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.analysis.depths import deepest_tried, minimum_depths
from experiments.analysis.groups import middle_and_range
from experiments.analysis.verdicts import CurveRow, DepthRow
from experiments.results.records import Group


def runs_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of any runs."""
    names = {"size": "length/dim", "median_steps": "steps to threshold"}
    columns = {names.get(key, key): text(value) for key, value in row.items()}
    return columns | {"note": row["note"]}


def curve_columns(row: CurveRow) -> dict[str, str]:
    """A row of Figure 1."""
    return {
        "Figure 1: RMSE": row.id,
        "step": text(row.step),
        "published": spread(row.published, row.published_min, row.published_max),
        "ours": spread(row.ours, row.ours_min, row.ours_max),
        "seeds": text(row.seeds),
        "verdict": row.verdict,
        "note": row.note,
    }


def depth_columns(row: DepthRow) -> dict[str, str]:
    """A row of Figure 2."""
    return {
        "Figure 2: blocks": row.id,
        "published": text(row.published),
        "steps": text(row.published_steps),
        "ours": spread(row.ours, row.ours_min, row.ours_max),
        "our steps": spread(row.median_steps, row.min_steps, row.max_steps),
        "seeds": text(row.seeds),
        "passed": text(row.passed),
        "verdict": row.verdict,
        "note": row.note,
    }


def depth_rows(groups: Sequence[Group]) -> list[dict[str, str]]:
    """The fewest blocks that pass, a row for each model and task, a column for each length.

    Median and range of the seeds whose minimum depth is known; their number where some are not.
    """
    rows = []
    lengths = sorted({group.cell.size for group in groups})
    for task, model in sorted({(group.cell.task, group.cell.model) for group in groups}):
        here = [g for g in groups if (g.cell.task, g.cell.model) == (task, model)]
        deepest = deepest_tried(here)
        row = {"blocks": f"{model} on {task}"}
        for length in lengths:
            found = minimum_depths(here, length, deepest)
            known = [float(depth.most) for depth in found if depth.known]
            entry = text(known[0]) if len(set(known)) == 1 else ""
            entry = entry or spread(*middle_and_range(known, statistics.median))
            some = len(known) < len(found) and known
            row[str(length)] = f"{entry}, {len(known)} of {len(found)}" if some else entry
        rows.append(row)
    return rows


def text(value: Any) -> str:
    """A value as tables show it; – is no value, infinite is none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return plain(value)
    whole = isinstance(value, int) or (value.is_integer() and value >= 1000)
    return f"{value:,.0f}" if whole else f"{value:.5g}"


def spread(mean: Any, low: Any, high: Any) -> str:
    """`mean (min – max)`, with what there is of it."""
    if low is None:
        return text(mean)
    return f"{text(mean)} ({text(low)} – {text(high)})"


def show(rows: Sequence[Mapping[str, str]]) -> None:
    """Prints a table."""
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in [{key: key for key in rows[0]}, *rows]:
        print("  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())


def write_json(path: Path | None, data: Mapping[str, Any]) -> None:
    """Writes a file, if there is to be one."""
    if path is not None:
        written = json.dumps(plain(data), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(written + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """The same data in what JSON can hold: infinite blocks are "none", NaN is "NaN"."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "none"
    return value
