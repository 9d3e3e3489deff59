"""The command itself, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from composing import TINY_A5, TINY_TRAIN

from experiments.loggers import read_metrics

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


def test_a_sweep_goes_on_past_a_job_that_fails(tmp_path):
    options = ["model=rnn", "model.d_model=4", *TINY_TRAIN]
    done = run("-m", *TINY_A5, *options, "task.length=1,4", f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.returncode != 0
    assert "task.length" in done.stderr
    assert not (tmp_path / "sweep/0/summary.json").exists()
    assert (tmp_path / "sweep/1/summary.json").exists()


def test_help_lists_tasks_models_and_experiments():
    text = run("--help").stdout
    for name in ("a5", "area", "linear_cde", "transformer", "figure1", "figure2"):
        assert name in text


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("task.length=1", 2, "task.length"),
        ("task.lenght=4", 1, "lenght"),
        ("model=lstm", 1, "lstm"),
    ],
)
def test_errors_are_short_and_have_an_exit_code(override, code, message):
    done = run(override)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
