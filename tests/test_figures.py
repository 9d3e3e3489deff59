"""Figures: known data end as the right points on the axes, and the same data as the same file."""

import math
from pathlib import Path

import numpy as np
import pytest
from recorded import paper_results, write_experiment, write_run

from experiments.results.published import (
    PublishedCurve,
    PublishedDepth,
    Spread,
    read_figure1,
    read_figure2,
)
from experiments.results.records import merge, read_runs

ROOT = Path(__file__).parents[1]
PASS, FAIL = [(0, 0.1), (10_000, 0.95)], [(0, 0.1), (990_000, 0.5)]
AREA = ("figure1/mamba", "task=area", "model.depth=1")


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import figures
    from matplotlib import pyplot

    yield figures
    pyplot.close("all")


@pytest.fixture
def results(tmp_path):
    return paper_results(tmp_path)


def lines(axes, label):
    """The (x, y) of every line of a label; an error bar's is its own line."""
    containers = [c.lines[0] for c in axes.containers if c.get_label() == label]
    found = [line for line in axes.lines if line.get_label() == label] + containers
    return [tuple(np.asarray(v, float).tolist() for v in line.get_data()) for line in found]


def bars(axes, label):
    """The (lowest, highest) of every error bar of a label, from left to right."""
    (container,) = (c for c in axes.containers if c.get_label() == label)
    (collection,) = container.lines[2]
    return [(segment[0][1], segment[1][1]) for segment in collection.get_segments()]


def band(axes, label):
    """The outline of the band of a label, {x: (lowest, highest)}."""
    (collection,) = (c for c in axes.collections if c.get_label() == label)
    (path,) = collection.get_paths()
    found = {}
    for x, y in path.vertices:
        low, high = found.get(x, (y, y))
        found[x] = (min(low, y), max(high, y))
    return found


def labels(axes):
    artists = [*axes.lines, *axes.containers, *axes.collections, *axes.patches]
    return {label for a in artists if not (label := str(a.get_label())).startswith("_")}


def near(values):
    return pytest.approx(values, rel=1e-9)


def test_figure1_has_the_mean_and_the_range_of_the_seeds(figures, tmp_path):
    curves = {0: [(0, 0.2), (10, 0.1), (20, 0.04)], 1: [(0, 0.2), (10, 0.3)]}
    write_run(tmp_path / "a", curves, dimension=2)
    write_run(tmp_path / "b", {0: [(10, 0.5)]}, dimension=2, depth=2, activation="gelu")
    write_run(
        tmp_path / "c",
        {0: [(0, 0.002)], 1: [(0, 0.004)]},
        dimension=2,
        model="linear_cde",
        procedure="readout",
    )
    write_run(tmp_path / "d", {0: [(10, 0.05)]}, dimension=3, model="s4")
    write_run(tmp_path / "e", {0: PASS}, model="s4")  # of Figure 2
    figure = figures.draw_figure1(figures.read_results(tmp_path, "figure1"))
    area, volume = figure.axes
    assert (area.get_title(), volume.get_title()) == ("Area (2D)", "Volume (3D)")
    assert (area.get_yscale(), area.get_xlabel()) == ("log", "training steps")
    ((x, y),) = lines(area, "ours mamba depth1")
    assert (x, y) == ([10, 20], near([0.2, 0.04]))  # the second by the one seed that has it
    assert band(area, "ours mamba depth1") == {10: (0.1, 0.3), 20: (0.04, 0.04)}
    assert lines(area, "ours mamba depth2 nonlinear") == [([10], [0.5])]
    ((_, y),) = lines(area, "ours linear_cde depth1")
    assert y == near([0.003, 0.003])
    (patch,) = (p for p in area.patches if p.get_label() == "ours linear_cde depth1")
    assert (patch.get_y(), patch.get_y() + patch.get_height()) == near((0.002, 0.004))
    (random,) = (a for a in area.lines if a.get_label() == "ours linear_cde depth1")
    assert (random.get_linestyle(), random.get_color()) == ("--", "#D55E00")
    (zero,) = (a for a in area.lines if a.get_label() == "zero")
    assert (zero.get_linestyle(), zero.get_color()) == ("--", "black")
    assert zero.get_ydata()[0] == 0.11
    assert lines(volume, "ours s4 depth1") == [([10], [0.05])]
    assert not any("published" in label for axes in figure.axes for label in labels(axes))


