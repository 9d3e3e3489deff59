"""Weights & Biases: the numbers of the local file, and no way to stop a training run."""

import json
import logging
import math
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from composing import CONFIGS, compose_run
from wandb_server import isolate

from experiments.loggers import (
    CompositeLogger,
    LocalLogger,
    Record,
    RunInfo,
    WandbLogger,
    read_metrics,
)
from experiments.loggers.wandb import PROJECT
from experiments.loggers.wandb_client import read_or_make_ids

SEEDS = (0, 7)


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """A user who has never heard of W&B."""
    isolate(monkeypatch, tmp_path / "home")
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


@pytest.fixture
def run(tmp_path):
    config = {"model": {"width": 8}, "learning_rate": 3e-05}
    return RunInfo(tmp_path / "run", config, "figure", "lcde", ("a5", "test"), SEEDS, "train")


def make_records(step: int, accuracies: tuple[float, float]) -> list[Record]:
    """A training loss and a validation accuracy for each seed."""
    records = []
    for seed, accuracy in zip(SEEDS, accuracies, strict=True):
        records.append(Record(step, seed, "train", "loss", 1 / (step + seed), step / 3))
        records.append(Record(step, seed, "val", "accuracy", accuracy, step / 3))
    return records


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this project's loggers warned of; wandb's own log is none of our business."""
    records = [record for record in caplog.records if record.name.startswith("experiments")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def read_offline(directory: Path, seed: int) -> list[dict]:
    """The records of one seed's newest offline run, by wandb's own reader."""
    run_id = json.loads((directory / "wandb_ids.json").read_text())[str(seed)]
    path = sorted(directory.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))[-1]
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def history_of(lines: list[dict]) -> list[dict]:
    items = [line["history"]["item"] for line in lines if line["type"] == "history"]
    return [{key: value for key, value in item.items() if key[0] != "_"} for item in items]


def summary_of(lines: list[dict]) -> dict:
    summary = {}
    for line in lines:
        if line["type"] == "summary":
            summary |= line["summary"]["update"]
    return summary


def test_offline_runs_hold_the_numbers_of_the_local_file(run, capfd):
    logger = CompositeLogger([LocalLogger(), WandbLogger("project", mode="offline")])
    logger.open(run)
    for step, accuracies in enumerate([(0.1, 0.4), (0.3, math.nan), (0.2, 0.5)], start=1):
        logger.log(make_records(step, accuracies))
    seeds = {"0": {"best": {"accuracy": 0.3}}, "7": {"best": {"accuracy": 0.5}}}
    logger.finish({"seeds": seeds, "device": "cpu"})
    logger.close()
    assert capfd.readouterr() == ("", "")

    records = read_metrics(run.directory)
    for seed, best in zip(SEEDS, (0.3, 0.5), strict=True):
        lines = read_offline(run.directory, seed)
        (info,) = (line["run"] for line in lines if line["type"] == "run")
        config = {key: value for key, value in info["config"]["update"].items() if key != "_wandb"}
        assert config == {**run.config, "seed": seed}
        assert (info["project"], info["run_group"]) == ("project", "figure")
        assert (info["display_name"], info["job_type"]) == (f"lcde-seed{seed}", "train")
        assert info["tags"] == ["a5", "test"]
        rows = {}
        for record in (record for record in records if record.seed == seed):
            row = rows.setdefault(record.step, {"step": record.step, "seconds": record.seconds})
            value = "NaN" if math.isnan(record.value) else record.value
            row[f"{record.split}/{record.metric}"] = value
        assert history_of(lines) == list(rows.values())
        summary = summary_of(lines)
        assert summary["val/accuracy"] == rows[3]["val/accuracy"]
        assert summary["val/accuracy_best"] == best
        assert (summary["device"], summary["best/accuracy"]) == ("cpu", best)
        assert lines[-1]["type"] == "exit"
        assert lines[-1]["exit"]["exit_code"] == 0


def test_the_newest_file_of_a_continued_run_has_all_its_rows_and_its_best(run):
    for step, accuracies in enumerate([(0.9, 0.1), (0.5, 0.2)], start=1):
        if step == 2:
            time.sleep(1.0)  # wandb names a folder by the second
        logger = CompositeLogger([LocalLogger(), WandbLogger("project", mode="offline")])
        logger.open(run)
        logger.log(make_records(step, accuracies))
        logger.close()
        ids = (run.directory / "wandb_ids.json").read_text()
    for seed, run_id in json.loads(ids).items():
        assert len(list(run.directory.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))) == 2, seed
    lines = read_offline(run.directory, SEEDS[0])
    assert [row["val/accuracy"] for row in history_of(lines)] == [0.9, 0.5]
    assert [row["step"] for row in history_of(lines)] == [1, 2]
    summary = summary_of(lines)
    assert (summary["val/accuracy"], summary["val/accuracy_best"]) == (0.5, 0.9)


def test_a_record_that_comes_again_is_no_further_row(run):
    logger = WandbLogger("project", mode="offline")
    logger.open(run)
    for step in (1, 2, 1, 2, 3):
        logger.log(make_records(step, (step / 4, step / 8)))
    logger.close()
    rows = history_of(read_offline(run.directory, SEEDS[1]))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["val/accuracy"] for row in rows] == [1 / 8, 2 / 8, 3 / 8]


def test_an_offline_run_has_its_record_as_an_artifact(run):
    logger = CompositeLogger([LocalLogger(), WandbLogger("project", mode="offline")])
    logger.open(run)
    logger.log(make_records(1, (0.9, 0.1)))
    logger.finish({"seeds": {}})
    logger.close()
    lines = read_offline(run.directory, SEEDS[0])
    (artifact,) = (line["artifact"] for line in lines if line["type"] == "artifact")
    assert (artifact["name"], artifact["type"]) == ("lcde-seed0", "run-record")
    paths = [Path(item["local_path"]) for item in artifact["manifest"]["contents"]]
    assert sorted(paths) == [
        run.directory / name for name in ("config.yaml", "metrics.png", "summary.json")
    ]
    assert all(path.is_file() for path in paths)


def test_a_figure_that_fails_is_one_warning(run, monkeypatch, caplog):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no paint")

    monkeypatch.setattr("experiments.loggers.wandb.draw", fail)
    logger = CompositeLogger([LocalLogger(), WandbLogger("project", mode="offline")])
    logger.open(run)
    logger.log(make_records(1, (0.9, 0.1)))
    logger.finish({"seeds": {}})
    logger.close()
    (warning,) = warnings_of(caplog)
    assert "no paint" in warning
    lines = read_offline(run.directory, SEEDS[0])
    assert lines[-1]["exit"]["exit_code"] == 0


def test_auto_without_credentials_is_off_and_imports_nothing(run, monkeypatch, caplog):
    def refuse(*arguments: object) -> None:
        raise AssertionError("a network call")

    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    logger = WandbLogger("project")
    logger.open(run)
    assert logger.mode == "disabled"
    logger.log(make_records(1, (0.1, 0.2)))
    logger.finish({"seeds": {}})
    logger.close()
    assert not run.directory.exists()
    assert not warnings_of(caplog)
    monkeypatch.delitem(sys.modules, "wandb")


def test_auto_with_a_login_elsewhere_is_off_without_a_prompt(run, tmp_path, capfd, caplog):
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine example.org login someone password something\n")
    netrc.chmod(0o600)
    logger = WandbLogger("project")
    logger.open(run)
    assert logger.mode == "disabled"
    logger.close()
    assert not warnings_of(caplog)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("variable", "mode"), [("offline", "offline"), ("disabled", "disabled")])
def test_auto_follows_the_environment(run, monkeypatch, variable, mode):
    monkeypatch.setenv("WANDB_MODE", variable)
    logger = WandbLogger("project")
    logger.open(run)
    assert logger.mode == mode
    logger.close()


def test_online_without_a_login_goes_offline_without_a_prompt(run, caplog):
    logger = WandbLogger("project", mode="online")
    logger.open(run)
    assert logger.mode == "offline"
    logger.close()
    assert len(warnings_of(caplog)) == 1


def test_an_unreachable_server_costs_one_warning_and_shows_no_key(run, monkeypatch, caplog, capfd):
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("experiments.loggers.wandb_client.INIT_SECONDS", 1.0)
    logger = WandbLogger("project")
    logger.open(run)
    assert logger.mode == "offline"
    logger.log(make_records(1, (0.1, 0.2)))
    logger.close()
    (warning,) = warnings_of(caplog)
    assert "CommError" in warning
    assert "it is now offline" in warning
    lines = read_offline(run.directory, SEEDS[1])
    assert history_of(lines)[0]["val/accuracy"] == 0.2
    assert key not in caplog.text + "".join(capfd.readouterr())
    assert not [
        path
        for path in run.directory.rglob("*")
        if path.is_file() and key.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("place", "key", "mode"),
    [
        ("variable", "too-few-to-be-one", "auto"),
        ("variable", "kept:secret!" * 4, "online"),
        ("netrc", "kept:secret!" * 4, "auto"),
    ],
)
def test_a_malformed_key_costs_one_warning_and_no_record(
    run, tmp_path, monkeypatch, caplog, capfd, place, key, mode
):
    if place == "variable":
        monkeypatch.setenv("WANDB_API_KEY", key)
    else:
        netrc = tmp_path / "home" / ".netrc"
        netrc.write_text(f"machine api.wandb.ai login user password {key}\n")
        netrc.chmod(0o600)
    logger = WandbLogger(mode=mode)
    logger.open(run)
    assert logger.mode == "offline"
    logger.log(make_records(1, (0.1, 0.2)))
    logger.close()
    (warning,) = warnings_of(caplog)
    assert "WANDB_API_KEY or netrc; expected 40 or more" in warning
    assert "logging offline" in warning
    assert history_of(read_offline(run.directory, SEEDS[1]))[0]["val/accuracy"] == 0.2
    assert key not in caplog.text + "".join(capfd.readouterr())
    files = [path for path in run.directory.rglob("*") if path.is_file()]
    assert not [path for path in files if key.encode() in path.read_bytes()]


def test_blanks_around_a_key_are_no_part_of_it(run, monkeypatch, caplog):
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_API_KEY", f" {key}\n")
    monkeypatch.setattr("experiments.loggers.wandb.WandbLogger._send", lambda self: None)
    for mode, found in (("offline", "offline"), ("auto", "online")):
        logger = WandbLogger(mode=mode)
        logger.open(run)
        assert logger.mode == found
        logger.close()
    assert not warnings_of(caplog)
    monkeypatch.setenv("WANDB_API_KEY", " ")
    logger = WandbLogger()
    logger.open(run)
    assert logger.mode == "disabled"


@pytest.mark.parametrize(
    ("typed", "variable", "project"),
    [
        (None, None, PROJECT),
        (None, "", PROJECT),
        (None, "theirs", "theirs"),
        ("ours", "theirs", "ours"),
    ],
)
def test_the_project_is_the_one_typed_or_of_the_environment(
    run, tmp_path, monkeypatch, typed, variable, project
):
    import wandb

    asked = []

    def init(**arguments: object) -> None:
        asked.append(arguments["project"])
        raise wandb.errors.CommError("nothing works today")

    monkeypatch.setattr(wandb, "init", init)
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    overrides = [f"logger.loggers.wandb.project={typed}"] if typed else []
    composed = compose_run([*overrides, "logger.loggers.wandb.mode=offline"], tmp_path)
    (logger,) = (each for each in composed.logger.loggers if isinstance(each, WandbLogger))
    logger.open(run)
    assert asked == [project]


DAMAGED_IDS = {
    "empty": b"",
    "cut": b'{"0": "abc", "7": "de',
    "no text": b"\xff\xfe",
    "a list": b'["abc", "def"]',
    "a number": b'{"0": 3, "7": "abc"}',
    "a path": b'{"0": "../abc", "7": "def"}',
    "nothing": b'{"0": "", "7": "def"}',
    "the same": b'{"0": "abc", "7": "abc"}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("contents", DAMAGED_IDS.values(), ids=DAMAGED_IDS)
def test_damaged_ids_are_made_anew_with_one_warning(run, caplog, contents):
    run.directory.mkdir()
    path = run.directory / "wandb_ids.json"
    path.write_bytes(contents)
    ids = read_or_make_ids(run.directory, SEEDS)
    assert list(ids) == ["0", "7"]
    assert len({*ids.values(), "abc", "def"}) == 4
    assert json.loads(path.read_text()) == ids
    assert read_or_make_ids(run.directory, SEEDS) == ids
    (warning,) = warnings_of(caplog)
    assert f"{path} is damaged (" in warning
    assert "\n" not in warning


def test_ids_that_are_whole_are_kept_and_missing_ones_made(run, caplog):
    run.directory.mkdir()
    (run.directory / "wandb_ids.json").write_text('{"7": "abc", "9": "def"}')
    ids = read_or_make_ids(run.directory, SEEDS)
    assert (ids["7"], ids["9"], len(ids)) == ("abc", "def", 3)
    assert not warnings_of(caplog)


def test_a_run_with_damaged_ids_is_recorded(run, caplog):
    run.directory.mkdir()
    (run.directory / "wandb_ids.json").write_text("{")
    logger = WandbLogger(mode="offline")
    logger.open(run)
    logger.log(make_records(1, (0.1, 0.2)))
    assert logger.mode == "offline"
    logger.close()
    assert len(warnings_of(caplog)) == 1
    assert history_of(read_offline(run.directory, SEEDS[0]))[0]["val/accuracy"] == 0.1


def test_when_offline_fails_too_the_run_goes_on_without_it(run, monkeypatch, caplog):
    import wandb

    def fail(**arguments: object) -> None:
        raise wandb.errors.CommError("nothing works today")

    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setattr(wandb, "login", lambda **arguments: True)
    logger = WandbLogger("project", mode="online")
    logger.open(run)
    logger.log(make_records(1, (0.1, 0.2)))
    logger.finish({"seeds": {}})
    logger.close()
    (warning,) = warnings_of(caplog)
    assert "nothing works today): it is now disabled" in warning


def test_a_failing_log_call_is_repeated_in_the_next_mode(run, monkeypatch, caplog):
    import wandb

    class Broken:
        finished = 0
        summary: dict = {}  # noqa: RUF012

        def log(self, row: dict) -> None:
            raise wandb.errors.CommError("lost")

        def finish(self, exit_code: int) -> None:
            Broken.finished += 1
            raise wandb.errors.CommError("lost again")

    logger = WandbLogger("project", mode="offline")
    logger.open(run)
    logger.mode = "online"
    logger._finish_runs(1)
    logger._runs = {seed: Broken() for seed in SEEDS}
    logger.log(make_records(1, (0.1, 0.2)))
    assert logger.mode == "offline"
    assert Broken.finished == len(SEEDS)
    assert set(logger._runs) == set(SEEDS)
    logger.close()
    assert len(warnings_of(caplog)) == 1


def test_unknown_modes_are_refused_when_typed_and_survived_when_inherited(run, monkeypatch, caplog):
    with pytest.raises(ValueError, match="got 'loud'"):
        WandbLogger("project", mode="loud")
    monkeypatch.setenv("WANDB_MODE", "loud")
    logger = WandbLogger("project")
    logger.open(run)
    assert logger.mode == "disabled"
    logger.close()
    assert "WANDB_MODE" in caplog.text


def test_the_ready_sweep_gives_commands_that_compose(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((CONFIGS / "wandb" / "sweep.yaml").read_text())
    assert (CONFIGS.parent / sweep["program"]).is_file()
    for pick in (0, -1):
        parameters = {name: each["values"][pick] for name, each in sweep["parameters"].items()}
        values = {name: {"value": value} for name, value in parameters.items()}
        filled = create_sweep_command_args({"args": values})
        command = create_sweep_command(list(sweep["command"]))
        assert command[:3] == ["${env}", "python", "${program}"]
        arguments = [
            argument
            for part in command[3:]
            for argument in (filled["args_no_hyphens"] if part == "${args_no_hyphens}" else [part])
        ]
        composed = compose_run(arguments, tmp_path)
        assert composed.info.config["task"]["length"] == parameters["task.length"]
        assert composed.info.config["model"]["depth"] == parameters["model.depth"]
        assert composed.seeds == (0, 1, 2, 3, 4)
        assert sweep["metric"]["name"] == f"val/{composed.task.metric}"
        assert sweep["project"] == PROJECT
