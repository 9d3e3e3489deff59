"""Tables and JSON of any runs and of the paper's cells, and exit codes."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from recorded import paper_results, write_experiment, write_run

from experiments.config import compose_plain
from experiments.results.records import describe, merge, read_runs

ROOT = Path(__file__).parents[1]
PASS = [(0, 0.1), (10_000, 0.91)]


def fail(last=990_000):
    return [(0, 0.1), (last, 0.9)]  # 0.90 itself does not pass


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import compare

    return compare


@pytest.fixture
def results(tmp_path):
    return paper_results(tmp_path)


def cell(model, length=3):
    return f"figure2/{model}", f"task.length={length}"


def agreeing(results):
    features, curve = {seed: [(0, 2e-4)] for seed in range(5)}, {0: [(0, 0.11), (20_000, 0.045)]}
    write_experiment(results / "figure1" / "features", features, "figure1/linear_cde", "task=area")
    write_experiment(results / "figure1" / "mamba", curve, "figure1/mamba", "task=area")
    for length in (3, 4):
        folder = results / "figure2" / f"{length}"
        for seed in (0, 1):  # run apart
            write_experiment(folder / f"{seed}", {seed: PASS}, *cell("linear_cde", length))


def tables(printed):
    """The rows of the tables in what was printed, as {column: text}."""
    rows, header = [], None
    for line in printed.splitlines():
        if line.startswith(("Figure", "task")):
            header = [(m.start(), m[0]) for m in re.finditer(r"\S+( \S+)*", line)]
        elif not line or header is None:
            header = None
        else:
            ends = [start for start, _ in header[1:]] + [None]
            rows.append(
                {name: line[a:b].strip() for (a, name), b in zip(header, ends, strict=True)}
            )
    return rows


def number(text):
    return None if text == "–" else "none" if text == "none" else float(text.replace(",", ""))


def spread(text):
    """Mean, least and greatest in `mean (least – greatest)`."""
    mean, _, rest = text.partition(" (")
    low, _, high = rest.rstrip(")").partition(" – ")
    return [number(mean), *(number(part) if part else None for part in (low, high))]


def near(values):
    return [pytest.approx(v, rel=1e-4) if isinstance(v, float) else v for v in values]


def test_json_says_what_the_table_says(compare, results, tmp_path, capsys):
    agreeing(results)
    file = tmp_path / "out.json"
    arguments = ["published", "--results", str(results), "--json", str(file)]
    assert compare.main(arguments) == 0
    printed, data = capsys.readouterr().out, json.loads(file.read_text())
    rows = tables(printed)
    assert len(data["figure1"]) == 20
    assert len(data["figure2"]) == 70
    for shown, row in zip(rows, data["figure1"] + data["figure2"], strict=True):
        seeds, verdict, note = int(shown["seeds"]), shown["verdict"], shown["note"]
        assert (seeds, verdict, note) == (row["seeds"], row["verdict"], row["note"])
        assert spread(shown["ours"]) == near(row[k] for k in ("ours", "ours_min", "ours_max"))
        if "step" in shown:
            assert (shown["Figure 1: RMSE"], number(shown["step"])) == (row["id"], row["step"])
            names = ("published", "published_min", "published_max")
            assert spread(shown["published"]) == near(row[name] for name in names)
        else:
            assert shown["Figure 2: blocks"] == row["id"]
            assert number(shown["published"]) == row["published"]
            assert number(shown["steps"]) == row["published_steps"]
            names = ("median_steps", "min_steps", "max_steps")
            assert spread(shown["our steps"]) == near(row[name] for name in names)
            assert shown["passed"] == (row["passed"] or "–")
    assert data["counts"]["figure1"] == {"agrees": 2, "differs": 0, "not run": 18}
    assert data["counts"]["figure2"] == {"agrees": 2, "differs": 0, "not run": 68}
    assert "figure2: 2 agrees, 0 differs, 68 not run" in printed


def test_check_fails_only_if_what_was_run_differs(compare, results, capsys):
    arguments = ["published", "--results", str(results)]
    assert compare.main([*arguments, "--check"]) == 0  # nothing was run
    agreeing(results)
    assert compare.main([*arguments, "--check"]) == 0
    write_experiment(results / "figure2" / "rnn", {0: fail(20)}, *cell("rnn"))
    assert compare.main([*arguments, "--check"]) == 0  # stopped too soon to tell
    assert compare.main([*arguments[:-1], str(results), "--ran"]) == 0
    assert "rnn-3" in capsys.readouterr().out


def test_check_finds_a_difference_in_either_figure(compare, results, capsys):
    check = ["published", "--results", str(results), "--check"]
    write_experiment(results / "figure2" / "a", {0: fail()}, *cell("linear_cde"))
    assert compare.main(check) == 1
    assert compare.main(check[:-1]) == 0
    shutil.rmtree(results / "figure2")
    mamba = ("figure1/mamba", "task=area")
    write_experiment(results / "figure1" / "a", {0: [(20_000, 0.2)]}, *mamba)
    assert compare.main(check) == 1
    assert "above the published range" in capsys.readouterr().out
    shutil.rmtree(results / "figure1")
    write_experiment(results / "figure1" / "a", {0: [(0, 0.1)]}, *mamba, failed={0: 7})
    assert compare.main([*check, "--ran"]) == 1
    assert re.search("mamba-2-depth1 .* differs .*seed 0 failed after 7", capsys.readouterr().out)


def test_runs_that_are_no_cell_of_the_paper_are_named(compare, results, capsys):
    curve, one = {0: [(20_000, 0.2)]}, ("task=area", "model.activation=gelu")
    write_experiment(results / "figure1" / "a", curve, "figure1/mamba", *one)
    write_experiment(results / "figure2" / "b", {0: PASS}, *cell("mamba", 13))
    assert compare.main(["published", "--results", str(results), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "not in the paper: mamba on area 2, depth 1 nonlinear, width 256" in printed
    assert "not in the paper: mamba on A5 13, depth 1, width 1024" in printed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preset": "quick"}, "preset: got 'quick'; expected 'figure2'"),
        ({"model.d_model": 64}, "model.d_model: got 64; expected 1024"),
        ({"task.group": "S3"}, "task.group: got 'S3'; expected 'A5'"),
        ({"optimizer.learning_rate": 0.1}, "optimizer.learning_rate: got 0.1; expected 0.0003"),
        ({"optimizer.nesterov": True}, "optimizer.nesterov: got True; expected nothing"),
        ({"options.model": "model"}, "there is no figure2/model"),
        ({"train.steps": 7}, "seed 0 of mamba on A5 3, depth 1, width 1024 twice"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_error(compare, results, capsys, options, reason):
    write_experiment(results / "figure2" / "a", {0: PASS}, *cell("mamba"))
    write_experiment(results / "figure2" / "b", {0: PASS}, *cell("mamba"), changes=options)
    assert compare.main(["published", "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("model", ["linear_cde", "rnn", "s4", "mamba", "transformer"])
def test_the_prescribed_settings_are_those_of_the_command(compare, model, small):
    from experiments.prescribed import prescribed

    experiment = f"{'small/' if small else ''}figure2/{model}"
    config = compose_plain([f"+experiment={experiment}", "task.length=9", "model.depth=2"])
    wanted = describe(config, "").settings
    assert prescribed("figure2", describe(config, "").cell, small=small) == wanted


def test_what_has_not_begun_is_not_run(compare, results, capsys):
    (results / "figure1").mkdir()
    (results / "figure2" / "queued").mkdir(parents=True)
    (results / "figure2" / "queued" / "error.txt").write_text("no memory\n")
    assert compare.main(["published", "--results", str(results), "--check"]) == 0
    assert "figure2: 0 agrees, 0 differs, 70 not run" in capsys.readouterr().out


def test_a_table_of_runs(compare, tmp_path, capsys):
    write_run(tmp_path / "a", {0: PASS, 1: fail(20_000), 2: [(30, 0.92)]}, learning_rate=1e-4)
    write_run(tmp_path / "b", {3: [(0, 0.5)]}, finished=False)
    write_run(tmp_path / "c", {0: PASS, 1: fail(), 2: fail()}, length=4)
    write_run(tmp_path / "d", {0: [(9, 0.3)], 1: [(9, 0.5)]}, dimension=3, failed={1: 9})
    file, picture = tmp_path / "out.json", tmp_path / "plot.png"
    arguments = ["runs", str(tmp_path), "--json", str(file), "--plot", str(picture)]
    assert compare.main(arguments) == 0
    rows = json.loads(file.read_text())["runs"]
    assert [(r["task"], r["size"]) for r in rows] == [("A5", 3), ("A5", 4), ("volume", 3)]
    first, second, third = rows
    assert first["mean"] == pytest.approx((0.91 + 0.9 + 0.92 + 0.5) / 4)
    assert (first["min"], first["max"], first["seeds"]) == (0.5, 0.92, 4)
    assert (first["solved"], first["median_steps"]) == (0.5, None)  # 30, 10,000, never, never
    assert first["state"] == "3 finished, 1 unfinished"
    assert first["note"] == "settings differ: optimizer.learning_rate"
    assert (second["solved"], second["median_steps"]) == (pytest.approx(1 / 3), None)
    assert (third["metric"], third["solved"], third["mean"]) == ("rmse", None, 0.4)
    assert third["state"] == "1 finished, 1 failed"
    printed = tables(capsys.readouterr().out.replace(f"{picture}\n", "\n"))
    for shown, row in zip(printed, rows, strict=True):
        for name in ("mean", "min", "max", "solved", "seeds"):
            assert [number(shown[name])] == near([row[name]])
        for name in ("task", "model", "metric", "state", "note"):
            assert shown[name] == row[name]
    assert picture.stat().st_size > 1000


def test_a_table_of_depths(compare, tmp_path, capsys):
    ok, no = [(0, 0.1), (50, 0.95)], [(0, 0.1), (50, 0.5)]
    for length, depth, curves in [
        (5, 1, {0: ok, 1: ok, 2: ok}),
        (6, 1, {0: ok, 1: no, 2: no}),
        (6, 2, {1: ok, 2: ok}),
        (7, 1, {0: no}),
        (7, 2, {0: ok, 1: no, 2: ok}),
        (7, 3, {1: no}),
        (7, 4, {1: no}),
        (8, 2, {0: ok, 2: ok}),
    ]:
        write_run(tmp_path / f"{length}-{depth}", curves, group="S3", length=length, depth=depth)
    write_run(tmp_path / "rnn", {0: ok}, model="rnn", group="S3", length=5)
    for depth in (1, 2, 3, 4):
        write_run(tmp_path / f"s4-{depth}", {0: no}, model="s4", group="S3", length=5, depth=depth)
    write_run(tmp_path / "more", {0: no}, model="transformer", group="S3", length=5)
    assert compare.main(["depths", str(tmp_path), "--json", str(tmp_path / "d.json")]) == 0
    lines = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["blocks", "5", "6", "7", "8"],
        ["mamba on S3", "1", "2 (1 – 2)", "2 (2 – none)", "2 (2 – none)"],
        ["rnn on S3", "1", "–", "–", "–"],
        ["s4 on S3", "none", "none", "none", "none"],
        ["transformer on S3", "–", "–", "–", "–"],
    ]
    assert json.loads((tmp_path / "d.json").read_text())["depths"][1]["5"] == "1"
    write_run(tmp_path / "area" / "a", {0: [(0, 0.1)]}, dimension=2)
    assert compare.main(["depths", str(tmp_path / "area")]) == 2
    assert "no run of a word problem" in capsys.readouterr().err


def test_half_of_the_seeds_solved_is_a_median(compare, tmp_path):
    write_run(tmp_path, {0: PASS, 1: [(0, 0.1), (30_000, 0.95)], 2: fail()})
    (row,) = compare.runs_rows(merge(read_runs([tmp_path])))
    assert row["median_steps"] == 30_000


@pytest.mark.parametrize("arguments", [["runs"], ["runs", "--wandb", "project"], []])
def test_a_wrong_command_line(compare, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err


def test_of_a_seed_that_was_run_twice_the_newest_counts_and_both_are_shown(
    compare, tmp_path, capsys
):
    """As after `make a5` twice; a folder that is not there yet is only said to be so."""
    for name, value, age in (("new", 0.7, 10), ("old", 0.5, 100), ("stopped", 0.9, 1)):
        directory = write_run(
            tmp_path / "runs" / name, {0: [(0, value)]}, finished=name != "stopped"
        )
        for file in directory.iterdir():
            os.utime(file, (1e9 - age, 1e9 - age))
    assert compare.main(["runs", str(tmp_path / "runs"), str(tmp_path / "multirun")]) == 0
    printed = capsys.readouterr()
    first, *others = tables(printed.out)
    assert (first["mean"], first["seeds"]) == ("0.7", "1")
    assert first["note"].startswith(f"newest: {tmp_path}/runs/new")
    assert sorted((row["mean"], row["state"]) for row in others) == [
        ("0.5", "finished"),
        ("0.9", "unfinished"),
    ]
    assert all(row["note"].startswith("older, not counted: ") for row in others)
    assert printed.err == f"{tmp_path}/multirun: nothing there yet\n"