def test_figure1_has_every_published_point(figures, results):
    from experiments.analysis.figures.style import FAINT

    found = figures.read_results(results, "figure1")
    figure = figures.draw_figure1(found)
    for axes, dimension in zip(figure.axes, (2, 3), strict=True):
        curves = [
            c for c in read_figure1(results / "published/figure1.csv") if c.dimension == dimension
        ]
        assert len(curves) == 10
        names = set()
        for curve in curves:
            name = f"published {curve.model} depth{curve.depth}{' nonlinear' * curve.nonlinear}"
            ((x, y),) = lines(axes, name)
            names.add(name)
            if None in curve.at:
                assert y == [curve.at[None].mean] * 2
                continue
            assert x == [20_000, 100_000, 990_000]
            assert y == near([curve.at[step].mean for step in (20_000, 100_000, 990_000)])
            for step, (low, high) in zip(x, bars(axes, name), strict=True):
                spread = curve.at[int(step)]
                assert low == near(min(spread.low, spread.mean))
                assert high == near(max(spread.high, spread.mean))
            (container,) = (c for c in axes.containers if c.get_label() == name)
            assert container.lines[0].get_alpha() == FAINT
        assert labels(axes) == {*names, "zero"}  # nothing of ours is invented
        ((_, y),) = lines(axes, "zero")
        assert y == near([{2: 0.111950, 3: 0.058498}[dimension]] * 2)


def test_figure1_shows_ours_over_the_published(figures, results):
    write_experiment(results / "figure1" / "a", {0: [(20_000, 0.05)]}, *AREA)
    write_experiment(results / "elsewhere", {0: [(20_000, 0.05)]}, *AREA)
    area, volume = figures.draw_figure1(figures.read_results(results, "figure1")).axes
    ours = {label for label in labels(area) if label.startswith("ours")}
    assert ours == {"ours mamba depth1"}
    (line,) = (a for a in area.lines if a.get_label() == "ours mamba depth1")
    assert (line.get_alpha(), line.get_linestyle()) == (None, "-")
    assert not any(label.startswith("ours") for label in labels(volume))


def test_figure2_has_the_median_and_the_range_of_the_minimum_depths(figures, tmp_path):
    folder = tmp_path / "small"
    write_run(folder / "a", {0: PASS, 1: FAIL, 2: FAIL}, length=3, preset="quick")
    write_run(folder / "b", {1: PASS, 2: FAIL}, length=3, depth=2, preset="quick")
    write_run(folder / "c", {2: PASS}, length=3, depth=3, preset="quick")
    write_run(folder / "d", {1: FAIL}, length=4, depth=2, preset="quick")
    write_run(folder / "e", {1: FAIL}, length=4, depth=3, preset="quick")
    write_run(folder / "e4", {1: FAIL}, length=4, depth=4, preset="quick")
    write_run(folder / "f", {0: PASS}, length=5, depth=2, preset="quick")  # depth 1 is not known
    write_run(folder / "g", {0: PASS}, length=5, model="linear_cde", preset="quick")
    figure = figures.draw_figure2(figures.read_results(folder, "figure2"))
    linear, mamba = figure.axes
    assert (linear.get_title(), mamba.get_title()) == ("Linear CDE", "Mamba")
    assert lines(linear, "ours linear_cde") == [([5], [1])]
    # Seed 1 has no depth that passes at 4, as 1 block failed at 3, and so none at 5.
    assert lines(mamba, "ours mamba") == [([3, 4, 5], [2, 5, 5])]
    assert lines(mamba, "several seeds mamba") == [([3], [2])]
    assert bars(mamba, "ours mamba") == [(1, 3), (5, 5), (5, 5)]
    ticks = dict(
        zip(linear.get_yticks(), (t.get_text() for t in linear.get_yticklabels()), strict=True)
    )
    assert ticks == {1: "1", 2: "2", 3: "3", 4: "4", 5: "none"}
    assert not any("published" in label for axes in figure.axes for label in labels(axes))


