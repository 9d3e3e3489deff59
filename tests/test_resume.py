"""Runs that are killed, interrupted or cut off go on, and end as if nothing had happened."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from composing import TINY_A5

from experiments.errors import InUse
from experiments.loggers import read_metrics
from experiments.rundir import RunDirectory
from experiments.training import checkpoint

STEPS, EVERY, INTERVAL = 800, 200, 0.05
SMALL = [
    *TINY_A5,
    "model=rnn",
    "model.d_model=16",
    "model.dropout=0.1",
    "train.batch_size=8",
    "train.auxiliary_batch_size=4",
    f"train.steps={STEPS}",
    f"train.evaluate_every={EVERY}",
    "train.evaluate_batch_size=20",
    "train.stop_at=null",
    f"train.checkpoint_seconds={INTERVAL}",
    "seeds=[0,1]",
    "logger=local",
]
QUICK = "import experiments.training.loop as loop; loop.SECONDS_PER_DISPATCH = 0.02\n"
"""Short dispatches, so that there are many moments."""

KILL = "import os, signal; kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"


def kill_at_write(number):
    """Dies in the middle of writing its checkpoint of that number, the file half there."""
    return f"""{KILL}
import numpy as np
from itertools import count
writes, savez = count(1), np.savez
def half(file, **arrays):
    savez(file, **arrays)
    if next(writes) == {number}:
        file.truncate(file.tell() // 2)
        kill()
np.savez = half
"""


def kill_at_move(number, after):
    """Dies just before or after a checkpoint takes its place."""
    return f"""{KILL}
from itertools import count
moves, replace = count(1), os.replace
def move(source, target):
    now = "checkpoint-" in str(target) and next(moves) == {number}
    if now and not {after}: kill()
    replace(source, target)
    if now: kill()
os.replace = move
"""


@pytest.fixture(scope="module")
def uninterrupted(nursery, tmp_path_factory):
    """The directory of the run that nothing happened to."""
    path = tmp_path_factory.mktemp("uninterrupted")
    assert nursery.run(command(path), QUICK) == 0, nursery.printed()
    return path


def command(path, *more):
    return [*SMALL, *more, f"hydra.run.dir={path}"]


def numbers(path):
    """Every line of metrics.jsonl but for the seconds; no line may be there twice."""
    records = read_metrics(path)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert len(records) == len(lines)
    return [(r.step, r.seed, r.split, r.metric, r.value) for r in records]


def assert_same_end(path, other):
    assert numbers(path) == numbers(other)
    for seed in (0, 1):
        model = f"model-seed{seed}.eqx"
        assert (path / model).read_bytes() == (other / model).read_bytes()
    a, b = (checkpoint.newest(p / "checkpoints", print) for p in (path, other))
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name], err_msg=name)
    assert len(checkpoint.list_files(path / "checkpoints")) == checkpoint.KEPT


def whole_checkpoints(path):
    return checkpoint.list_files(path / "checkpoints")


@pytest.mark.slow
def test_killed_at_25_moments_it_ends_as_if_nothing_had_happened(nursery, uninterrupted, tmp_path):
    """Each process goes on where the last one died; ten die while a checkpoint is written."""
    chance = random.Random(0)
    longest, kills = 0.0, 0
    while kills < 25:
        moment = kills
        if moment % 5 < 2:
            number = chance.randrange(1, 4)
            patch = (kill_at_write(number), kill_at_move(number, moment % 2))[moment % 5]
            status = nursery.run(command(tmp_path), QUICK + patch)
        else:
            before = whole_checkpoints(tmp_path)
            child = nursery.start(command(tmp_path), QUICK)
            nursery.wait_for(
                lambda b=before, c=child: whole_checkpoints(tmp_path) != b or _ended(c)
            )
            time.sleep(chance.uniform(0, 0.15))
            newest = max(p.stat().st_mtime for p in whole_checkpoints(tmp_path))
            longest = max(longest, time.time() - newest)
            if not _ended(child):
                os.kill(child, signal.SIGKILL)
            status = nursery.wait()
        if status == 0:  # it came to its end before its moment, which comes again from the start
            assert_same_end(tmp_path, uninterrupted)
            shutil.rmtree(tmp_path)
            continue
        assert status == -signal.SIGKILL, nursery.printed()
        kills += 1
    assert longest < INTERVAL + 2.0  # a dispatch and a write, on a machine that is busy
    assert nursery.run(command(tmp_path), QUICK) == 0, nursery.printed()
    assert_same_end(tmp_path, uninterrupted)


def _ended(child):
    try:
        return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_it_with_a_checkpoint(nursery, uninterrupted, tmp_path, signum):
    child = nursery.start(command(tmp_path, "train.checkpoint_seconds=1000"), QUICK)
    nursery.wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(numbers(tmp_path)) > 20)
    sent = time.monotonic()
    os.kill(child, signum)
    assert nursery.wait() == 75
    assert time.monotonic() - sent < 10
    assert f"Interrupted: stopped by {signum.name}" in nursery.printed()
    found = checkpoint.newest(tmp_path / "checkpoints", print).description["procedure"]
    assert EVERY < found["step"] <= STEPS
    assert nursery.run([f"resume={tmp_path}", "train.checkpoint_seconds=1000"], QUICK) == 0
    assert f"Resumes from {whole_checkpoints(tmp_path)[0].name}"[:12] in nursery.printed()
    assert_same_end(tmp_path, uninterrupted)


def test_a_signal_while_it_compiles_ends_it_all_the_same(nursery, tmp_path):
    slow = """
import experiments.interruption as i; i.PATIENCE = 0.5
import experiments.training.program as p, ctypes, jax
class Slow(p.Program):
    def init(self, streams):
        print("compiling", flush=True)
        ctypes.PyDLL(None).sleep(60)  # holds on to Python, as a compiler may
        return super().init(streams)
import experiments.training.train as t; t.Program = Slow
"""
    slow = slow.replace("ctypes.PyDLL", "ctypes.CDLL")
    child = nursery.start(command(tmp_path), slow)
    nursery.wait_for(lambda: "compiling" in nursery.printed())
    sent = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert nursery.wait() == 75
    assert time.monotonic() - sent < 10


@pytest.mark.slow
def test_the_handler_that_stood_before_has_the_last_word(nursery, tmp_path):
    """As submitit's, which asks for the job to be queued again."""
    before = (
        QUICK
        + """
import signal, sys
def handler(signum, frame):
    print("queued again", signum, flush=True)
    sys.exit(3)
signal.signal(signal.SIGUSR2, handler)
"""
    )
    child = nursery.start(command(tmp_path), before)
    nursery.wait_for(lambda: whole_checkpoints(tmp_path))
    os.kill(child, signal.SIGUSR2)
    assert nursery.wait() == 3
    assert f"queued again {int(signal.SIGUSR2)}" in nursery.printed()


@pytest.fixture(scope="module")
def cut_off(nursery, tmp_path_factory):
    """The directory of a run that was killed while it wrote a checkpoint, after others."""
    path = tmp_path_factory.mktemp("cut_off")
    patch = QUICK + kill_at_write(5)
    assert nursery.run(command(path), patch) == -signal.SIGKILL, nursery.printed()
    assert len(whole_checkpoints(path)) == 2
    return path


@pytest.fixture
def interrupted(cut_off, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(cut_off, tmp_path / "run"))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(nursery, uninterrupted, interrupted):
    latest = whole_checkpoints(interrupted)[-1]
    latest.write_bytes(latest.read_bytes()[:-100])
    assert nursery.run(command(interrupted), QUICK) == 0, nursery.printed()
    assert f"{latest} is damaged" in nursery.printed()
    assert_same_end(interrupted, uninterrupted)


@pytest.mark.parametrize("damage", ["truncated", "pickle", "a byte", "empty", "text"])
def test_any_damage_to_a_checkpoint_is_found(interrupted, tmp_path, damage):
    before, latest = whole_checkpoints(interrupted)
    content, said = latest.read_bytes(), []
    if damage == "truncated":
        latest.write_bytes(content[: len(content) // 2])
    elif damage == "a byte":
        middle = len(content) // 3
        latest.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "empty":
        latest.write_bytes(b"")
    elif damage == "text":
        latest.write_text("a note")
    else:
        _poison(latest, tmp_path / "executed")
    found = checkpoint.newest(interrupted / "checkpoints", said.append)
    (warning,) = said
    assert f"{latest} is damaged" in warning
    assert not (tmp_path / "executed").exists()
    expected = checkpoint.newest(interrupted / "checkpoints", said.append)
    assert whole_checkpoints(interrupted) == [before]
    assert len(said) == 1
    assert found.description == expected.description
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


def _poison(path, mark):
    """A checkpoint from a stranger, whose description is a pickle that touches a file."""

    class Touch:
        def __reduce__(self):
            return Path.touch, (mark,)

    with zipfile.ZipFile(path, "w") as file, file.open("description.npy", "w") as member:
        np.lib.format.write_array(member, np.array([Touch()], dtype=object), allow_pickle=True)
    with np.load(path, allow_pickle=True) as file:
        assert file["description"] is not None  # such a file does run code, if it is let
    assert mark.exists()
    mark.unlink()


def test_if_every_checkpoint_is_damaged_it_says_so(nursery, interrupted):
    for path in whole_checkpoints(interrupted):
        path.write_bytes(pickle.dumps("no"))
    assert nursery.run(command(interrupted)) == 1
    assert "every checkpoint is damaged; remove the directory" in nursery.printed()


def test_another_configuration_is_refused_with_its_keys(nursery, interrupted):
    other = command(interrupted, "model.d_model=8", "train.batch_size=9", "seeds=[1]")
    assert nursery.run(other) == 2
    for text in ("model.d_model: 16, now 8", "train.batch_size: 8, now 9", "seeds: [0, 1], now"):
        assert text in nursery.printed()
    assert nursery.run(command(interrupted, f"train.steps={STEPS - 1}")) == 2
    assert f"train.steps: {STEPS}, now {STEPS - 1}" in nursery.printed()


def test_a_run_that_is_refused_leaves_the_other_as_it_was(nursery, uninterrupted, tmp_path):
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    shutil.rmtree(path / "checkpoints")
    before = {p: p.read_bytes() for p in path.iterdir() if p.name != ".lock"}
    assert nursery.run(command(path, "model.d_model=8")) == 2
    assert nursery.run(command(path, f"train.steps={STEPS + 1}")) == 2
    assert f"no checkpoint to go on from; expected {STEPS}" in nursery.printed()
    assert {p: p.read_bytes() for p in path.iterdir() if p.name != ".lock"} == before


@pytest.mark.slow
def test_more_steps_go_on_from_the_end(nursery, uninterrupted, tmp_path):
    path = tmp_path / "run"
    assert nursery.run(command(path, f"train.steps={STEPS // 2}"), QUICK) == 0
    assert nursery.run(command(path), QUICK) == 0
    assert_same_end(path, uninterrupted)


def test_a_finished_run_is_not_run_again(nursery, uninterrupted):
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.iterdir() if p.name != ".lock"}
    assert nursery.run(command(uninterrupted)) == 0
    assert "Finished before" in nursery.printed()
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_second_process_is_refused_at_once(nursery, tmp_path):
    """Its exit code is in `test_bad_input.py`."""
    child = nursery.start(command(tmp_path), QUICK)
    nursery.wait_for(lambda: (tmp_path / "config.yaml").exists())
    try:
        with pytest.raises(InUse, match=f"in use by process {child} on"):
            RunDirectory(tmp_path, {}).__enter__()
    finally:
        os.kill(child, signal.SIGKILL)
    assert nursery.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_loses_nothing(nursery, uninterrupted, cut_off, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        path = Path(shutil.copytree(cut_off, disk / "run"))
        left = os.statvfs(disk)
        (disk / "ballast").write_bytes(bytes(left.f_bavail * left.f_frsize - 4096))
        kept = [(p, p.read_bytes()) for p in whole_checkpoints(path)]
        assert len(kept) == 2
        assert nursery.run(command(path), QUICK) == 1
        (error,) = [x for x in nursery.printed().splitlines() if x.startswith("error: ")]
        assert "No space left on device" in error
        assert str(path) in error
        assert [(p, p.read_bytes()) for p in whole_checkpoints(path)] == kept
        (disk / "ballast").unlink()
        shutil.copytree(path, tmp_path / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert nursery.run(command(tmp_path / "run"), QUICK) == 0, nursery.printed()
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_readout_goes_on_after_its_finished_seeds(nursery, tmp_path):
    options = [
        "task=area", "model=linear_cde", "task.n_paths=400", "task.length=10", "model.d_model=16",
        "seeds=[0,1,2]", "logger=local",
    ]  # fmt: skip
    assert nursery.run([*options, f"hydra.run.dir={tmp_path / 'whole'}"]) == 0, nursery.printed()
    cut = [*options, f"hydra.run.dir={tmp_path / 'cut'}"]
    assert nursery.run(cut, kill_at_move(2, after=True)) == -signal.SIGKILL
    assert nursery.run(cut) == 0, nursery.printed()
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
