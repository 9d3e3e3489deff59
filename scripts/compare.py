"""Compares runs with each other, or with the paper.

    python scripts/compare.py runs multirun/…                    a table of any runs
    python scripts/compare.py runs --wandb ENTITY/PROJECT        the same, from Weights & Biases
    python scripts/compare.py depths results/small/figure2       the fewest blocks that pass
    python scripts/compare.py published                          every cell of the paper, and ours

`published` reads the runs below `results/figure1` and `results/figure2`, made at the paper's
settings, and `results/published`. Each cell of the paper gets a verdict, `agrees`, `differs` or
`not run`; `experiments/analysis/verdicts.py` has the rules.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.analysis.rows import runs_rows
from experiments.analysis.tables import (
    curve_columns,
    depth_columns,
    depth_rows,
    runs_columns,
    show,
    write_json,
)
from experiments.analysis.verdicts import compare_published
from experiments.analysis.wandb_runs import wandb_runs
from experiments.prescribed import prescribed
from experiments.results.records import merge, merge_newest, read_runs

ROOT = Path(__file__).resolve().parents[1]


def runs(options: argparse.Namespace) -> int:
    """The subcommand `runs`."""
    found = read_runs(options.paths)
    for path in options.paths:
        if not path.exists():
            print(f"{path}: nothing there yet", file=sys.stderr)
    if options.wandb is not None:
        found += wandb_runs(options.wandb)
    groups = merge_newest(found)
    rows = runs_rows(groups)
    show([runs_columns(row) for row in rows])
    write_json(options.json, {"runs": rows})
    if options.plot is not None:
        from experiments.analysis.figures.runs import draw_runs
        from experiments.analysis.figures.style import save

        save(draw_runs(groups), options.plot)
        print(options.plot)
    return 0


def depths(options: argparse.Namespace) -> int:
    """The subcommand `depths`."""
    groups = [g for g in merge(read_runs(options.paths)) if g.runs[0].metric == "accuracy"]
    if not groups:
        raise ValueError(f"{', '.join(map(str, options.paths))}: no run of a word problem")
    rows = depth_rows(groups)
    show(rows)
    write_json(options.json, {"depths": rows})
    return 0


def published(options: argparse.Namespace) -> int:
    """The subcommand `published`."""
    comparison = compare_published(options.results, prescribed)
    ran1 = [row for row in comparison.figure1 if row.seeds or row.note or not options.ran]
    ran2 = [row for row in comparison.figure2 if row.seeds or row.note or not options.ran]
    curves, blocks = [curve_columns(row) for row in ran1], [depth_columns(row) for row in ran2]
    for table in filter(None, (curves, blocks)):
        show(table)
        print()
    counts = {}
    for name, rows in (("figure1", comparison.figure1), ("figure2", comparison.figure2)):
        verdicts = [row.verdict for row in rows]
        counts[name] = {v: verdicts.count(v) for v in ("agrees", "differs", "not run")}
        print(f"{name}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts[name].items()))
    for cell in comparison.unpublished:
        print(f"not in the paper: {cell}")
    write_json(options.json, {**asdict(comparison), "counts": counts})
    differ = any(count["differs"] for count in counts.values())
    return 1 if options.check and differ else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, and compares."""
    parser = argparse.ArgumentParser(
        description="Compares runs with each other, or with the paper."
    )
    commands = parser.add_subparsers(required=True)
    of_runs = commands.add_parser("runs", help="a table of any runs")
    of_runs.set_defaults(command=runs)
    of_runs.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="of runs or sweeps")
    of_runs.add_argument("--wandb", metavar="ENTITY/PROJECT")
    of_runs.add_argument("--plot", type=Path, metavar="FILE", help="against length or dimension")
    of_depths = commands.add_parser("depths", help="the fewest blocks that pass")
    of_depths.set_defaults(command=depths)
    of_depths.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="of runs")
    of_paper = commands.add_parser("published", help="every cell of the paper, and ours")
    of_paper.set_defaults(command=published)
    of_paper.add_argument("--results", type=Path, default=ROOT / "results")
    of_paper.add_argument("--ran", action="store_true", help="list the cells that were run only")
    of_paper.add_argument("--check", action="store_true", help="exit with 1 if a cell differs")
    for command in (of_runs, of_depths, of_paper):
        command.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.command is runs:
        if not options.paths and options.wandb is None:
            of_runs.error("expected a PATH or --wandb ENTITY/PROJECT")
        if options.wandb is not None and len(list(filter(None, options.wandb.split("/")))) != 2:
            of_runs.error(f"--wandb: got {options.wandb!r}; expected ENTITY/PROJECT")
    try:
        return options.command(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
