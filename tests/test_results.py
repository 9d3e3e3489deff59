"""The results that are kept: complete, drawn and quoted as they are."""

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest

from experiments.results.records import merge, read_runs

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUOTED = [
    (document.name, command, text)
    for document in DOCUMENTS
    for command, text in re.findall(
        r"```\n\$ python (scripts/compare\.py [^\n]*)\n(.*?)```",
        document.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(ROOT)


def test_tables_are_quoted():
    assert len(QUOTED) >= 3


@pytest.mark.parametrize(("document", "command", "text"), QUOTED)
def test_a_quoted_table_is_what_the_command_prints(document, command, text, capsys):
    import compare

    assert compare.main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == text, f"{document}: quote it anew"


def test_every_table_of_times_is_of_a_record(capsys):
    """Each line of docs/performance.md's tables is printed of a file in results/benchmarks."""
    from benchmarks.harness import show

    for path in sorted((ROOT / "results" / "benchmarks").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for name in dict.fromkeys(row["benchmark"] for row in found):
            show([row for row in found if row["benchmark"] == name])
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    tables = [block for block in blocks if not block.startswith("pip install")]
    lines = [" ".join(line.split()) for block in tables for line in block.splitlines()]
    assert len(lines) > 50
    assert [line for line in lines if line not in printed] == []


@pytest.mark.slow
def test_the_small_study_is_complete(capsys):
    import reproduce

    assert reproduce.main(["figure1", "figure2", "--scale", "small", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert all(line.endswith(": complete") for line in lines)


def test_a_cell_that_differs_from_the_paper_is_named_in_the_readme():
    from experiments.analysis.verdicts import compare_published

    found = compare_published(ROOT / "results")
    differing = [row.id for row in [*found.figure1, *found.figure2] if row.verdict == "differs"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in differing if name not in readme] == []


def test_the_small_study_shows_the_papers_two_claims():
    from experiments.analysis.depths import minimum_depths

    groups = merge(read_runs([ROOT / "results" / "small" / "figure2"]))
    lengths = sorted({group.cell.size for group in groups})
    depths = {
        model: [
            minimum_depths([g for g in groups if g.cell.model == model], length, 4)
            for length in lengths
        ]
        for model in ("linear_cde", "rnn", "s4", "mamba", "transformer")
    }
    for model, at in depths.items():
        known = [[d.most for d in seeds if d.known] for seeds in at]
        assert all(len(values) == 5 for values in known), model
        if model in ("linear_cde", "rnn"):
            assert all(value == 1 for values in known for value in values), model
        else:  # every seed needs more blocks at the greatest length than at the least
            assert all(b > a for a, b in zip(known[0], known[-1], strict=True)), model

    rmse = {}
    for group in merge(read_runs([ROOT / "results" / "small" / "figure1"])):
        cell, zero = group.cell, group.runs[0].baselines["rmse_zero"]
        values = [seed.final / zero for seed in group.seeds]
        rmse[cell.task, cell.model, cell.depth, cell.nonlinear] = values
    for task in ("area", "volume"):
        dense, one = rmse[task, "linear_cde", 1, False], rmse[task, "mamba", 1, False]
        two = rmse[task, "mamba", 2, False]
        assert max(dense) < min(one)
        assert statistics.median(two) < min(one)  # of the volume, a seed may stay at zero
        for model in ("s4", "s5"):  # linear and time-invariant: no better than predicting zero
            assert min(rmse[task, model, 1, False] + rmse[task, model, 2, False]) > 0.95
            assert max(rmse[task, model, 2, True]) < 0.9
