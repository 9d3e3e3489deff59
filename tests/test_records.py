"""Run directories as rows: cells, sweeps, unfinished and damaged runs."""

import json
import math
from pathlib import Path

import pytest
from recorded import write_run

from experiments.config import compose_plain
from experiments.results.cells import Cell
from experiments.results.published import read_figure1, read_figure2
from experiments.results.records import describe, find_runs, merge, read_run, read_runs

ROOT = Path(__file__).parents[1]


def test_a_finished_run(tmp_path):
    curves = {0: [(0, 0.02), (10_000, 0.95)], 3: [(0, 0.01), (10_000, 0.6), (20_000, 0.5)]}
    run = read_run(write_run(tmp_path, curves, model="transformer", length=5, depth=2))
    assert run.cell == Cell("A5", 5, "transformer", 2, False, 1024)
    assert (run.metric, run.threshold, run.preset) == ("accuracy", 0.9, "figure2")
    first, second = run.seeds
    assert (first.seed, first.state, first.final, first.best) == (0, "finished", 0.95, 0.95)
    assert (first.steps, first.steps_to_threshold, first.seconds) == (10_000, 10_000, 1000.0)
    assert (second.seed, second.final, second.best) == (3, 0.5, 0.6)
    assert (second.steps_to_threshold, second.device) == (None, "a processor")
    assert second.curve == tuple(curves[3])


def test_the_records_of_the_quick_presets():
    runs = {run.cell.model + str(run.cell.size): run for run in read_runs([ROOT / "results/quick"])}
    assert {run.preset for run in runs.values()} == {"quick"}
    assert runs["linear_cde2"].cell == Cell("area", 2, "linear_cde", 1, False, 256)
    names = {
        "linear_cde2": "area_linear_cde",
        "mamba3": "mamba",
        "linear_cde5": "linear_cde_length5",
    }
    for key, folder in names.items():
        summary = json.loads((ROOT / "results/quick" / folder / "summary.json").read_text())
        (seed,), result = runs[key].seeds, summary["seeds"]["0"]
        assert (seed.final, seed.state) == (result["final"][summary["metric"]], "finished")
        assert seed.steps_to_threshold == result.get("steps_to_threshold")
        assert seed.device == summary["device"]["kind"]


def composed(*overrides):
    return compose_plain(overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("+experiment=figure1/linear_cde", "task=volume"),
        ("+experiment=figure1/mamba", "model.depth=2", "model.activation=gelu"),
        ("+experiment=figure1/s4", "task=volume", "model.depth=2"),
        ("+experiment=figure1/s5",),
        ("+experiment=figure2/linear_cde", "task.length=20"),
        ("+experiment=figure2/rnn",),
        ("+experiment=figure2/s4", "task.length=9"),
        ("+experiment=figure2/transformer", "task.length=12", "model.depth=4"),
    ],
)
def test_a_cell_is_the_published_one_of_its_experiment(overrides):
    config = composed(*overrides)
    cell = describe(config, "here").cell
    figure, _, identity = config["published"].partition("/")
    results = ROOT / "results" / "published"
    if figure == "figure1":
        rows = {row.id: row for row in read_figure1(results / "figure1.csv")}
        row = rows[identity]
        expected = ({2: "area", 3: "volume"}[row.dimension], row.dimension, row.model, row.depth)
        assert (cell.task, cell.size, cell.model, cell.depth) == expected
        assert cell.nonlinear == row.nonlinear
    else:
        rows = {row.id: row for row in read_figure2(results / "figure2.csv")}
        expected = ("A5", rows[identity].length, rows[identity].model, False)
        assert (cell.task, cell.size, cell.model, cell.nonlinear) == expected


def test_other_tasks_and_models_have_names_of_their_own():
    config = composed("task=word_problem", "task.group=A4xZ5", "model=diagonal_cde")
    assert describe(config, "here").cell == Cell("A4xZ5", 5, "diagonal_cde", 1, False, 64)
    config = composed("task=area", "task.target=log_signature", "model=s4")
    assert describe(config, "here").cell.task == "area, log_signature"
    config = composed("task=signature", "task.word=[1,2,2]", "model=s4")
    assert describe(config, "here").cell.task == "signature 1,2,2"
    recall = {"_target_": "tasks.recall.Recall", "length": 7}
    model = config["model"] | {"mixer": {"_target_": "ssm.mixers.leaky.Leaky"}}
    cell = describe(
        config | {"task": recall, "model": model, "options": {"task": "recall", "model": "leaky"}},
        "here",
    ).cell
    assert (cell.task, cell.size, cell.model) == ("recall", 7, "leaky")


