"""The order in which figures are reproduced, and that nothing finished is run again."""

import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recorded import write_run

from experiments.cells import Cell
from experiments.records import RunResult, SeedResult, merge, read_runs

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "reproduce.py"
LENGTHS, DEEPEST, SEEDS = (3, 4, 5, 6), 3, (0, 1, 2)
TINY = [
    "logger=local",
    "task.samples=400",
    "task.auxiliary_length=null",
    "model.d_model=8",
    "train.mixing=none",
    "train.batch_size=16",
]


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from reproducing import jobs

    return jobs


@pytest.fixture
def depths(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from comparing import depths

    return depths


def run_of(length, depth, passes):
    """A finished run of seeds, and whether each passes."""
    seeds = tuple(
        SeedResult(seed, "finished", ((0, 0.1), (50, 0.95 if ok else 0.5)), 0.5, 0.5, 50,
                   50 if ok else None, 1.0, None)
        for seed, ok in passes.items()
    )  # fmt: skip
    cell = Cell("A5", length, "mamba", depth, False, 64)
    return RunResult(
        f"{length}-{depth}-{sorted(passes)}", cell, "small", "accuracy", 0.9, {}, {}, seeds
    )


def follow(chain, passes):
    """Runs what a chain asks for; returns the runs, in order."""
    runs = []
    while (job := chain.next(merge(runs))) is not None:
        runs.append(
            run_of(job.size, job.depth, {s: passes[s, job.size, job.depth] for s in job.seeds})
        )
        assert len(runs) <= len(passes), "the same cell again"
    return runs


def table(depths, runs):
    groups = merge(runs)
    return {
        (length, d.seed): d.most
        for length in LENGTHS
        for d in depths.minimum_depths(groups, length, DEEPEST, seeds=SEEDS)
        if d.known
    }


@pytest.mark.parametrize("draw", range(20))
def test_the_procedure_and_all_cells_give_the_same_depths(jobs, depths, draw):
    rng = random.Random(draw)
    keys = [(s, k, d) for s in SEEDS for k in LENGTHS for d in range(1, DEEPEST + 1)]
    passes = {key: rng.random() < 0.6 for key in keys}
    chain = jobs.Depths("figure2", "mamba", LENGTHS, DEEPEST, 0.9, SEEDS)
    by_procedure = follow(chain, passes)
    everything = [
        run_of(k, d, {s: passes[s, k, d] for s in SEEDS})
        for k in LENGTHS
        for d in range(1, DEEPEST + 1)
    ]
    # By hand, a seed at a time: the paper's loop.
    expected = {}
    for seed in SEEDS:
        alive = list(range(1, DEEPEST + 1))
        for length in LENGTHS:
            while alive and not passes[seed, length, alive[0]]:
                alive.pop(0)
            expected[length, seed] = alive[0] if alive else math.inf
    assert table(depths, by_procedure) == table(depths, everything) == expected
    assert chain.next(merge(everything)) is None


def test_the_order_of_the_procedure(jobs):
    passes = dict.fromkeys([(s, k, d) for s in SEEDS for k in LENGTHS for d in (1, 2, 3)], True)
    passes |= {(0, 4, 1): False, (2, 4, 1): False, (2, 4, 2): False}
    runs = follow(jobs.Depths("figure2", "mamba", LENGTHS, DEEPEST, 0.9, SEEDS), passes)
    order = [(r.cell.size, r.cell.depth, tuple(s.seed for s in r.seeds)) for r in runs]
    assert order == [
        (3, 1, (0, 1, 2)), (4, 1, (0, 1, 2)), (4, 2, (0, 2)), (4, 3, (2,)),
        (5, 1, (1,)), (5, 2, (0,)), (5, 3, (2,)), (6, 1, (1,)), (6, 2, (0,)), (6, 3, (2,)),
    ]  # fmt: skip


def test_curves_ask_for_the_seeds_that_are_missing(jobs, tmp_path):
    cells = [jobs.Job("mamba", 2, 1, (0, 1)), jobs.Job("mamba", 2, 2, (0, 1), nonlinear=True)]
    chain = jobs.Curves("figure1", "mamba", cells)
    assert chain.next([]) == cells[0]
    write_run(tmp_path / "a", {0: [(1, 0.5)], 1: [(1, 0.4)]}, dimension=2)
    write_run(tmp_path / "b", {1: [(1, 0.4)]}, dimension=2, depth=2, activation="gelu")
    job = chain.next(merge(read_runs([tmp_path])))
    assert (job.depth, job.nonlinear, job.seeds) == (2, True, (0,))
    assert job.overrides("figure1") == [
        "task=area", "model.depth=2", "seeds=[0]", "model.activation=gelu"
    ]  # fmt: skip


def test_every_published_cell_has_a_job(jobs):
    published = ROOT / "results" / "published"
    curves = jobs.chains("figure1", published, None, SEEDS)
    assert sum(len(chain.cells) for chain in curves.values()) == 20 + 2  # and diagonal, twice
    depths = jobs.chains("figure2", published, None, SEEDS)
    assert {m: chain.deepest for m, chain in depths.items()} == {
        "linear_cde": 1, "rnn": 4, "s4": 4, "mamba": 4, "transformer": 4
    }  # fmt: skip
    assert all(len(chain.lengths) == 14 for chain in depths.values())
    with pytest.raises(ValueError, match="--lengths: got 13; expected some of 3, 4, 5"):
        jobs.chains("figure2", published, [3, 13], SEEDS)


def reproduce(*arguments, **options):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_a_study_is_run_once(tmp_path):
    command = ["figure2", "--models", "rnn", "--lengths", 3, 4, "--seeds", 0, 1, "--jobs", 2]
    command += ["--results", tmp_path]
    settings = ["--", *TINY, "train.steps=4", "train.evaluate_every=2", "train.stop_at=0.01"]
    done = reproduce(*command, *settings)
    assert done.returncode == 0, done.stderr
    runs = {r.cell.size: r for r in read_runs([tmp_path])}
    # Nobody passes 0.90 in four steps: one block fails at length 3, and is not tried at length 4.
    assert {k: [s.seed for s in r.seeds] for k, r in runs.items()} == {3: [0, 1]}
    again = reproduce(*command, "--dry-run", *settings)
    assert again.stdout == "figure2 rnn: complete\n"
    before = (tmp_path / "figure2/rnn-3-depth1-seeds0_1/metrics.jsonl").stat()
    again = reproduce(*command, *settings)
    assert (again.returncode, "begins" in again.stdout) == (0, False)
    after = (tmp_path / "figure2/rnn-3-depth1-seeds0_1/metrics.jsonl").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mambo"], "--models: got mambo; none of figure2 has such a model"),
        (["--lengths", "13"], "--lengths: got 13; expected some of 3, 4"),
        (["--jobs", "0"], "--jobs: got 0; expected at least 1"),
    ],
)
def test_wrong_arguments_name_themselves(tmp_path, arguments, message):
    done = reproduce("figure2", *arguments, "--results", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_run_that_fails_is_shown(tmp_path):
    command = ["figure2", "--models", "rnn", "--jobs", 2, "--seeds", 0, "--results", tmp_path]
    done = reproduce(*command, "--", *TINY, "model.dropout=2")
    assert done.returncode == 2
    assert "figure2/rnn-3-depth1-seeds0: exit code 2" in done.stderr
    assert "model.dropout" in done.stderr


def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    command = ["figure2", "--models", "rnn", "--lengths", 3, "--seeds", 0, "--results", tmp_path]
    settings = ["--", *TINY, "train.evaluate_every=100", "train.steps=4000", "train.stop_at=null"]
    line = [sys.executable, str(SCRIPT), *map(str, command), *settings]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    directory = tmp_path / "figure2" / "rnn-3-depth1-seeds0"
    deadline = time.monotonic() + 120
    while not list((directory / "checkpoints").glob("[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output.decode()
    listed = reproduce(*command, "--dry-run")
    assert listed.stdout == "figure2 rnn: rnn-3-depth1-seeds0 (begun)\n"
    done = reproduce(*command, *settings)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout
    (run,) = read_runs([directory])
    assert [step for step, _ in run.seeds[0].curve] == list(range(0, 4001, 100))
