"""What a run says on standard output: who it is, and how it ended."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import Run, unused_nodes
from experiments.results.files import model_file
from experiments.results.published import published
from experiments.rundir import RunDirectory

DEEP = 24
"""From so many blocks on, a run says why it takes long to start."""


def introduce(
    run: Run, device: Mapping[str, Any], overrides: Sequence[str], rundir: RunDirectory
) -> None:
    """The first lines: the preset and what was overridden, the run, its size, the device, and what
    an earlier process has done of it."""
    changed = " ".join(o for o in overrides if not o.startswith("+experiment="))
    if run.preset == "quick":
        print("Settings: the quick preset (small and short; the README has its measured results).")
        print("          The paper's exact settings are +experiment=figure1/… and figure2/….")
    elif run.preset == "small":
        print(f"Settings: the small study, with these overrides: {changed or 'none'}.")
    else:
        print(f"Settings: {run.preset}, the paper's, with these overrides: {changed or 'none'}.")
    print(f"Run:      {run.info.name}, {len(run.seeds)} seed(s): {', '.join(map(str, run.seeds))}")
    print(f"Model:    {run.parameters:,} parameters")
    print(f"Device:   {device['count']} x {device['backend']}, {device['kind']}")
    print(f"Results:  {run.info.directory}", flush=True)
    if rundir.summary is not None:
        print("Finished before: nothing is computed again.", flush=True)
    elif rundir.restored is not None:
        print(f"Resumes from {rundir.restored.path.name}", flush=True)
    for note in rundir.notes:
        print(f"Note:     {note}", flush=True)
    procedure = run.info.config["procedure"]
    for override in overrides:
        if re.split(r"[.=]", override.lstrip("+~"))[0] in unused_nodes(procedure):
            print(f"Note:     {override} changes nothing, for the procedure is {procedure!r}.")
    depth = run.info.config["model"].get("depth", 1)
    if rundir.summary is None and depth >= DEEP:
        print(f"Note:     {depth} blocks are compiled one by one, which may take minutes.")


def conclude(run: Run, summary: Mapping[str, Any]) -> bool:
    """The last lines: metrics of each seed, baselines, the published value, and what to compare.

    Returns:
        Whether every seed ended well; if not, the reason is on standard error.
    """
    metric = summary["metric"]
    print()
    for seed, result in summary["seeds"].items():
        final = result["final"]
        line = f"Seed {seed}: validation {metric} {final[metric]:.4g}"
        if "condition_number" in result:
            line += f" (rank {result['rank']}, condition number {result['condition_number']:.3g})"
        elif result.get("steps_to_threshold") is not None:
            line += f", past {summary['threshold']:g} within {result['steps']:,} steps"
        elif result.get("best_step") not in (None, result.get("steps")):
            line += f", best {result[f'best_{metric}']:.4g} at step {result['best_step']:,}"
        print(line)
        positions = {k.rpartition("_")[2]: v for k, v in final.items() if "_at_" in k}
        if positions:
            print("  at each position: " + "  ".join(f"{p}: {v:.3f}" for p, v in positions.items()))
        if "accuracy_sequence" in final:
            print(
                f"  last position: {final['accuracy_last']:.4f}, "
                f"whole sequence: {final['accuracy_sequence']:.4f}"
            )
    for name, value in summary["baselines"].items():
        print(f"Baseline {name}: {value:.4g}")
    if run.published is not None:
        print(f"Published, at the paper's settings: {published(run.published)}")
    print(f"Training took {summary['training_seconds']:.0f} s. Results are in {run.info.directory}")
    if run.see_also is not None:
        print(f"Compare with: {run.see_also}")
    failed = {s: r for s, r in summary["seeds"].items() if r.get("failed_at") is not None}
    for seed, result in failed.items():
        where = result["failed_in"]
        what = "the loss is" if where == "loss" else f"the gradient of model{where} is"
        print(
            f"error: seed {seed}: {what} not finite after {result['failed_at']:,} steps; the "
            f"parameters before that are in {run.info.directory}/{model_file(seed)}",
            file=sys.stderr,
        )
    return not failed