def test_sweeps_are_found_at_any_depth_once(tmp_path):
    inner = write_run(tmp_path / "a" / "b" / "0", {0: [(0, 0.1)]})
    write_run(inner / "wandb" / "files", {7: [(0, 0.1)]})  # below a run: no run
    other = write_run(tmp_path / "c", {1: [(0, 0.1)]})
    assert find_runs([tmp_path]) == [inner, other]
    assert find_runs([other, tmp_path, inner]) == [other, inner]
    for path in (tmp_path / "nowhere", (tmp_path / "empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=f"{path}: expected run directories"):
            find_runs([path])


def test_seeds_run_apart_are_one_cell(tmp_path):
    write_run(tmp_path / "b", {3: [(0, 0.1)], 1: [(0, 0.2)]})
    write_run(tmp_path / "a", {2: [(0, 0.3)]}, learning_rate=1e-4)
    write_run(tmp_path / "c", {1: [(0, 0.4)]}, depth=2)
    first, second = merge(read_runs([tmp_path]))
    assert [seed.seed for seed in first.seeds] == [1, 2, 3]
    assert (first.cell.depth, second.cell.depth) == (1, 2)
    assert first.differing == ["optimizer.learning_rate"]
    assert second.differing == []


def test_the_same_seed_twice_is_refused(tmp_path):
    write_run(tmp_path / "a", {0: [(0, 0.1)], 1: [(0, 0.2)]})
    write_run(tmp_path / "b", {1: [(0, 0.3)]}, learning_rate=1e-4)
    with pytest.raises(ValueError, match="seed 1 of mamba on A5 3") as error:
        merge(read_runs([tmp_path]))
    assert str(tmp_path / "a") in str(error.value)
    assert str(tmp_path / "b") in str(error.value)
    assert "optimizer.learning_rate" in str(error.value)


def test_an_unfinished_run_is_read_from_its_metrics(tmp_path):
    curves = {0: [(0, 0.1), (10, 0.95)], 1: [(0, 0.3), (10, 0.2)]}
    run = read_run(write_run(tmp_path, curves, finished=False))
    first, second = run.seeds
    assert (first.state, first.steps_to_threshold, first.steps) == ("unfinished", 10, 10)
    assert (second.final, second.best, second.device) == (0.2, 0.3, None)
    assert run.baselines == {}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "se')  # a line that is being written
    assert read_run(tmp_path).seeds == run.seeds
    (tmp_path / "metrics.jsonl").unlink()
    assert [(s.final, s.best, s.steps) for s in read_run(tmp_path).seeds] == [(None, None, 0)] * 2


def test_a_failed_seed(tmp_path):
    curves = {0: [(0, 0.2), (10, math.nan)], 1: [(0, 0.2), (10, 0.1)]}
    run = read_run(write_run(tmp_path, curves, dimension=2, failed={0: 7}))
    first, second = run.seeds
    assert (first.state, second.state) == ("failed", "finished")
    assert math.isnan(first.final)
    assert (second.best, run.metric, run.threshold) == (0.1, "rmse", None)


def damage(run, name, text):
    if text is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(text)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.yaml", None, "missing"),
        ("config.yaml", b"task: {", "damaged"),
        ("config.yaml", b"a list of nothing", "expected a mapping"),
        ("config.yaml", b"task: {}\nmodel: {}", "no 'mixer'"),
        ("summary.json", b'{"metric": "accuracy", "se', "damaged"),
        ("summary.json", b'{"metric": "accuracy", "baselines": {}, "seeds": {}}', "no '0'"),
        ("summary.json", b"[]", "expected a mapping"),
        ("metrics.jsonl", None, "missing"),
        ("metrics.jsonl", b"{}\n", "line 1: not a record"),
        ("metrics.jsonl", b"\xff\xfe\n", "damaged"),
    ],
)
def test_damage_is_an_error_that_names_the_file(tmp_path, name, text, reason):
    run = write_run(tmp_path / "run", {0: [(0, 0.1)]})
    damage(run, name, text)
    with pytest.raises(ValueError, match=reason) as error:
        read_run(run)
    assert str(error.value).startswith(f"{run / name}")
    assert len(str(error.value).splitlines()) == 1


def test_a_wrong_value_in_a_summary_is_damage(tmp_path):
    run = write_run(tmp_path, {0: [(0, 0.1)]})
    summary = json.loads((run / "summary.json").read_text())
    summary["seeds"]["0"]["best_accuracy"] = "high"
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"summary.json: damaged.*high"):
        read_run(run)
