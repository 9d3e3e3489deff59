"""The order in which figures are reproduced, and that nothing finished is run again."""

import fcntl
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recorded import write_experiment, write_run

from experiments.results.cells import Cell
from experiments.results.records import RunResult, SeedResult, merge, read_runs

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
    from experiments.analysis import plan as jobs

    return jobs


@pytest.fixture
def depths(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from experiments.analysis import depths

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


def test_runs_of_other_lengths_tell_nothing(jobs):
    """A sweep in progress has left one failure, at a length that was not asked for."""
    chain = jobs.Depths("figure2", "mamba", (4,), DEEPEST, 0.9, (0,))
    runs = [run_of(3, 2, {0: False}), run_of(4, 1, {0: True})]
    assert chain.next(merge(runs)) is None


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
        "task=area", "model.depth=2", "model.activation=gelu", "seeds=[0]"
    ]  # fmt: skip


def test_every_published_cell_has_a_job(jobs):
    published = ROOT / "results" / "published"
    curves = jobs.chains("figure1", published, None, SEEDS)
    assert sum(len(chain.cells) for chain in curves.values()) == 20 + 2  # and diagonal, twice
    widths = jobs.chains("width", published, None, SEEDS)
    assert [cell.width for cell in widths["linear_cde"].cells] == [16, 32, 64, 128, 256, 512] * 2
    depths = jobs.chains("figure2", published, None, SEEDS)
    assert {m: chain.deepest for m, chain in depths.items()} == {
        "linear_cde": 1, "rnn": 4, "s4": 4, "mamba": 4, "transformer": 4
    }  # fmt: skip
    assert all(len(chain.lengths) == 14 for chain in depths.values())
    with pytest.raises(ValueError, match="--lengths: got 13; expected some of 3, 4, 5"):
        jobs.chains("figure2", published, [3, 13], SEEDS)


@pytest.mark.slow
def test_a_study_is_run_once(jobs, tmp_path, capfd):
    import reproduce

    command = ["figure2", "--models", "linear_cde", "--lengths", "3", "4", "--seeds", "0", "1"]
    command += ["--jobs", "2", "--results", str(tmp_path)]

    def run(*more, steps):
        settings = ["--", *TINY, f"train.steps={steps}", "train.evaluate_every=2"]
        code = reproduce.main([*command, *more[:1], *settings, *more[1:]])
        return code, "".join(capfd.readouterr())

    code, said = run(steps=4)
    assert code == 0, said
    runs = {r.cell.size: r for r in read_runs([tmp_path])}
    # Nobody passes 0.90 in four steps: one block fails at length 3, and is not tried at length 4.
    assert {k: [s.seed for s in r.seeds] for k, r in runs.items()} == {3: [0, 1]}
    assert run("--dry-run", steps=4) == (0, "figure2 linear_cde: complete\n")
    before = (tmp_path / "figure2/linear_cde-3-depth1-seeds0_1/metrics.jsonl").stat()
    code, said = run(steps=4)
    assert (code, "begins" in said) == (0, False)
    after = (tmp_path / "figure2/linear_cde-3-depth1-seeds0_1/metrics.jsonl").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    code, said = run(steps=6)  # more than it had: the cell that ended undecided goes on
    assert (code, "goes on" in said) == (0, True), said
    (only,) = read_runs([tmp_path])
    assert [[step for step, _ in s.curve] for s in only.seeds] == [[0, 2, 4, 6]] * 2
    code, said = run("--dry-run", "model.dropout=0.2", steps=6)
    assert code == 2
    assert "model.dropout: got 0.1; expected 0.2; are --scale" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mambo"], "--models: got mambo; expected some of linear_cde, rnn, s4, mamba"),
        (["--lengths", "13"], "--lengths: got 13; expected some of 3, 4"),
        (["--jobs", "0"], "--jobs: got 0; expected at least 1"),
        (["--seeds", "-1"], "--seeds: got -1; expected a whole number, 0 or more"),
        (["width", "--scale", "small"], "got width; expected some of figure1, figure2"),
        (["--", "task.length=5"], "after --: got task.length=5; expected settings that all cells"),
        (["--", "hydra.run.dir=x"], "after --: got hydra.run.dir=x; expected settings that all"),
        (["--lengths", "x"], "--lengths: got x; expected a whole number, 0 or more"),
        (["--", "-m"], "after --: got -m; expected overrides such as train.steps=9"),
    ],
)
def test_wrong_arguments_name_themselves(jobs, arguments, message, tmp_path, capsys):
    import reproduce

    cut = arguments.index("--") if "--" in arguments else len(arguments)
    line = ["figure2", *arguments[:cut], "--results", str(tmp_path), *arguments[cut:]]
    try:
        code = reproduce.main(line)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_lengths_are_of_figure_2(jobs, capsys):
    import reproduce

    assert reproduce.main(["figure1", "--lengths", "3"]) == 2
    assert "--lengths: expected figure2" in capsys.readouterr().err


def test_in_the_folder_of_the_paper_a_run_has_its_settings(jobs, capsys):
    import reproduce

    command = ["figure2", "--dry-run", "--models", "rnn", "--lengths", "3", "--seeds", "0", "--"]
    assert reproduce.main([*command, "model.d_model=8"]) == 2
    said = capsys.readouterr().err
    assert "after --: got model.d_model=8; expected what a cell leaves open, train.steps," in said
    assert reproduce.main([*command, "train.evaluate_every=5000", "logger=local"]) == 0


def test_an_ignored_signal_stays_ignored(jobs, tmp_path):
    """SIGHUP is, under nohup."""
    from experiments.launch import Launcher

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Launcher(tmp_path, False, [], show=False)._stopping():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGHUP, before)


