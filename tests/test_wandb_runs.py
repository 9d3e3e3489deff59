"""Runs from Weights & Biases, by a stand-in for its client: the same rows as their directories."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from recorded import write_run

from experiments.loggers import read_metrics
from experiments.results.records import read_runs

ROOT = Path(__file__).parents[1]
PASS, FAIL = [(0, 0.1), (10_000, 0.91)], [(0, 0.1), (990_000, 0.9)]


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import compare

    return compare


class FakeWandb:
    """A stand-in for the module, with what `Api` needs."""

    Settings = SimpleNamespace

    def __init__(self):
        self.logged_in, self.found = True, []

    def setup(self, settings):
        assert settings.silent

    def login(self, prompt, verify):
        assert (prompt, verify) == (False, False)
        return self.logged_in

    def Api(self):
        assert self.logged_in
        return self

    def runs(self, path):
        if path != "me/mine":
            raise ValueError(f"Could not find project {path.split('/')[1]}\nand more")
        return iter(self.found)

    def add(self, config, summary, state):
        url = f"https://wandb.example/me/mine/runs/{len(self.found)}"
        run = SimpleNamespace(config=config, summary=summary, state=state, url=url)
        self.found.append(run)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def flatten(data, prefix=""):
    flat = {}
    for key, value in data.items():
        flat |= (
            flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def upload(wandb, directory):
    """Puts a run directory into the project as `WandbLogger` says it does: a run for each seed."""
    config = yaml.safe_load((directory / "config.yaml").read_text())
    finished = (directory / "summary.json").exists()
    whole = json.loads((directory / "summary.json").read_text()) if finished else {"seeds": {}}
    for seed in config["seeds"]:
        summary = {}
        for record in read_metrics(directory):
            if record.seed == seed:
                key = f"{record.split}/{record.metric}"
                summary |= {key: record.value, "step": record.step, "seconds": record.seconds}
                if record.split == "val":
                    best = max(summary.get(f"{key}_best", -1), record.value)
                    summary[f"{key}_best"] = best
        own = whole["seeds"].get(str(seed), {})
        summary |= flatten({k: v for k, v in whole.items() if k != "seeds"} | own)
        wandb.add({**config, "seed": seed}, summary, "finished" if finished else "crashed")


def test_wandb_gives_the_rows_of_the_directories(compare, wandb, tmp_path, capsys):
    for directory in (
        write_run(tmp_path / "runs" / "a", {0: PASS, 1: FAIL}),
        write_run(tmp_path / "runs" / "b", {2: [(0, 0.1), (70, 0.95)]}, finished=False),
        write_run(tmp_path / "runs" / "c", {0: [(0, 0.1)]}, length=4, failed={0: 7}),
    ):
        upload(wandb, directory)
    wandb.add({"something": "else"}, {}, "finished")
    file = tmp_path / "out.json"
    assert compare.main(["runs", "--wandb", "me/mine", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["runs"]
    assert compare.main(["runs", str(tmp_path / "runs"), "--json", str(file)]) == 0
    assert rows == json.loads(file.read_text())["runs"]
    assert [row["state"] for row in rows] == ["2 finished, 1 unfinished", "failed"]
    local = {(r.cell, s.seed): s for r in read_runs([tmp_path / "runs"]) for s in r.seeds}
    for run in compare.wandb_runs("me/mine"):
        (seed,) = run.seeds
        assert replace(local[run.cell, seed.seed], curve=seed.curve) == seed
    capsys.readouterr()


def test_of_a_seed_in_wandb_and_in_a_directory_the_directory_counts(
    compare, wandb, tmp_path, capsys
):
    upload(wandb, write_run(tmp_path, {0: PASS}))
    assert compare.main(["runs", str(tmp_path), "--wandb", "me/mine"]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert f"newest: {tmp_path}" in first
    assert "older, not counted: " in second


def test_wandb_errors_are_short(compare, wandb, capsys):
    assert compare.main(["runs", "--wandb", "me/other"]) == 2
    error = "error: Weights & Biases, me/other: Could not find project other\n"
    assert capsys.readouterr().err == error
    assert compare.main(["runs", "--wandb", "me/mine"]) == 2
    assert "none of its 0 runs" in capsys.readouterr().err
    wandb.add({"task": {}, "model": {}, "seed": 0}, {}, "finished")
    assert compare.main(["runs", "--wandb", "me/mine"]) == 2
    assert (
        "https://wandb.example/me/mine/runs/0: not a run of this project" in capsys.readouterr().err
    )
    wandb.logged_in = False
    assert compare.main(["runs", "--wandb", "me/mine"]) == 2
    assert capsys.readouterr().err == "error: Weights & Biases: not logged in; run `wandb login`\n"
