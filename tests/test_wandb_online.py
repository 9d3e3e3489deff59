"""The real W&B client against a stand-in for its server: every row arrives, and arrives once."""

import base64
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from composing import CONFIGS, TINY_A5, TINY_TRAIN
from wandb_server import KEY, ServedRun, WandbServer, isolate

from experiments.loggers import (
    CompositeLogger,
    LocalLogger,
    Record,
    RunInfo,
    WandbLogger,
    read_metrics,
)

SEEDS = (0, 7)
SECRET = "correct-horse-battery-staple"


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[WandbServer]:
    """A server, and a user who is logged in there; in the end nothing has told their secrets."""
    isolate(monkeypatch, tmp_path / "home")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("PASSWORD_OF_SOMETHING_ELSE", SECRET)
        yield server
        tear_down()
        check_secrets(server, tmp_path)


@pytest.fixture
def run(tmp_path) -> RunInfo:
    return make_run(tmp_path / "run")


def make_run(directory: Path) -> RunInfo:
    config = {"model": {"width": 8}, "learning_rate": 3e-05}
    return RunInfo(directory, config, "cell", "mamba-a5-length3", ("a5", "test"), SEEDS, "train")


def evaluate(evaluation: int) -> list[Record]:
    """What a run logs at one evaluation: the same whenever it is computed."""
    step, records = 10 * evaluation, []
    for seed in SEEDS:
        value = math.nan if (evaluation, seed) == (2, 7) else math.sin(evaluation + seed)
        records.append(Record(step, seed, "train", "loss", 1 / (step + seed + 1), step / 3))
        records.append(Record(step, seed, "val", "accuracy", value, step / 3))
    return records


class TimedLogger(WandbLogger):
    """Knows how many seconds its `log` took."""

    seconds = 0.0

    def log(self, records: Sequence[Record]) -> None:
        start = time.monotonic()
        super().log(records)
        self.seconds += time.monotonic() - start


def open_logger(run: RunInfo, mode: str = "online") -> CompositeLogger:
    logger = CompositeLogger([LocalLogger(), TimedLogger("project", mode=mode)])
    logger.open(run)
    return logger


def play(logger: CompositeLogger, evaluations: Iterable[int], pause: float = 0.0) -> None:
    for evaluation in evaluations:
        logger.log(evaluate(evaluation))
        time.sleep(pause)


def finish(logger: CompositeLogger) -> None:
    logger.finish({"seeds": {"0": {"best_step": 20}, "7": {"best_step": 10}}, "device": "cpu"})
    logger.close()


def tear_down() -> None:
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


def cut(directory: Path, evaluations: int) -> None:
    """Leaves the metrics of the first evaluations, as a run that goes on from a checkpoint does."""
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = evaluations * len(evaluate(0))
    assert len(lines) >= kept
    (directory / "metrics.jsonl").write_text("".join(lines[:kept]))


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def read_ids(directory: Path) -> dict[int, str]:
    ids = json.loads((directory / "wandb_ids.json").read_text())
    return {int(seed): run_id for seed, run_id in ids.items()}


def expected_rows(directory: Path, seed: int) -> list[dict]:
    """The rows of a seed by `metrics.jsonl`, as JSON has them."""
    rows: dict[int, dict] = {}
    for record in (record for record in read_metrics(directory) if record.seed == seed):
        row = rows.setdefault(record.step, {"step": record.step, "seconds": record.seconds})
        value = "NaN" if math.isnan(record.value) else record.value
        row[f"{record.split}/{record.metric}"] = value
    return list(rows.values())


