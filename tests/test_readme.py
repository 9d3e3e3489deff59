"""The README's example of a new model and a new task, run as written."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest
from composing import CONFIGS, compose_run, execute

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", README, flags=re.DOTALL))


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


def test_the_example_trains(example):
    command = re.search(r"`python experiments/run.py (task=recall [^`]*)`", README)
    overrides = [*command.group(1).split(), f"hydra.searchpath=[file://{example}/configs]"]
    _, summary = execute(compose_run(overrides, example))
    assert summary["seeds"]["0"]["final"]["accuracy"] > 4 * summary["baselines"]["accuracy_uniform"]


def test_every_path_in_the_readme_exists():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (root / link).exists(), link


def test_every_experiment_in_the_readme_exists():
    for name in re.findall(r"\+experiment=(figure\d/\w+)", README):
        assert (CONFIGS / "experiment" / f"{name}.yaml").exists(), name
