"""The benchmark's own arithmetic, and some benchmarks at tiny sizes."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_ratios_are_to_the_reference():
    from benchmarks import harness

    found = harness.rows("b", "c", {"ours": 0.5, "theirs": 2.0}, "theirs", {"ours": {"MB": 1}})
    assert [row["ratio"] for row in found] == [4.0, 1.0]
    assert [row["milliseconds"] for row in found] == [500.0, 2000.0]
    assert found[0]["MB"] == 1
    assert harness.rows("b", "c", {"ours": 0.5}, "theirs")[0]["ratio"] is None


def test_a_disagreement_is_found():
    from benchmarks import harness

    harness.check_agreement({"a": [np.ones(3)], "b": [np.ones(3) + 1e-6]}, 1e-5)
    with pytest.raises(AssertionError, match="b"):
        harness.check_agreement({"a": [np.ones(3)], "b": [np.ones(3) + 1e-4]}, 1e-5)


def test_the_scan_at_a_tiny_size(monkeypatch, capsys):
    from benchmarks import harness, scan

    monkeypatch.setattr(scan, "SHAPES", [(2, 5, 3, 2)])
    monkeypatch.setattr(scan, "mambapy", lambda arguments: None)
    found = scan.selective_scan_times(harness.Options(1, None, 1000, 4000))
    assert {row["form"] for row in found} == set(scan.FORMS)
    assert all(row["milliseconds"] > 0 for row in found)
    harness.show(found)
    assert "of the states" in capsys.readouterr().out


def test_a_processor_has_no_kernel_times():
    from benchmarks import harness

    assert harness.kernel_milliseconds(lambda: np.ones(3), calls=1) is None


def test_the_limits_of_a_gpu_count_what_must_move_and_be_computed(monkeypatch):
    from benchmarks import scan

    monkeypatch.setattr(scan, "gpu_peaks", lambda: (4e6, 1e6))  # bytes, exponentials a second
    memory, exponential = scan.gpu_limits((2, 3, 5, 7))
    x, a, b, d = 2 * 3 * 5, 5 * 7, 2 * 3 * 7, 5
    read_twice_and_differentiated = 3 * (2 * x + a + 2 * b + d)
    assert memory == pytest.approx(1e-3 * (read_twice_and_differentiated + 2 * x))  # y and its dy
    assert exponential == pytest.approx(1e-3 * 2 * x * 7)


def test_dense_recurrences_at_a_tiny_size(monkeypatch):
    from benchmarks import dense, harness

    monkeypatch.setattr(dense, "RECURRENCES", [(2, 3)])
    found = dense.dense_recurrence(harness.Options(1, None, 1000, 4000))
    assert [row["form"] for row in found] == ["sequential", "associative"]


@pytest.mark.slow
def test_features_of_figure_1_at_a_tiny_size(monkeypatch):
    """Path by path and on the lattice, which need enough paths for each increment."""
    from benchmarks import harness, linear_cde

    small = functools.partial(linear_cde.SignatureTask, n_paths=200)
    monkeypatch.setattr(linear_cde, "SignatureTask", small)
    monkeypatch.setattr(linear_cde, "D_HIDDEN", 8)
    monkeypatch.setattr(linear_cde, "product_rate", lambda: 1e9)
    found = linear_cde.figure1_features(harness.Options(1, None, 50, 4000))
    forms = ["Tsit5", "exact flow, path by path", *linear_cde.LATTICE]
    assert [row["form"] for row in found] == 2 * forms
    assert [row["paths"] for row in found] == 2 * [50, 50, 200, 200]


@pytest.mark.slow
def test_a_step_on_a5_at_a_tiny_size(monkeypatch):
    from benchmarks import harness, linear_cde

    program_of = linear_cde.program_of
    monkeypatch.setattr(
        linear_cde, "program_of", lambda overrides, seeds: program_of(
            [*overrides, "model.d_model=8"], seeds
        )
    )  # fmt: skip
    found = linear_cde.a5_step(harness.Options(1, None, 1000, 4000))
    assert [row["case"].partition(",")[0] for row in found] == ["length 3", "length 20"]


TINY = {
    "rnn": [],
    "mamba": ["model.mixer.d_state=4", "model.mixer.dt_rank=3"],
    "transformer": ["model.mixer.num_heads=2", "model.mixer.d_feedforward=12"],
}


def figure2_model(name):
    from benchmarks import training

    overrides = [f"+experiment=figure2/{name}", "model.depth=2", "model.d_model=8", *TINY[name]]
    return training.build_run(overrides, [0]).make_model(jax.random.key(0))


def test_a_reference_that_is_not_there_is_told_of(capsys):
    from benchmarks import harness

    assert harness.installed("numpy")
    assert not harness.installed("numpy", "no_such_package")
    assert capsys.readouterr().out == "not installed, so its rows are left out: no_such_package\n"


@pytest.mark.parametrize("name", ["S4", "S5"])
@pytest.mark.parametrize("length", [5, 300])
def test_plain_forms_of_the_time_invariant_layers_are_the_layers(name, length, monkeypatch):
    from benchmarks import harness, lti

    monkeypatch.setattr(lti, "installed", lambda *packages: False)
    options = harness.Options(1, None, 1000, 4000)
    for backward in (False, True):
        found = lti.layer_times(name, (2, length, 6, 4), backward, options)
        assert [row["form"] for row in found] == [lti.OURS, lti.PLAIN]
        assert found[1]["ratio"] == 1
        assert all(row["milliseconds"] > 0 and row["temporary MB"] > 0 for row in found)


@pytest.mark.parametrize("name", ["S4", "S5"])
def test_layers_of_discretax_are_ours(name):
    pytest.importorskip("discretax", exc_type=ImportError)
    from benchmarks import harness, lti

    found = lti.layer_times(name, (2, 50, 6, 4), True, harness.Options(1, None, 1000, 4000))
    assert [row["form"] for row in found] == [lti.OURS, lti.PLAIN, lti.DISCRETAX]
    assert found[0]["ratio to discretax"] > 0


def test_forms_that_need_too_much_memory_are_not_timed(monkeypatch):
    from benchmarks import harness, lti

    monkeypatch.setattr(lti, "installed", lambda *packages: False)
    found = lti.layer_times("S4", (2, 5, 6, 4), False, harness.Options(1, None, 1000, 0))
    assert [row["form"] for row in found] == [lti.OURS, lti.PLAIN]
    assert all("milliseconds" not in row and row["temporary MB"] > 0 for row in found)


@pytest.mark.slow
def test_the_time_invariant_layers_at_a_tiny_size(monkeypatch):
    from benchmarks import harness, lti

    monkeypatch.setattr(lti, "installed", lambda *packages: False)
    for shapes in ("S4_SHAPES", "S5_SHAPES", "S4_LONG"):
        monkeypatch.setattr(lti, shapes, [(1, 5, 6, 4)])
    small = ["task.n_paths=100", "task.length=5", "model.d_model=6", "model.mixer.d_state=4"]
    monkeypatch.setattr(lti, "FIGURE1_DATA", small)
    found = lti.lti(harness.Options(1, None, 1000, 4000))
    assert [row["form"] for row in found] == [lti.OURS, lti.PLAIN] * 5 + ["S4", "S5"]
    assert found[-1]["case"] == "training step of Figure 1, depth 1"
    assert found[-1]["ratio"] is None


@pytest.mark.parametrize(
    ("name", "of_a_block", "attention"),
    [
        ("rnn", 2 * 8 * 8, 0),
        ("mamba", 8 * (3 + 4 + 4) + 3 * 8, 0),
        ("transformer", 4 * 8 * 8 + 2 * 8 * 12, 2 * 8 * (5 * 5 + 2 * 2)),
    ],
)
def test_the_products_of_a_step_are_those_on_paper(name, of_a_block, attention):
    from benchmarks import training_step

    positions = 32 * 5 + 32 * 2
    mix, readout = 8 * 16, 8 * 60
    multiplications = positions * (2 * (of_a_block + mix) + readout) + 2 * 32 * attention
    assert training_step.products(figure2_model(name), 5) == 3 * 2 * multiplications


def test_the_limit_is_products_then_the_optimisers_pass(monkeypatch):
    from benchmarks import training_step

    from ssm.init import count_parameters

    model = figure2_model("rnn")
    monkeypatch.setattr(training_step, "product_rate", lambda: 1e6)
    monkeypatch.setattr(training_step, "memory_rate", lambda: 1e3)
    expected = training_step.products(model, 5) / 1e6 + 28 * count_parameters(model) / 1e3
    assert training_step.least_seconds(model, 5) == pytest.approx(expected)


@pytest.mark.slow
def test_a_training_step_at_a_tiny_size(monkeypatch):
    from benchmarks import harness, training_step

    monkeypatch.setattr(training_step, "installed", lambda *packages: False)
    monkeypatch.setattr(training_step, "product_rate", lambda: 1e9)
    monkeypatch.setattr(training_step, "memory_rate", lambda: 1e9)
    options = harness.Options(1, None, 1000, 4000)
    (row,) = training_step.step_times("rnn", 3, 1, options, ["model.d_model=8"])
    assert row["case"] == "rnn, length 3, 1 block of width 8; limits 1 GFLOP/s, 1.0 GB/s"
    model = figure2_model("rnn")
    assert row["form"] == "this code"
    assert row["ratio"] is None
    share = row["share of the limit"] * row["milliseconds"] / 1e3
    assert 0 < share < training_step.least_seconds(model, 3)  # which has a block more


@pytest.mark.parametrize("name", list(TINY))
def test_the_models_of_pytorch_are_ours_and_learn(name):
    pytest.importorskip("torch", exc_type=ImportError)
    pytest.importorskip("mambapy", exc_type=ImportError)
    from benchmarks import training_step

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run = training_step.pytorch_step(figure2_model(name), 5)
    losses = [run() for _ in range(20)]
    assert jnp.isfinite(losses[-1])
    assert losses[-1] != losses[0]


@pytest.mark.slow
def test_the_crossovers_at_a_tiny_size(monkeypatch):
    import importlib

    from benchmarks import dispatch
    from benchmarks.harness import Options

    monkeypatch.setattr(dispatch, "LENGTHS", (5,))
    monkeypatch.setattr(dispatch, "WHOLE_LENGTHS", (70,))
    monkeypatch.setattr(dispatch, "POSITIONS", 70)
    monkeypatch.setattr(dispatch, "WIDTH", 4)
    found = dispatch.dispatch(Options(1, None, 1000, 4000.0))
    cases = {row["case"] for row in found}
    assert len(cases) == len(dispatch.FAMILIES) + 1
    for case in cases:
        assert sum(row["fastest"] == "yes" for row in found if row["case"] == case) == 1
    assert importlib.import_module("ssm.scans.convolution").WHOLE > 0
