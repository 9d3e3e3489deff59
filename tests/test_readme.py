"""The README's example of a new model and a new task, run as written."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from composing import CONFIGS, TINY_TRAIN, compose_run, execute, keep

from experiments.training.pieces import PieceReader, mean_statistics
from ssm.mixers import RNN
from ssm.model import SequenceModel

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", README, flags=re.DOTALL))


SNIPPETS = re.findall(r"<!-- run -->\n```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's modules importable, and its configs in a folder beside ours."""
    for name, text in BLOCKS.items():
        if name.endswith(".yaml"):
            path = tmp_path / "configs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        else:
            module = types.ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            parent, _, leaf = name.rpartition(".")
            monkeypatch.setattr(importlib.import_module(parent), leaf, module, raising=False)
            exec(compile(text, name, "exec"), module.__dict__)
    return tmp_path


@pytest.mark.slow
def test_the_example_trains(example):
    command = re.search(r"`python experiments/run.py (task=recall [^`]*)`", README)
    overrides = [*command.group(1).split(), f"hydra.searchpath=[file://{example}/configs]"]
    _, summary = execute(compose_run(overrides, example))
    assert summary["seeds"]["0"]["final"]["accuracy"] > 4 * summary["baselines"]["accuracy_uniform"]


def test_the_example_s_task_is_read_in_pieces(example):
    """It says nothing of them, and need not."""
    task = sys.modules["tasks.recall"].Recall(length=9, samples=20)
    model = SequenceModel(RNN, d_model=4, vocabulary=8, n_outputs=8, key=jax.random.key(0))
    split = task.load().train
    whole, pieces = (
        mean_statistics(PieceReader(task, task.statistics, piece, 16), model, split)
        for piece in (9, 4)
    )
    assert pieces.keys() == whole.keys() == {"loss", "right"}
    for name, value in whole.items():
        assert pieces[name] == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
def test_its_python_runs_as_printed(tmp_path, monkeypatch):
    """In one session, after a short run in the directory that is loaded."""
    directory = re.search(r'load_run\("(.*?)"\)', README).group(1)
    short = ["task=a5", "task.samples=100", "model=mamba", "model.d_model=8", *TINY_TRAIN]
    keep(compose_run([*short, "train.steps=1"], tmp_path / directory))
    monkeypatch.chdir(tmp_path)
    session = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have
        for text in SNIPPETS:
            exec(compile(text, "README.md", "exec"), session)
    assert len(SNIPPETS) == 4
    assert session["y"].shape == (100, 32)
    assert session["logits"].shape == (60,)
    final = session["run"].summary["seeds"]["0"]["final"]["accuracy"]
    assert float(session["accuracy"]) == pytest.approx(final)


@pytest.mark.slow
def test_no_other_file_changes(tmp_path):
    """In a copy with the example's files, what is tested of every mixer and task is of it too."""
    root = Path(__file__).parents[1]
    for folder in ("ssm", "tasks", "experiments", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(root / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(root / "pyproject.toml", tmp_path)
    shutil.copytree(root / "results/published", tmp_path / "results/published")
    for name, text in BLOCKS.items():
        yaml = name.endswith(".yaml")
        path = Path("configs", name) if yaml else Path(*name.split(".")).with_suffix(".py")
        (tmp_path / path).write_text(text)
    tests = [f"tests/test_{name}.py" for name in ("contract", "task_contract")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", *tests, "-k", "Leaky or leaky or recall"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SLOW_TESTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed.group(1)) >= 14


def test_every_path_in_the_readme_exists():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (root / link).exists(), link


def test_every_experiment_in_the_readme_exists():
    for name in re.findall(r"\+experiment=(figure\d/\w+)", README):
        assert (CONFIGS / "experiment" / f"{name}.yaml").exists(), name
