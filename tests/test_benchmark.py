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
