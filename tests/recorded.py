"""Helpers: what runs leave behind, without running anything."""

import shutil
from pathlib import Path

from experiments.loggers import LocalLogger, Record, RunInfo

ROOT = Path(__file__).parents[1]
MIXERS = {
    "linear_cde": {"_target_": "ssm.mixers.LinearCDE", "structure": "dense"},
    "mamba": {"_target_": "ssm.mixers.Mamba"},
    "s4": {"_target_": "ssm.mixers.S4"},
    "s5": {"_target_": "ssm.mixers.S5"},
    "rnn": {"_target_": "ssm.mixers.RNN"},
    "transformer": {"_target_": "ssm.mixers.TransformerLayer"},
}


def write_run(
    directory,
    curves,
    *,
    model="mamba",
    length=3,
    dimension=None,
    depth=1,
    activation="identity",
    width=1024,
    group="A5",
    preset=None,
    procedure="train",
    stop_at=0.9,
    learning_rate=3e-4,
    finished=True,
    failed=None,
):
    """Writes what a run leaves behind: of a word problem, or of area or volume, given a dimension.

    Arguments:
        curves: of each seed, its (step, validation metric).
        failed: of each seed that failed, after how many steps.
    """
    if dimension is None:
        task = {"_target_": "tasks.word_problem.WordProblem", "group": group, "length": length}
        metric, preset = "accuracy", preset or "figure2"
    else:
        word = [1, 2, 3][:dimension]
        task = {"_target_": "tasks.signature.SignatureTask", "dimension": dimension, "word": word}
        task |= {"length": 100, "target": "coordinate"}
        metric, preset, stop_at = "rmse", preset or "figure1", None
    node = {"d_model": width, "depth": depth, "activation": activation, "mixer": MIXERS[model]}
    config = {
        "task": task,
        "model": node,
        "optimizer": {"learning_rate": learning_rate},
        "train": {"steps": 1_000_000, "stop_at": stop_at},
        "preset": preset,
        "procedure": procedure,
        "seeds": list(curves),
        "published": None,
    }
    logger = LocalLogger()
    logger.open(RunInfo(directory, config, "group", "name", (), tuple(curves)))
    best = max if metric == "accuracy" else min
    summaries = {}
    for seed, curve in curves.items():
        logger.log([Record(step, seed, "train", metric, 0.5, step / 10) for step, _ in curve])
        logger.log([Record(step, seed, "val", metric, value, step / 10) for step, value in curve])
        past = [s for s, v in curve if stop_at is not None and v > stop_at]
        summaries[str(seed)] = {
            "final": {metric: curve[-1][1], "loss": 1.0},
            f"best_{metric}": best(value for _, value in curve),
            "steps": (failed or {}).get(seed, curve[-1][0]),
            "steps_to_threshold": past[0] if past else None,
            "failed_at": (failed or {}).get(seed),
        }
    if finished:
        baselines = {"rmse_zero": 0.11} if metric == "rmse" else {"accuracy_uniform": 1 / 60}
        summary = {"metric": metric, "seeds": summaries, "baselines": baselines}
        logger.finish(summary | {"device": {"backend": "cpu", "kind": "a processor"}})
    logger.close()
    return directory


def paper_results(folder):
    """A folder of results with the paper's tables and no run."""
    shutil.copytree(ROOT / "results" / "published", folder / "results" / "published")
    return folder / "results"
