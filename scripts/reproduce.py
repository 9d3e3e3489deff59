"""Runs what is missing of the paper's figures, at their settings or in a small study like them.

    python scripts/reproduce.py figure1 figure2 --scale small        two hours on 2 cores
    python scripts/reproduce.py figure2 --models mamba s4            the paper's settings: GPU days
    python scripts/reproduce.py width                                random features by width
    python scripts/reproduce.py figure2 --models rnn --seeds 0 -- train.evaluate_every=1000
    python scripts/reproduce.py figure2 --dry-run                    the next cell of each model

Results are in `results/<figure>/` at the paper's scale and in `results/small/<figure>/` in the
small study. A finished cell is never run again, whoever ran it; one that was interrupted goes on.
In Figure 2 each seed goes through the lengths in order, from the fewest blocks to the first that
pass, and leaves a depth that fails. To have a cluster run all cells at once, sweep over them into
the same folder; the depths come out the same:

    python experiments/run.py -m +experiment=figure2/mamba task.length=3,4,5 model.depth=1,2,3,4 \\
        hydra/launcher=slurm hydra.sweep.dir=results/figure2

What follows `--` overrides the settings of every run. Exit codes are those of a run: 0, 1, 2, and
75 if a signal came; the same command goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reproducing.jobs import AbstractChain, chains
from reproducing.launch import JobError, Launcher

from experiments.errors import Interrupted

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("figure1", "figure2", "width")


@dataclass(frozen=True)
class Scale:
    """Where results go, which experiments are run, and how much.

    Arguments:
        experiments: their folder in `configs/experiment`, "" or one that ends in "/".
        jobs: runs at a time, unless the user says.
    """

    folder: str
    experiments: str
    lengths: tuple[int, ...] | None
    jobs: int


SCALES = {
    "paper": Scale("results", "", None, jobs=1),
    "small": Scale("results/small", "small/", (5, 6, 7, 8, 9, 10), jobs=2),
}


def chosen(options: argparse.Namespace, scale: Scale) -> dict[str, list[AbstractChain]]:
    """The chains that were asked for, by figure."""
    found: dict[str, list[AbstractChain]] = {}
    for figure in dict.fromkeys(options.figures):
        lengths = options.lengths or scale.lengths
        all_ = chains(figure, ROOT / "results" / "published", lengths, options.seeds)
        found[figure] = [all_[model] for model in options.models or all_ if model in all_]
    known = {chain.model for some in found.values() for chain in some}
    for model in options.models or ():
        if model not in known:
            raise ValueError(f"--models: got {model}; none of {', '.join(found)} has such a model")
    return found


def reproduce(options: argparse.Namespace) -> int:
    """Runs, or with `--dry-run` lists, what is missing."""
    scale = SCALES[options.scale]
    folder = options.results or ROOT / scale.folder
    jobs = options.jobs or scale.jobs
    for figure, some in chosen(options, scale).items():
        launcher = Launcher(folder.resolve(), scale.experiments, options.overrides, show=jobs == 1)
        if options.dry_run:
            for chain in some:
                job, begun = launcher.next(chain)
                state = "complete" if job is None else job.name
                print(f"{figure} {chain.model}: {state}{' (begun)' if begun else ''}")
            continue
        launcher.run(some, jobs)
        print(f"{figure}: complete; runs took {launcher.seconds:.0f} s")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, and reproduces."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description="Runs what is missing of the paper's figures.",
        epilog="What follows -- overrides the settings of every run.",
    )
    parser.add_argument("figures", nargs="+", choices=FIGURES)
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="default: all")
    parser.add_argument("--lengths", nargs="+", type=int, metavar="K", help="of figure2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time, of several models")
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
