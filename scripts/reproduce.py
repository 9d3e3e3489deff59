"""Runs what is missing of the paper's figures, at their settings or in a small study like them.

    python scripts/reproduce.py figure1 figure2 --scale small        an hour or two on 2 cores
    python scripts/reproduce.py figure2 --models mamba s4            the paper's settings: GPU days
    python scripts/reproduce.py width                                random features by width
    python scripts/reproduce.py figure2 --models rnn --seeds 0 -- train.evaluate_every=1000
    python scripts/reproduce.py figure2 --dry-run                    the next cell of each model

Results are in `results/<figure>/` at the paper's scale and in `results/small/<figure>/` in the
small study. A finished cell is not run again, and one that was interrupted goes on. In Figure 2
each seed goes through the lengths in order, from the fewest blocks to the first that pass, and
leaves a depth that fails. A cluster can run all cells at once, in a sweep into the same folder,
before the procedure has begun there; the depths come out the same:

    python experiments/run.py -m +experiment=figure2/mamba task.length=3,4,5 model.depth=1,2,3,4 \\
        hydra/launcher=slurm hydra.sweep.dir=results/figure2

What follows `--` overrides the settings of every run: those that a cell leaves open, such as how
many steps it has, and with `--results` any that do not make it another cell. A cell that ended,
undecided, with fewer steps than are asked for now goes on from its last checkpoint.

Exit code 0: all is complete, 1: a run failed, 2: wrong arguments or settings, 75 (by Ctrl-C, 130):
a signal came, and the same command goes on. A seed whose loss is not finite is a result: in Figure
2 it has failed at that depth.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.analysis.plan import AbstractChain, chains
from experiments.analysis.settings import FREE
from experiments.errors import Interrupted
from experiments.launch import JobError, Launcher

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Scale:
    """Where results go, which figures and lengths there are, and how many runs at a time."""

    folder: str
    figures: tuple[str, ...]
    lengths: tuple[int, ...] | None
    jobs: int


SCALES = {
    "paper": Scale("results", ("figure1", "figure2", "width"), None, jobs=1),
    "small": Scale("results/small", ("figure1", "figure2"), (5, 6, 7, 8, 9, 10), jobs=2),
}
# What makes a run its cell, or puts it elsewhere: never after `--`.
OWN = {
    *("seeds", "task", "model", "procedure", "preset", "published", "experiment", "hydra"),
    *("task.length", "task.group", "task.dimension", "task.word", "task.target"),
    *("model.depth", "model.activation", "model.mixer.structure"),
}
OPEN = (*FREE, "train.checkpoint_seconds", "logger")


def check_overrides(overrides: Sequence[str], elsewhere: bool) -> None:
    """Refuses what is no override, or would make a run another cell than it is filed as.

    Arguments:
        elsewhere: whether results go to a folder of the user's, where all runs may differ from the
            experiment.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if override.startswith("-") or "=" not in override:
            raise ValueError(f"after --: got {override}; expected overrides such as train.steps=9")
        if key in OWN or key.startswith(("hydra.", "hydra/")):
            raise ValueError(
                f"after --: got {override}; expected settings that all cells may share; "
                "--models, --lengths, --seeds and --results choose the cells"
            )
        if not elsewhere and key not in OPEN and not key.startswith("logger."):
            raise ValueError(
                f"after --: got {override}; expected what a cell leaves open, {', '.join(OPEN)}, "
                "or --results DIR beside it"
            )


def chosen(options: argparse.Namespace, scale: Scale) -> dict[str, list[AbstractChain]]:
    """The chains that were asked for, by figure."""
    figures = list(dict.fromkeys(options.figures))
    for figure in figures:
        if figure not in scale.figures:
            valid = ", ".join(scale.figures)
            raise ValueError(f"got {figure}; expected some of {valid} with --scale {options.scale}")
    if options.lengths and "figure2" not in figures:
        raise ValueError("--lengths: expected figure2, which alone has lengths")
    lengths, seeds = options.lengths or scale.lengths, list(dict.fromkeys(options.seeds))
    of = {f: chains(f, ROOT / "results" / "published", lengths, seeds) for f in figures}
    models = list(dict.fromkeys(options.models or [m for f in figures for m in of[f]]))
    for model in models:
        if not any(model in of[figure] for figure in figures):
            valid = ", ".join(dict.fromkeys(m for f in figures for m in of[f]))
            raise ValueError(f"--models: got {model}; expected some of {valid}")
    return {f: [of[f][m] for m in models if m in of[f]] for f in figures}


def reproduce(options: argparse.Namespace) -> int:
    """Runs, or with `--dry-run` lists, what is missing; returns the exit code."""
    check_overrides(options.overrides, options.results is not None)
    scale = SCALES[options.scale]
    folder, jobs = options.results or ROOT / scale.folder, options.jobs or scale.jobs
    small, errors = options.scale == "small", []
    for figure, wanted in chosen(options, scale).items():
        launcher = Launcher(folder.resolve(), small, options.overrides, show=jobs == 1)
        if options.dry_run:
            for chain in wanted:
                found = launcher.next(chain)
                print(f"{figure} {chain.model}: {'complete' if found is None else found[0].name}")
            continue
        failed = launcher.run(wanted, jobs)
        errors += failed
        state = f"{len(failed)} of {len(wanted)} models stopped" if failed else "complete"
        print(f"{figure}: {state}; runs took {launcher.seconds:.0f} s")
    return errors[0].exit_code if errors else 0


def _natural(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"got {text}; expected a whole number, 0 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, and reproduces."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description="Runs what is missing of the paper's figures.",
        epilog="What follows -- overrides the settings of every run.",
    )
    parser.add_argument("figures", nargs="+", choices=SCALES["paper"].figures)
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="default: all")
    parser.add_argument("--lengths", nargs="+", type=_natural, metavar="K", help="of figure2")
    parser.add_argument("--seeds", nargs="+", type=_natural, default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument(
        "--jobs", type=_natural, metavar="N", help="runs at a time, of several models"
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="instead of the scale's folder")
    parser.add_argument("--dry-run", action="store_true", help="list the next cell of each model")
    options = parser.parse_args(given[:cut])
    options.overrides = given[cut + 1 :]
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs: got {options.jobs}; expected at least 1")
    try:
        return reproduce(options)
    except (JobError, Interrupted) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
