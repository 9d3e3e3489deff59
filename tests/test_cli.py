"""The command itself, as a user types it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from composing import TINY_A5, TINY_TRAIN

from experiments.loggers import read_metrics
from experiments.rundir import RunDirectory

ROOT = Path(__file__).parents[1]


def run(*overrides, cwd=ROOT, **environment):
    import os

    return subprocess.run(
        [sys.executable, str(ROOT / "experiments/run.py"), *overrides],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env=os.environ | {"WANDB_MODE": "disabled"} | environment,
    )


def test_a_run_leaves_its_record(tmp_path):
    """Started from another directory, which is where its results go."""
    done = run(*TINY_A5, *TINY_TRAIN, "model.d_model=4", "seeds=[0,1]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "quick preset" in done.stdout.splitlines()[0]
    for text in ("loss", "accuracy", "steps/s", "left", "at each position", "Results are in"):
        assert text in done.stdout
    (out,) = tmp_path.glob("runs/word_problem-mamba/*")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["task"]["group"] == "S3"
    assert "${" not in (out / "config.yaml").read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["seeds"]) == {"0", "1"}
    assert {"versions", "commit", "device", "parameters"} <= set(summary)
    records = read_metrics(out)
    final = [r for r in records if (r.step, r.seed, r.split, r.metric) == (2, 1, "val", "accuracy")]
    assert [r.value for r in final] == [summary["seeds"]["1"]["final"]["accuracy"]]
    assert (out / "model-seed0.eqx").exists()


SWEEP = ["-m", *TINY_A5, "model=rnn", "model.d_model=4", *TINY_TRAIN]


@pytest.fixture(scope="module")
def sweep(nursery, tmp_path_factory):
    """The directory of a sweep of two cells, of which one failed, and what it printed."""
    path = tmp_path_factory.mktemp("sweep")
    assert nursery.run([*SWEEP, "task.length=1,4", f"hydra.sweep.dir={path}"]) == 1
    return path, nursery.printed()


def test_a_sweep_goes_on_past_a_job_that_fails(nursery, sweep):
    path, printed = sweep
    assert "error: task.length" in printed
    (summary,) = path.glob("rnn-word_problem-length4-*/summary.json")
    table = printed.partition("The sweep's cells:")[2].splitlines()
    assert ["length=1" in line and "failed" in line for line in table[1:3]] == [True, False]
    assert "finished" in table[2]
    assert table[3] == "1 of 2 finished"
    before = summary.stat().st_mtime_ns
    assert nursery.run([*SWEEP, "task.length=1,4", f"hydra.sweep.dir={path}"]) == 1
    again = nursery.printed()
    assert "2 cells: 1 failed before, tried again; 1 finished before, passed over" in again
    assert summary.stat().st_mtime_ns == before


def test_a_sweep_leaves_a_cell_that_is_running_alone(nursery, sweep, tmp_path):
    (finished,) = sweep[0].glob("rnn-word_problem-length4-*")
    cell = tmp_path / finished.name
    shutil.copytree(finished, cell)
    (cell / "summary.json").unlink()
    with RunDirectory(cell, yaml.safe_load((cell / "config.yaml").read_text())):
        assert nursery.run([*SWEEP, f"hydra.sweep.dir={tmp_path}"]) == 1
    assert "1 running elsewhere, left alone" in nursery.printed()
    assert "in use by process" in nursery.printed()
    assert not (cell / "error.txt").exists()
    assert list(tmp_path.glob("rnn-*")) == [cell]


def test_help_lists_tasks_models_and_experiments(nursery):
    assert nursery.run(["--help"]) == 0
    text = nursery.printed()
    for name in ("a5", "area", "linear_cde", "transformer", "figure1", "figure2"):
        assert name in text


def test_errors_are_short_and_have_an_exit_code():
    """The errors themselves are in `test_bad_input.py`."""
    done = run("task.length=1")
    assert done.returncode == 2
    assert "task.length" in done.stderr
    assert "Traceback" not in done.stderr