def listed(folder, capsys, overrides=()):
    """The dry run of Mamba on two seeds in a folder: its code, and what it says."""
    import reproduce

    line = ["figure2", "--models", "mamba", "--lengths", "3", "4", "--seeds", "0", "1"]
    line += ["--dry-run", "--results", str(folder)]
    code = reproduce.main([*line, "--", *overrides] if overrides else line)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


PASS, FAIL = [(0, 0.1), (50, 0.95)], [(0, 0.1), (50, 0.5)]
MAMBA = ("figure2/mamba", "task.length=3")


def test_what_is_there_decides_what_comes_next(jobs, tmp_path, capsys):
    folder = tmp_path / "figure2"
    (folder / "mamba-3-depth1-seeds0_1").mkdir(parents=True)  # of a run that failed at once
    assert listed(tmp_path, capsys) == (0, "figure2 mamba: mamba-3-depth1-seeds0_1\n")
    write_experiment(folder / "sweep", {0: PASS, 1: FAIL}, *MAMBA)
    assert listed(tmp_path, capsys) == (0, "figure2 mamba: mamba-3-depth2-seeds1\n")
    begun = {1: [(0, 0.1)], 2: [(0, 0.1)]}
    write_experiment(folder / "begun", begun, *MAMBA, "model.depth=2", finished=False)
    assert listed(tmp_path, capsys) == (0, "figure2 mamba: mamba-3-depth2-seeds1_2\n")
    write_experiment(folder / "other", {2: PASS}, *MAMBA, "model.depth=2")
    code, said = listed(tmp_path, capsys)
    assert (code, "seed 2 is finished in" in said) == (1, True)


def test_a_seed_that_is_not_finite_has_failed_at_its_depth(jobs, tmp_path, capsys):
    curves = {0: [(0, 0.1)], 1: PASS}
    write_experiment(tmp_path / "figure2" / "a", curves, *MAMBA, failed={0: 33})
    assert listed(tmp_path, capsys) == (0, "figure2 mamba: mamba-3-depth2-seeds0\n")


def test_runs_of_another_scale_are_refused(jobs, tmp_path, capsys):
    write_run(tmp_path / "figure2" / "a", {0: PASS, 1: PASS}, group="S3", preset="small")
    code, said = listed(tmp_path, capsys)
    assert code == 2
    assert "preset: got 'small'; expected 'figure2'; are --scale, --results" in said


def test_a_finished_run_that_does_not_decide_is_named(jobs, tmp_path, capsys):
    """It stopped at a lower threshold than the figure's."""
    directory = tmp_path / "figure2" / "mamba-3-depth1-seeds0_1"
    curves = {0: [(0, 0.1), (50, 0.7)], 1: [(0, 0.1), (50, 0.7)]}
    write_experiment(directory, curves, *MAMBA, changes={"train.stop_at": 0.6})
    code, said = listed(tmp_path, capsys)
    assert code == 1
    assert f"{directory}: this finished run does not tell" in said


def test_a_seed_that_ended_sooner_than_now_asked_goes_on(jobs, tmp_path, capsys):
    folder, early = tmp_path / "figure2", {"train.steps": 50}
    write_experiment(folder / "a", {0: FAIL, 1: PASS}, *MAMBA, changes=early)
    assert listed(tmp_path, capsys) == (0, "figure2 mamba: mamba-3-depth1-seeds0_1\n")
    code, said = listed(tmp_path, capsys, overrides=["train.steps=50"])
    assert (code, said) == (0, "figure2 mamba: mamba-3-depth2-seeds0\n")


def test_a_run_that_another_process_has_is_left_to_it(jobs, tmp_path, capsys):
    directory = tmp_path / "figure2" / "mamba-3-depth1-seeds0_1"
    directory.mkdir(parents=True)
    with open(directory / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, said = listed(tmp_path, capsys)
    assert code == 1
    assert f"{directory}: another process is running it" in said


@pytest.mark.slow
def test_a_run_that_fails_is_shown(jobs, tmp_path, capfd):
    import reproduce

    folder = str(tmp_path / "it's here")  # quoted for Hydra
    command = ["figure2", "--models", "rnn", "--jobs", "2", "--seeds", "0", "--results", folder]
    for _ in range(2):  # what the first leaves is not in the way of the second
        assert reproduce.main([*command, "--", *TINY, "model.dropout=2"]) == 2
        said = capfd.readouterr()
        assert "figure2/rnn-3-depth1-seeds0: exit code 2" in said.err
        assert "model.dropout" in said.err
        assert "1 of 1 models stopped" in said.out


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(jobs, tmp_path, capfd):
    import reproduce

    command = ["figure2", "--models", "linear_cde", "--lengths", "3"]  # which has no other depth
    command += ["--seeds", "0", "--results", str(tmp_path)]
    settings = ["--", *TINY, "train.evaluate_every=1000", "train.steps=4000", "train.stop_at=null"]
    line = [sys.executable, str(SCRIPT), *command, *settings]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    directory = tmp_path / "figure2" / "linear_cde-3-depth1-seeds0"
    deadline = time.monotonic() + 120
    while not list((directory / "checkpoints").glob("[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output.decode()
    assert reproduce.main([*command, "--dry-run", *settings]) == 0
    assert capfd.readouterr().out == "figure2 linear_cde: linear_cde-3-depth1-seeds0\n"
    assert reproduce.main([*command, *settings]) == 0, capfd.readouterr().err
    assert "goes on" in capfd.readouterr().out
    (run,) = read_runs([directory])
    assert [step for step, _ in run.seeds[0].curve] == list(range(0, 4001, 1000))
