"""The benchmark's own arithmetic, and one benchmark at a tiny size."""

from pathlib import Path

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
