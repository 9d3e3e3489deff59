"""Sweeps on a real Slurm: whatever is done to a job, each cell ends as if nothing had been.

They start a cluster of one node, which needs root and Debian's Slurm, so only `make test-slurm`
runs them; SLURM_TESTS=1 is what it sets.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.loggers import AbstractLogger

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif("SLURM_TESTS" not in os.environ, reason="only `make test-slurm` runs it"),
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"),
        reason="needs root, and slurmctld: see scripts/slurm_cluster.py",
    ),
]

CELL = [
    *("task=word_problem", "task.group=S3", "task.length=4", "task.samples=1296"),
    *("model=rnn", "model.dropout=0.1", "train.steps=1500", "train.evaluate_every=100"),
    *("train.batch_size=16", "train.auxiliary_batch_size=8", "train.evaluate_batch_size=130"),
    *("train.stop_at=null", "train.checkpoint_seconds=1", "logger=local"),
]
SWEEP = [*CELL, "model.d_model=16,24,32"]
MIDDLE = 200
"""Steps after which a cell is disturbed."""


class Slow(AbstractLogger):
    """Makes a cell last, so that it can be hit in the middle however fast the machine is."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def open(self, run):
        pass

    def log(self, records):
        time.sleep(self.seconds)

    def finish(self, summary):
        pass

    def close(self):
        pass


def slow(seconds):
    """An override that makes each evaluation last; it changes no number and no directory."""
    return f"+logger.loggers.slow={{_target_:test_slurm.Slow,seconds:{seconds}}}"


class Sweep:
    """The command of a sweep, running beside the test."""

    def __init__(self, directory, environment, *overrides):
        self.directory, self.environment = directory, environment
        self.output = directory.with_suffix(".log")
        command = [
            sys.executable,
            str(ROOT / "experiments/run.py"),
            "-m",
            "trust=test_slurm",
            *overrides,
        ]
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [*command, f"hydra.sweep.dir={directory}"],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def finish(self):
        """Waits for it; returns what it printed."""
        try:
            code = self.process.wait(300)
        finally:
            self.process.kill()
        assert code == 0, f"{self.output.read_text()}\n{self.logs()}"
        return self.output.read_text()

    def logs(self):
        """What the jobs printed."""
        files = sorted(self.directory.glob(".submitit/*/*.out"))
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in files)

    def cells(self):
        """The directories of the cells, by name."""
        return {path.parent.name: path.parent for path in self.directory.glob("*/config.yaml")}

    def past(self, step, cells):
        """Whether so many cells have come so far."""
        assert self.process.poll() is None, f"{self.output.read_text()}\n{self.logs()}"
        steps = [max([r[0] for r in numbers(c)], default=0) for c in self.cells().values()]
        return sum(s >= step for s in steps) == cells

    def call(self, *command):
        """A Slurm command."""
        return subprocess.check_output(command, env=self.environment, text=True)

    def jobs(self):
        """How often each job of the sweep was requeued, by its id."""
        restarts = {}
        for line in self.call("scontrol", "--oneliner", "show", "jobs").splitlines():
            job = dict(re.findall(r"(\w+)=(\S+)", line))
            if str(self.directory) in line:
                array = f"{job.get('ArrayJobId')}_{job.get('ArrayTaskId')}"
                name = array if "ArrayJobId" in job else job["JobId"]
                restarts[name] = int(job["Restarts"])
        return restarts


def numbers(directory):
    """Everything in a cell's record but the seconds, in order."""
    path = directory / "metrics.jsonl"  # a job that has just begun has a directory alone
    text = path.read_text() if path.exists() else ""
    records = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [(r["step"], r["seed"], r["split"], r["metric"], r["value"]) for r in records]


def seeds(directory):
    """The outcome of a finished cell."""
    return json.loads((directory / "summary.json").read_text())["seeds"]


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "not within 120 s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def plain():
    """The environment of a sweep without Slurm."""
    paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module")
def slurm(plain, tmp_path_factory):
    """The environment of a sweep on a cluster that has a CPU for each cell, and none to spare."""
    directory = tmp_path_factory.mktemp("slurm")
    script = [sys.executable, str(ROOT / "scripts/slurm_cluster.py")]
    start = subprocess.check_output([*script, "start", directory, "--cpus", "3"], text=True)
    try:
        shell = ["bash", "-c", f"{start}\nenv --null"]
        text = subprocess.check_output(shell, env=plain, text=True)
        yield dict(line.split("=", 1) for line in text.split("\0") if line)
    finally:
        subprocess.run([*script, "stop", directory], check=True)


@pytest.fixture(scope="module")
def reference(plain, tmp_path_factory):
    """The same cells, undisturbed and without Slurm."""
    directory = tmp_path_factory.mktemp("reference") / "sweep"
    sweep = Sweep(directory, plain, *SWEEP, "hydra/launcher=local_parallel")
    sweep.finish()
    return sweep


@pytest.fixture(scope="module")
def preempted(slurm, tmp_path_factory):
    """A sweep of which each job was stopped in the middle, each in another way."""
    directory = tmp_path_factory.mktemp("preempted") / "sweep"
    options = ["hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1"]
    sweep = Sweep(directory, slurm, *SWEEP, *options, slow(1))
    wait_for(lambda: sweep.past(MIDDLE, cells=3))
    # A job of higher priority takes the place of one of them.
    sweep.call("sbatch", "--partition=high", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: sum(sweep.jobs().values()) == 1)
    others = [job for job, restarts in sweep.jobs().items() if restarts == 0]
    sweep.call("scontrol", "requeue", others[0])
    sweep.call("scancel", "--signal=USR2", others[1])
    sweep.printed = sweep.finish()
    return sweep


def check_cells(sweep, reference):
    """Every cell finished, once, with the numbers of the reference."""
    for name, directory in sweep.cells().items():
        assert numbers(directory) == numbers(reference.cells()[name])
        assert len(set(numbers(directory))) == len(numbers(directory)) > 0
        assert seeds(directory) == seeds(reference.cells()[name])


def test_preempted_jobs_go_on_to_the_same_numbers(preempted, reference):
    assert set(preempted.cells()) == set(reference.cells())
    assert len(preempted.cells()) == 3
    check_cells(preempted, reference)
    assert list(preempted.jobs().values()) == [1, 1, 1]
    assert preempted.logs().count("Resumes from checkpoint-") == 3
    assert "3 of 3 finished" in preempted.printed


def test_a_finished_sweep_given_again_does_nothing(preempted, slurm):
    files = [*preempted.directory.glob("*/metrics.jsonl"), *preempted.directory.glob("*/*.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    options = ["hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1"]
    printed = Sweep(preempted.directory, slurm, *SWEEP, *options).finish()
    assert "3 finished before" in printed
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_job_goes_on_past_its_time_limit(slurm, reference, tmp_path):
    """A job of over a minute, on one of the GPUs. Slurm looks at the clock every 30 s, so that the
    signal comes 25 to 55 s after the job's start."""
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5"]
    options = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", *limit, slow(4)]
    sweep = Sweep(tmp_path / "sweep", slurm, *CELL, "model.d_model=24", *options)
    sweep.finish()
    assert len(sweep.cells()) == 1
    check_cells(sweep, reference)
    ((job, restarts),) = sweep.jobs().items()
    assert restarts >= 1
    assert "this job is timed-out" in sweep.logs()
    assert "TresPerNode=gres:gpu:1" in sweep.call("scontrol", "show", "job", job)