def test_figure2_has_every_published_depth(figures, results):
    mamba, early = "figure2/mamba", {0: [(0, 0.1), (80_000, 0.5)]}
    write_experiment(results / "figure2" / "a", {0: PASS, 1: PASS}, mamba, "task.length=3")
    write_experiment(results / "figure2" / "b", early, mamba, "task.length=4")
    figure = figures.draw_figure2(figures.read_results(results, "figure2"))
    models = ["linear_cde", "rnn", "s4", "mamba", "transformer"]
    for axes, model in zip(figure.axes, models, strict=True):
        cells = [c for c in read_figure2(results / "published/figure2.csv") if c.model == model]
        ((x, y),) = lines(axes, f"published {model}")
        assert x == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20]
        assert y == [5 if c.blocks == math.inf else c.blocks for c in cells]
        ours = [([3.0], [1.0])] if model == "mamba" else []
        assert lines(axes, f"ours {model}") == ours
    assert figure.axes[0].get_yticklabels()[-1].get_text() == "none"


def test_the_last_metrics_of_any_runs(tmp_path):
    from experiments.analysis.figures.runs import draw_runs

    write_run(tmp_path / "a", {0: [(10, 0.5)], 1: [(10, 0.7)]}, length=3)
    write_run(tmp_path / "b", {0: [(10, 0.4)]}, length=5)
    write_run(tmp_path / "c", {0: [(10, 0.9)]}, length=5, depth=2)
    write_run(tmp_path / "d", {0: [(10, 0.02)]}, dimension=2, model="s4")
    figure = draw_runs(merge(read_runs([tmp_path])))
    words, area = figure.axes
    assert lines(words, "Mamba, depth 1") == [([3, 5], near([0.6, 0.4]))]
    assert bars(words, "Mamba, depth 1") == [near((0.5, 0.7)), near((0.4, 0.4))]
    assert lines(words, "Mamba, depth 2") == [([5], [0.9])]
    assert (words.get_xlabel(), words.get_ylabel()) == ("length", "validation accuracy")
    assert lines(area, "S4, depth 1") == [([2], [0.02])]
    assert (area.get_yscale(), area.get_ylabel()) == ("log", "validation RMSE")
    write_run(tmp_path / "e", {0: [(10, 0.4)]}, length=5, width=64)
    words, _ = draw_runs(merge(read_runs([tmp_path]))).axes
    assert lines(words, "Mamba, depth 1, width 64") == [([5], [0.4])]


def test_equal_seeds_have_a_range_of_nothing(tmp_path):
    """The mean of equal numbers may be off by rounding, which an error bar must not see."""
    from matplotlib.figure import Figure

    from experiments.analysis.figures.runs import draw_runs
    from experiments.analysis.figures.style import error_bars

    write_run(tmp_path, {seed: [(10, 0.1)] for seed in range(3)})
    draw_runs(merge(read_runs([tmp_path])))
    axes = Figure().add_subplot()
    error_bars(axes, [1], [Spread(0.3, 0.4, 0.2)], label="outside")
    assert bars(axes, "outside") == [(0.3, 0.3)]


def test_text_can_be_read_and_colours_told_apart(figures, results):
    from experiments.analysis.figures.style import MODELS

    write_experiment(results / "figure1" / "a", {0: [(20_000, 0.05)]}, *AREA)
    for name, draw in (("figure1", figures.draw_figure1), ("figure2", figures.draw_figure2)):
        figure = draw(figures.read_results(results, name))
        assert figure.get_figwidth() == 3.5  # inches: one column of a paper
        texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
        assert min(t.get_fontsize() for t in texts if t.get_text()) >= 7
    colours = [colour for _, colour in MODELS.values()]
    assert len(set(colours)) == len(colours)


