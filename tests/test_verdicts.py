"""The verdicts on the paper's cells, at their edges."""

import math
from pathlib import Path

import pytest
from recorded import write_run

from experiments.results.published import PublishedCurve, PublishedDepth, Spread
from experiments.results.records import merge, read_runs

ROOT = Path(__file__).parents[1]
TRAINED = {20: Spread(0.5, 0.4, 0.6), 100: Spread(0.3, 0.2, 0.4), 990: Spread(0.1, 0.09, 0.12)}
CURVE = PublishedCurve("mamba-2-depth1", "mamba", 2, 1, False, TRAINED, 0.11)


@pytest.fixture
def verdicts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from experiments.analysis import verdicts

    return verdicts


def group_of(directory, curves, **options):
    (group,) = merge(read_runs([write_run(directory, curves, **options)]))
    return group


@pytest.mark.parametrize(
    ("mean", "side"),
    [
        (0.0141, ""),  # 0.0192 − (0.0243 − 0.0192)
        (0.0294, ""),  # 0.0243 + (0.0243 − 0.0192)
        (0.01409, "below"),
        (0.02941, "above"),
        (math.nan, "above"),
    ],
)
def test_the_range_is_widened_by_its_own_width(verdicts, mean, side):
    assert verdicts.outside(mean, Spread(0.0217, 0.0192, 0.0243)) == side


def test_without_a_range_the_mean_itself_is_wanted(verdicts):
    assert verdicts.outside(0.5, Spread(0.5, None, None)) == ""
    assert verdicts.outside(0.501, Spread(0.5, None, None)) == "above"


def test_a_curve_that_went_all_the_way(verdicts, tmp_path):
    curves = {0: [(20, 0.9), (990, 0.14), (1000, 9.0)], 1: [(20, 0.9), (990, 0.16)]}
    row = verdicts.compare_curve(CURVE, group_of(tmp_path, curves, dimension=2))
    assert (row.step, row.published, row.seeds) == (990, 0.1, 2)
    assert (row.ours, row.ours_min, row.ours_max) == pytest.approx((0.15, 0.14, 0.16))
    assert (row.verdict, row.note) == ("agrees", "")


def test_a_curve_that_stopped_is_compared_where_every_seed_was(verdicts, tmp_path):
    curves = {0: [(20, 9.0), (100, 0.3), (990, 9.0)], 1: [(20, 9.0), (100, 0.5), (500, 9.0)]}
    row = verdicts.compare_curve(CURVE, group_of(tmp_path, curves, dimension=2))
    assert (row.step, row.published, row.published_max, row.ours) == (100, 0.3, 0.4, 0.4)
    assert row.verdict == "agrees"
    assert row.note == "compared at step 100: ours stop before the last published, 990"


def test_seeds_that_came_nowhere_do_not_count(verdicts, tmp_path):
    curves = {0: [(10, 0.9)], 1: [(20, 0.9)]}
    group = group_of(tmp_path / "a", curves, dimension=2, finished=False)
    row = verdicts.compare_curve(CURVE, group)
    assert (row.step, row.seeds, row.ours, row.verdict) == (20, 1, 0.9, "differs")
    assert "above the published range" in row.note
    assert "1 seed(s) not yet at a published step; 2 of 2 seed(s) unfinished" in row.note
    group = group_of(tmp_path / "b", {0: [(10, 0.9)]}, dimension=2)
    row = verdicts.compare_curve(CURVE, group)
    assert (row.step, row.published, row.ours, row.verdict) == (990, 0.1, None, "not run")
    assert verdicts.compare_curve(CURVE, None).verdict == "not run"


def test_a_seed_that_failed_differs(verdicts, tmp_path):
    curves = {0: [(20, 0.5), (100, 0.3)], 1: [(20, 0.5)]}
    group = group_of(tmp_path, curves, dimension=2, failed={1: 33})
    row = verdicts.compare_curve(CURVE, group)
    assert (row.verdict, row.step, row.ours, row.seeds) == ("differs", 100, 0.3, 1)
    assert "seed 1 failed after 33 steps" in row.note
    group = group_of(tmp_path / "b", {0: [(20, math.nan)]}, dimension=2, failed={0: 20})
    row = verdicts.compare_curve(CURVE, group)
    assert (row.verdict, row.step, row.ours, row.seeds) == ("differs", 990, None, 0)


def test_features_without_training_have_no_step(verdicts, tmp_path):
    published = PublishedCurve("l", "linear_cde", 2, 1, False, {None: Spread(2.0, 1.5, 2.5)}, 9.0)
    group = group_of(tmp_path, {0: [(0, 3.0)], 1: [(0, 4.0)]}, dimension=2, procedure="readout")
    row = verdicts.compare_curve(published, group)
    assert (row.step, row.ours, row.verdict, row.note) == (None, 3.5, "agrees", "")


def fail(last=990_000):
    return [(0, 0.1), (last, 0.9)]  # 0.90 itself does not pass


PASS = [(0, 0.1), (10_000, 0.91)]


def depth_row(verdicts, folder, runs, *, blocks, length=5, deepest=4, lengths=None):
    """Compares runs, {(length, depth): curves}, with a published cell.

    The lengths of the procedure are those of the runs, and this one, if none are given.
    """
    for (size, depth), curves in runs.items():
        write_run(folder / f"{size}-{depth}", curves, length=size, depth=depth)
    steps = None if blocks == math.inf else 10_000
    row = PublishedDepth(
        f"mamba-{length}", "mamba", length, float(blocks), steps, deepest, 0.9, 990_000
    )
    lengths = lengths or sorted({length, *(k for k, _ in runs)})
    return verdicts.compare_depth(row, merge(read_runs([folder])) if runs else [], lengths)