def without_internals(rows: Iterable[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in rows]


def check_rows(server: WandbServer, directory: Path, evaluations: int) -> None:
    """The server has each seed's run only, and each row of `metrics.jsonl` exactly once."""
    ids = read_ids(directory)
    assert set(server.runs) == set(ids.values())
    for seed, run_id in ids.items():
        rows = expected_rows(directory, seed)
        assert len(rows) == evaluations
        assert without_internals(server.runs[run_id].rows) == rows


def check_sent_once(served: ServedRun) -> None:
    """Nothing came a second time, or in the place of something else."""
    assert [line for line, _ in served.sent] == list(range(len(served.sent)))
    assert [row["_step"] for _, row in served.sent] == list(range(len(served.sent)))


def check_secrets(server: WandbServer, *directories: Path) -> None:
    """The key is in the Authorization header only, and a variable of the environment nowhere."""
    authorization = base64.b64encode(f"api:{KEY}".encode())
    assert server.keys <= {"", f"Basic {authorization.decode()}"}
    files = [path for top in directories for path in top.rglob("*") if path.is_file()]
    for secret in (KEY.encode(), authorization, SECRET.encode(), b"PASSWORD_OF_SOMETHING_ELSE"):
        assert not [text[:200] for text in server.received if secret in text]
        assert not [path for path in files if secret in path.read_bytes()]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name.startswith("experiments")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_everything_arrives_once_and_is_called_what_it_should_be(server, run, caplog):
    logger = open_logger(run)
    play(logger, range(5))
    finish(logger)
    check_rows(server, run.directory, evaluations=5)
    for seed, run_id in read_ids(run.directory).items():
        served = server.runs[run_id]
        check_sent_once(served)
        assert served.exit_code == 0
        assert served.info["groupName"] == "cell"
        assert served.info["displayName"] == f"mamba-a5-length3-seed{seed}"
        assert (served.info["project"], served.info["jobType"]) == ("project", "train")
        assert served.info["tags"] == ["a5", "test"]
        assert served.config == {**run.config, "seed": seed}
        values = [record.value for i in range(5) for record in evaluate(i)[1::2]]
        values = values[SEEDS.index(seed) :: 2]
        assert served.summary["val/accuracy"] == values[-1]
        assert served.summary["val/accuracy_best"] == max(filter(math.isfinite, values))
        assert (served.summary["step"], served.summary["device"]) == (40, "cpu")
        assert served.summary["best_step"] == {0: 20, 7: 10}[seed]
        artifact = server.artifacts[f"mamba-a5-length3-seed{seed}"]
        assert artifact.committed
        assert (artifact.info["artifactTypeName"], artifact.info["runName"]) == (
            "run-record",
            run_id,
        )
        for name in ("config.yaml", "summary.json", "metrics.png"):
            assert artifact.files[name] == (run.directory / name).read_bytes()
        assert artifact.files["metrics.png"].startswith(b"\x89PNG")
    assert not warnings_of(caplog)
    # Where `server` looks for secrets in the end, there is something to look at.
    assert len(server.keys) == 2  # the key was used; telemetry has none
    sent = b"".join(server.received)
    assert b"wandb-metadata.json" in sent
    assert b"config.yaml" in sent
    assert list(run.directory.rglob("debug-internal.log"))


@pytest.mark.parametrize(
    ("uploaded", "logged", "kept"), [(5, 8, 8), pytest.param(8, 8, 3, marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_and_has_every_row_once(
    server, run, monkeypatch, uploaded, logged, kept
):
    """W&B lacks what was not uploaded, or has what the run did after its last checkpoint."""
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "3")
    directory = run.directory.parent
    command = [sys.executable, __file__, str(directory), str(uploaded), str(logged)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for(lambda: len(server.runs) == len(SEEDS))
        wait_for(lambda: all(len(served.rows) == uploaded for served in server.runs.values()))
        (directory / "go on").touch()
        wait_for((directory / "done").exists)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    ids = read_ids(run.directory)
    assert [len(served.rows) for served in server.runs.values()] == [uploaded] * len(SEEDS)
    cut(run.directory, kept)

    logger = open_logger(run)
    play(logger, range(kept, 12))
    finish(logger)
    assert read_ids(run.directory) == ids
    check_rows(server, run.directory, evaluations=12)
    for seed, run_id in ids.items():
        check_sent_once(server.runs[run_id])
        assert server.runs[run_id].exit_code == 0
        best = max(r.value for i in range(12) for r in evaluate(i)[1::2] if r.seed == seed)
        assert server.runs[run_id].summary["val/accuracy_best"] == best


def test_an_interrupted_run_says_so_and_goes_on(server, run):
    logger = open_logger(run)
    play(logger, range(3))
    logger.interrupt()
    logger.close()
    assert sum(b'"preempting":true' in text for text in server.received) == len(SEEDS)
    assert {served.exit_code for served in server.runs.values()} == {1}
    logger = open_logger(run)
    play(logger, range(3, 5))
    finish(logger)
    check_rows(server, run.directory, evaluations=5)
    assert {served.exit_code for served in server.runs.values()} == {0}


def measure(
    run: RunInfo, pause: float, outages: Mapping[int, Callable[[], None]]
) -> tuple[float, float]:
    """The seconds of a run of 50 evaluations and, of those, of its logging.

    Outages begin at evaluations.
    """
    logger = open_logger(run)
    start = time.monotonic()
    for evaluation in range(50):
        if evaluation in outages:
            outages[evaluation]()
        play(logger, [evaluation], pause)
    seconds = time.monotonic() - start
    finish(logger)
    tear_down()
    (timed,) = (part for part in logger.loggers if isinstance(part, TimedLogger))
    return seconds, timed.seconds


def check_outage(
    server: WandbServer, directory: Path, pause: float, outages: Mapping[int, Callable[[], None]]
) -> None:
    """Compares a run in outages with one without."""
    _, quiet = measure(make_run(directory / "quiet"), pause, {})
    seconds, logging_seconds = measure(make_run(directory / "run"), pause, outages)
    slower = (logging_seconds - quiet) / seconds
    print(
        f"{seconds:.2f} s with {logging_seconds:.3f} s of logging, {quiet:.3f} s without an outage:"
        f" slower by {100 * slower:.2f} % of the run"
    )
    assert slower < 0.05
    for run_id in read_ids(directory / "quiet").values():
        del server.runs[run_id]
    check_rows(server, directory / "run", evaluations=50)
    assert {served.exit_code for served in server.runs.values()} == {0}


@pytest.mark.slow
def test_outages_do_not_slow_the_run_and_their_rows_come_later(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
    outages = {
        8: lambda: server.fail("hang", 1.5),
        24: lambda: server.fail("503", 1.5),
        39: lambda: server.fail("reset", 2.5),
    }
    check_outage(server, tmp_path, 0.1, outages)
    assert {"hang", "503", "reset"} <= server.met


@pytest.mark.slow
def test_a_server_that_hangs_for_half_a_minute(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
    check_outage(server, tmp_path, 0.7, {5: lambda: server.fail("hang", 30)})
    assert "hang" in server.met


def sync(folders: Iterable[Path]) -> None:
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# wandb's own thread for the network's status outlives a `finish` that has run out of time.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_an_outage_to_the_end_sync_uploads_the_rest(server, run, monkeypatch, caplog):
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.loggers.wandb_client.FINISH_SECONDS", 1.0)
        logger = open_logger(run)
        play(logger, range(4))
        wait_for(lambda: all(len(served.rows) == 4 for served in server.runs.values()))
        server.fail("503", 1000)
        play(logger, range(4, 8))
        finish(logger)
        tear_down()
    (warning,) = warnings_of(caplog)
    assert f"`wandb sync --include-online {run.directory}/wandb/*run-*` uploads" in warning
    assert [len(served.rows) for served in server.runs.values()] == [4, 4]
    assert (run.directory / "summary.json").exists()

    server.fail("503", 0)
    sync(run.directory.glob("wandb/*run-*"))
    check_rows(server, run.directory, evaluations=8)
    (run.directory / "summary.json").unlink()  # and if it goes on all the same
    logger = open_logger(run)
    play(logger, range(8, 10))
    finish(logger)
    check_rows(server, run.directory, evaluations=10)


@pytest.mark.slow
def test_offline_files_give_every_row_once(server, run):
    for evaluations, start in ((range(4), None), (range(2, 6), 2)):
        if start is not None:
            cut(run.directory, start)
            time.sleep(1.0)  # wandb names a folder by the second
        logger = open_logger(run, mode="offline")
        play(logger, evaluations)
        logger.close()
    earlier, newest = [], []
    for run_id in read_ids(run.directory).values():
        first, second = sorted(run.directory.glob(f"wandb/offline-run-*-{run_id}"))
        earlier.append(first)
        newest.append(second)
    for folders in (newest, [*earlier, *newest]):
        server.runs.clear()
        for mark in run.directory.glob("wandb/*/*.synced"):
            mark.unlink()
        sync(folders)
        check_rows(server, run.directory, evaluations=6)


@pytest.mark.slow
def test_a_server_that_is_gone_when_a_run_goes_on(server, run, monkeypatch, caplog):
    """What it had is there, the rest is in an offline file with all rows, and no row is double."""
    monkeypatch.setattr("experiments.loggers.wandb_client.INIT_SECONDS", 1.0)
    logger = open_logger(run)
    play(logger, range(3))
    logger.close()
    tear_down()
    server.fail("reset", 1000)
    logger = open_logger(run)
    play(logger, range(3, 5))
    finish(logger)
    (warning,) = warnings_of(caplog)
    assert "it is now offline" in warning
    server.fail("reset", 0)
    assert [len(served.rows) for served in server.runs.values()] == [3, 3]
    sync(run.directory.glob("wandb/offline-run-*"))
    check_rows(server, run.directory, evaluations=5)


@pytest.mark.parametrize("operation", ["CreateArtifact", "CreateArtifactFiles"])
def test_an_artifact_that_fails_is_one_warning(server, run, caplog, operation):
    server.refused.add(operation)
    logger = open_logger(run)
    play(logger, range(2))
    finish(logger)
    (warning,) = warnings_of(caplog)
    assert f"no {operation} today" in warning
    assert "the run's files are not there" in warning
    check_rows(server, run.directory, evaluations=2)
    assert {served.exit_code for served in server.runs.values()} == {0}


# wandb leaves the file of the parameters to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_a_sweep_the_first_seed_is_the_agents_run(server, run, monkeypatch, tmp_path):
    """The others would get its id as well: they are runs beside the sweep, in the same group."""
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\ntask.length:\n  value: 3\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents1")
    monkeypatch.setenv("WANDB_PROJECT", "sweeps")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    logger = open_logger(run)
    play(logger, range(3))
    finish(logger)
    check_rows(server, run.directory, evaluations=3)
    ids = read_ids(run.directory)
    first, other = server.runs[ids[0]], server.runs[ids[7]]
    assert ids[0] == "agents1"
    assert (first.info["sweep"], first.info["project"]) == ("sweep1", "sweeps")
    assert first.config["task.length"] == 3
    assert "sweep" not in other.info
    assert other.info["project"] == "sweeps"
    assert first.info["groupName"] == other.info["groupName"] == "cell"


@pytest.mark.slow
def test_an_agent_runs_a_cell_of_the_ready_sweep(server, tmp_path, monkeypatch):
    sweep = yaml.safe_load((CONFIGS / "wandb" / "sweep.yaml").read_text())
    fast = [*TINY_A5[1:], *TINY_TRAIN, "model.d_model=4", "model.mixer.d_state=2", "seeds=[0,1]"]
    server.sweep = sweep | {"command": [*sweep["command"], *fast, f"hydra.run.dir={tmp_path}/run"]}
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = [sys.executable, "-m", "wandb", "agent", f"someone/{sweep['project']}/sweep1"]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True, timeout=300)
    assert (tmp_path / "run" / "summary.json").exists(), done.stdout + done.stderr
    ids = read_ids(tmp_path / "run")
    assert ids[0] == "agents1"
    check_rows(server, tmp_path / "run", evaluations=3)
    first, other = server.runs["agents1"], server.runs[ids[1]]
    assert (first.info["sweep"], first.exit_code, other.exit_code) == ("sweep1", 0, 0)
    assert "sweep" not in other.info
    assert first.info["groupName"] == other.info["groupName"]
    assert first.summary[sweep["metric"]["name"]] >= 0
    assert first.config["task.length"] == sweep["parameters"]["task.length"]["values"][0]


def be_killed(directory: Path, before: int, after: int) -> None:
    """Logs some evaluations, and on a sign some more; says so, and waits for its end."""
    logger = open_logger(make_run(directory / "run"))
    play(logger, range(before))
    wait_for((directory / "go on").exists)
    play(logger, range(before, after))
    (directory / "done").touch()
    time.sleep(60)


if __name__ == "__main__":
    be_killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
