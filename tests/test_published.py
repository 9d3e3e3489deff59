"""The paper's tables as typed rows, beside the outputs that were published."""

import csv
import math
import shutil
from pathlib import Path

import pytest

from experiments.results.published import read_figure1, read_figure2

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT.parent / "shared" / "reference"


def test_published_tables_are_whole():
    curves = read_figure1(ROOT / "results" / "published" / "figure1.csv")
    assert len(curves) == 20
    for curve in curves:
        assert set(curve.at) == (
            {None} if curve.model == "linear_cde" else {20_000, 100_000, 990_000}
        )
        assert all(s.low <= s.mean * 1.001 and s.mean <= s.high * 1.001 for s in curve.at.values())
    depths = read_figure2(ROOT / "results" / "published" / "figure2.csv")
    assert len(depths) == 5 * 14
    assert sum(depth.blocks == math.inf for depth in depths) == 7
    assert all((depth.steps is None) == (depth.blocks == math.inf) for depth in depths)


def test_a_damaged_table_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "figure1.csv"
    with pytest.raises(ValueError, match=f"{path}: missing"):
        read_figure1(path)
    shutil.copy(ROOT / "results" / "published" / "figure2.csv", path)
    with pytest.raises(ValueError, match=f"{path}: damaged"):
        read_figure1(path)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the published outputs beside the project")
def test_published_tables_are_those_of_the_published_outputs():
    with (REFERENCE / "figure1_validation_rmse.csv").open() as file:
        points = list(csv.DictReader(file))
    values = {}
    for p in points:
        key = (p["model"].lower(), int(p["input_dim"]), int(p["depth"]), p["nonlinear"] == "True")
        values.setdefault((*key, int(p["step"])), []).append(float(p["val_rmse"]))
    with (REFERENCE / "figure1_linear_cde_rmse.csv").open() as file:
        for p in csv.DictReader(file):
            key = ("linear_cde", int(p["input_dim"]), 1, False, None)
            values.setdefault(key, []).append(float(p["val_rmse"]))
    for curve in read_figure1(ROOT / "results" / "published" / "figure1.csv"):
        for step, spread in curve.at.items():
            runs = values[curve.model, curve.dimension, curve.depth, curve.nonlinear, step]
            found = (spread.mean, spread.low, spread.high)
            expected = (sum(runs) / len(runs), min(runs), max(runs))
            assert len(runs) == 5
            assert found == pytest.approx(expected, rel=6e-3), curve.id  # as rounded in the table
    with (REFERENCE / "figure2_a5_accuracy.csv").open() as file:
        points = list(csv.DictReader(file))
    names = {"LinearCDE": "linear_cde"}
    passed, last = {}, max(int(p["step"]) for p in points)
    for p in points:
        key = (names.get(p["model"], p["model"].lower()), int(p["length"]))
        if float(p["val_accuracy"]) > 0.9:
            pair = (int(p["depth"]), int(p["step"]))
            passed[key] = min(passed.get(key, pair), pair)
    for cell in read_figure2(ROOT / "results" / "published" / "figure2.csv"):
        blocks, steps = passed.get((cell.model, cell.length), (math.inf, None))
        assert (cell.blocks, cell.last_step) == (blocks, last), cell.id
        upper_bound = cell.model in ("linear_cde", "rnn")
        assert steps == cell.steps or (upper_bound and steps <= cell.steps), cell.id