@pytest.mark.slow
def test_the_same_data_make_the_same_files(figures, results, tmp_path, capsys):
    curves = {0: [(20_000, 0.05)], 1: [(20_000, 0.06)]}
    write_experiment(results / "figure1" / "a", curves, *AREA)
    names = ["figure1.pdf", "figure1.png", "figure2.pdf", "figure2.png"]
    for folder in ("one", "two"):
        arguments = ["all", "--results", str(results), "--output", str(tmp_path / folder)]
        assert figures.main(arguments) == 0
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == names
        assert str(tmp_path / folder / "figure2.png") in capsys.readouterr().out
    for name in names:
        contents = (tmp_path / "one" / name).read_bytes()
        assert contents == (tmp_path / "two" / name).read_bytes()
        assert b"CreationDate" not in contents
        assert b"Software" not in contents


def test_a_study_of_another_size_has_files_of_its_own(figures, tmp_path, capsys):
    write_run(tmp_path / "small" / "a", {0: PASS}, preset="quick")
    command = ["--results", str(tmp_path / "small"), "--output", str(tmp_path / "out")]
    assert figures.main(["figure2", *command]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "small_figure2.png",
        "small_figure2.pdf",
    }
    assert figures.main(["figure1", *command]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'small'}: no run of area or volume\n"


def test_a_study_is_of_one_word_problem(figures, tmp_path, capsys):
    folder = tmp_path / "study"
    write_run(folder / "a", {0: PASS, 1: FAIL}, group="S3", preset="small")
    command = ["figure2", "--results", str(folder), "--output", str(tmp_path / "out")]
    assert figures.main(command) == 0
    write_run(folder / "b", {0: PASS}, group="A4", preset="small")
    assert figures.main(command) == 2
    expected = f"error: {folder}: got A4, S3; expected runs of one word problem\n"
    assert capsys.readouterr().err == expected
    assert figures.main([*command[:2], str(tmp_path / "nothing"), *command[3:]]) == 2


def test_the_slope_of_a_power_law(figures, tmp_path):
    from experiments.analysis.figures.width import PowerLaw, draw_width

    widths = [16, 64, 256]
    law = PowerLaw.fit(widths, [3 * width**-1.5 for width in widths])
    assert (law.slope, law.scale) == pytest.approx((-1.5, 3))
    assert law.at([100]) == pytest.approx([3e-3])
    for width in widths:
        values = {0: 2 * width**-1.0, 1: 4 * width**-1.0}
        write_run(
            tmp_path / str(width),
            {seed: [(0, value)] for seed, value in values.items()},
            model="linear_cde",
            dimension=2,
            width=width,
            procedure="readout",
        )
    (axes,) = draw_width(merge(read_runs([tmp_path]))).axes
    label = "Area (2D): slope -1.00"
    assert lines(axes, label) == [(widths, pytest.approx([3 / width for width in widths]))]
    assert bars(axes, label) == [pytest.approx((2 / width, 4 / width)) for width in widths]


def test_quick_is_still_drawn(figures, tmp_path):
    file = tmp_path / "quick.png"
    assert figures.main(["quick", "--output", str(file)]) == 0
    assert file.stat().st_size > 10_000


def test_rounding_and_missing_ranges_of_published_values(figures):
    from experiments.analysis.figures.results import Results

    at = {20: Spread(0.5, None, None), 100: Spread(0.3, 0.31, 0.4)}
    curve = PublishedCurve("x", "mamba", 2, 1, False, at, 0.11)
    depth = PublishedDepth("x", "mamba", 3, math.inf, None, 2, 0.9, 990)
    (area,) = figures.draw_figure1(Results([], [curve], [])).axes
    assert bars(area, "published mamba depth1") == [near((0.5, 0.5)), near((0.3, 0.4))]
    (axes,) = figures.draw_figure2(Results([], [], [depth])).axes
    assert lines(axes, "published mamba") == [([3], [3])]
