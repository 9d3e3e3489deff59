"""Runs from Weights & Biases, as `WandbLogger` writes them: each of one seed."""

from dataclasses import replace
from typing import Any

from experiments.results.reading import number
from experiments.results.records import RunResult, SeedResult, describe, ended, first_past


def wandb_runs(project: str) -> list[RunResult]:
    """The runs of a project, "entity/project", that are ours.

    Raises:
        ValueError: if nobody is logged in, or the project cannot be read or has none.
    """
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise ValueError("Weights & Biases: not logged in; run `wandb login`")
    try:
        found = list(wandb.Api().runs(project))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"Weights & Biases, {project}: {reason}") from error
    ours = [run for run in found if {"task", "model", "seed"} <= set(run.config)]
    if not ours:
        raise ValueError(f"Weights & Biases, {project}: none of its {len(found)} runs is of ours")
    return [_run(run) for run in ours]


def _run(run: Any) -> RunResult:
    summary = run.summary
    try:
        result = describe(run.config, run.url)
        prefix = "baselines/"
        known = {k: v for k, v in summary.items() if k.startswith(prefix)}
        baselines = {k.removeprefix(prefix): float(v) for k, v in known.items()}
        result = replace(result, metric=summary.get("metric", result.metric), baselines=baselines)
        metric, step = result.metric, int(summary.get("step", 0))
        final = number(summary.get(f"val/{metric}"))
        curve = () if final is None else ((step, final),)
        seed = SeedResult(
            int(run.config["seed"]),
            "unfinished",
            curve,
            final,
            best=number(summary.get(f"val/{metric}_best")),
            steps=step,
            steps_to_threshold=first_past(curve, result.threshold, metric),
            seconds=summary.get("seconds"),
            device=None,
        )
        if run.state == "finished" and summary.get(f"best_{metric}") is not None:
            names = ("failed_at", "steps_to_threshold", f"best_{metric}")
            own = {name: summary.get(name) for name in names}
            own |= {
                "final": {metric: summary.get(f"final/{metric}")},
                "steps": summary.get("steps") or 0,
            }
            seed = ended(seed, own, metric, {"kind": summary.get("device/kind")})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{run.url}: not a run of this project ({error!r})") from error
    return replace(result, seeds=(seed,))
