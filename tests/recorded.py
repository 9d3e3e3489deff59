"""Helpers: what runs leave behind, without running anything."""

import copy
import functools
import shutil
from pathlib import Path

from experiments.config import compose_plain
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
        preset = preset or "figure2"
    else:
        word = [1, 2, 3][:dimension]
        task = {"_target_": "tasks.signature.SignatureTask", "dimension": dimension, "word": word}
        task |= {"length": 100, "target": "coordinate"}
        preset, stop_at = preset or "figure1", None
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
    return _leave(directory, config, curves, finished, failed)


def write_experiment(
    directory, curves, experiment, *overrides, changes=None, finished=True, failed=None
):
    """Writes what a run of an experiment leaves behind.

    Arguments:
        curves: of each seed, its (step, validation metric).
        experiment: such as "figure2/mamba", with these overrides.
        changes: to its configuration, keys joined by dots.
        failed: of each seed that failed, after how many steps.
    """
    config = copy.deepcopy(_composed(f"+experiment={experiment}", *overrides))
    config["seeds"] = list(curves)
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        functools.reduce(dict.__getitem__, parents, config)[last] = value
    return _leave(directory, config, curves, finished, failed)


@functools.cache
def _composed(*overrides):
    return compose_plain(overrides)


def _leave(directory, config, curves, finished, failed):
    metric = "rmse" if "word" in config["task"] else "accuracy"
    stop_at = config.get("train", {}).get("stop_at")
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
        summary["steps"] = config.get("train", {}).get("steps")
        logger.finish(summary | {"device": {"backend": "cpu", "kind": "a processor"}})
    logger.close()
    return directory


def paper_results(folder):
    """A folder of results with the paper's tables and no run."""
    shutil.copytree(ROOT / "results" / "published", folder / "results" / "published")
    return folder / "results"