NONE = math.inf
ONE_TO_THREE = {(5, 1): {0: PASS, 1: fail()}, (5, 2): {1: fail()}, (5, 3): {1: PASS}}


@pytest.mark.parametrize(
    ("runs", "blocks", "verdict", "least", "most"),
    [
        ({}, 1, "not run", None, None),
        ({(5, 1): {0: PASS}}, 1, "agrees", 1, 1),
        ({(5, 1): {0: PASS}}, 2, "differs", 1, 1),
        ({(5, 1): {0: PASS}}, NONE, "differs", 1, 1),
        # Between our seeds' depths, though none has it.
        (ONE_TO_THREE, 1, "agrees", 1, 3),
        (ONE_TO_THREE, 2, "agrees", 1, 3),
        (ONE_TO_THREE, 3, "agrees", 1, 3),
        (ONE_TO_THREE, 4, "differs", 1, 3),
        # A depth left out, or one that stopped too soon to tell.
        ({(5, 2): {0: PASS}}, 2, "not run", 1, 2),
        ({(5, 2): {0: PASS}}, 3, "differs", 1, 2),
        ({(5, 1): {0: fail(980_000)}}, 1, "not run", 1, NONE),
        ({(5, 1): {0: fail()}}, 1, "differs", 2, NONE),
        ({(5, 1): {0: fail()}}, NONE, "not run", 2, NONE),
        ({(5, 1): {0: PASS, 1: fail(20)}}, 1, "agrees", 1, NONE),
        # Every depth fails; one of the seeds does.
        ({(5, d): {0: fail()} for d in (1, 2, 3, 4)}, NONE, "agrees", NONE, NONE),
        ({(5, d): {0: fail()} for d in (1, 2, 3, 4)}, 4, "differs", NONE, NONE),
        (
            {**{(5, d): {0: fail()} for d in (2, 3, 4)}, (5, 1): {0: fail(), 1: PASS}},
            3,
            "agrees",
            1,
            NONE,
        ),
        # What failed at a shorter length is not tried again.
        ({(4, 1): {0: fail()}, (5, 2): {0: PASS}}, 2, "not run", 2, NONE),
        ({(4, 1): {0: fail()}, (4, 2): {0: PASS}, (5, 2): {0: PASS}}, 2, "agrees", 2, 2),
        ({(6, 1): {0: fail()}, (5, 2): {0: PASS}}, 2, "not run", 1, 2),
        ({(4, 1): {1: fail()}, (5, 2): {0: PASS}}, 2, "not run", 1, NONE),
        ({(4, d): {0: fail()} for d in (1, 2, 3, 4)}, NONE, "agrees", NONE, NONE),
        ({(4, d): {0: fail()} for d in (1, 2, 3)}, NONE, "not run", None, None),
    ],
)
def test_minimum_depths(verdicts, tmp_path, runs, blocks, verdict, least, most):
    row = depth_row(verdicts, tmp_path, runs, blocks=blocks)
    assert (row.verdict, row.ours_min, row.ours_max) == (verdict, least, most)


def test_what_a_depth_row_says(verdicts, tmp_path):
    row = depth_row(verdicts, tmp_path / "a", ONE_TO_THREE, blocks=4)
    assert (row.ours, row.seeds, row.note) == (2.0, 2, "fewer blocks")
    assert (row.median_steps, row.min_steps, row.max_steps) == (10_000, 10_000, 10_000)
    assert row.passed == "depth 1: 1/2, depth 2: 0/1, depth 3: 1/1"
    runs = {(5, 1): {0: PASS, 1: fail(20)}}
    row = depth_row(verdicts, tmp_path / "b", runs, blocks=2)
    assert (row.ours, row.verdict) == (None, "not run")
    assert row.note == "undecided; bounds: a cell not run, or stopped before step 990,000"
    row = depth_row(verdicts, tmp_path / "c", {(5, 1): {0: fail()}}, blocks=1, deepest=1)
    assert (row.ours, row.ours_min, row.verdict) == (None, math.inf, "differs")
    row = depth_row(verdicts, tmp_path / "d", {(4, 1): {0: fail()}}, blocks=NONE, deepest=1)
    assert (row.passed, row.note) == ("", "every depth failed at shorter lengths")


def test_a_seed_that_failed_does_not_pass(verdicts, tmp_path):
    write_run(tmp_path, {0: [(0, 0.1)]}, length=5, failed={0: 12})
    row = PublishedDepth("mamba-5", "mamba", 5, 1.0, 10_000, 4, 0.9, 990_000)
    assert verdicts.compare_depth(row, merge(read_runs([tmp_path])), [5]).verdict == "differs"


def test_a_shorter_length_that_was_not_run_may_have_dropped_the_depth(verdicts, tmp_path):
    runs = {(3, 1): {0: PASS}, (5, 1): {0: PASS}}
    row = depth_row(verdicts, tmp_path / "a", runs, blocks=1, lengths=[3, 4, 5])
    assert (row.verdict, row.ours_min, row.ours_max) == ("not run", 1, NONE)
    row = depth_row(verdicts, tmp_path / "a", runs, blocks=1, lengths=[3, 5])
    assert (row.verdict, row.ours_min, row.ours_max) == ("agrees", 1, 1)


def test_what_passes_after_the_last_published_evaluation_has_failed(verdicts, tmp_path):
    late = [(0, 0.1), (990_000, 0.5), (1_000_000, 0.95)]
    row = depth_row(verdicts, tmp_path, {(5, 1): {0: late}}, blocks=1)
    assert (row.verdict, row.ours_min, row.median_steps) == ("differs", 2, None)
