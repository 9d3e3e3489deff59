"""Loggers: files that survive a crash, a composite that closes all, and progress displays."""

import io
import json
import math
import os
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from experiments.loggers import (
    CompositeLogger,
    LocalLogger,
    MemoryLogger,
    ProgressLogger,
    Record,
    RunInfo,
    read_metrics,
)


def make_run(directory: Path) -> RunInfo:
    config = {"model": {"width": 8, "learning_rate": 3e-05}, "seeds": [0, 1]}
    return RunInfo(directory, config, group="g", name="n", tags=("a", "b"), seeds=(0, 1))


def make_record(step: int, value: float, seed: int = 0, metric: str = "accuracy") -> Record:
    return Record(step, seed, "val", metric, value, seconds=0.5 * step)


def open_local(directory: Path) -> LocalLogger:
    logger = LocalLogger()
    logger.open(make_run(directory))
    return logger


def test_metrics_and_config_are_readable_while_the_run_goes_on(tmp_path):
    logger = open_local(tmp_path / "made" / "here")
    first, second = make_record(1, 0.1), make_record(2, 1 / 3, seed=1)
    logger.log([first])
    assert read_metrics(tmp_path / "made" / "here") == [first]
    logger.log([second])
    assert read_metrics(tmp_path / "made" / "here") == [first, second]
    config = yaml.safe_load((tmp_path / "made" / "here" / "config.yaml").read_text())
    assert config == make_run(tmp_path).config
    logger.close()
    logger.close()


def test_torn_last_line_is_skipped_and_a_resumed_run_writes_after_it(tmp_path):
    logger = open_local(tmp_path)
    first, second = make_record(1, 0.1), make_record(2, 0.2)
    logger.log([first, second])
    logger.close()
    path = tmp_path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - 5)
    assert read_metrics(tmp_path) == [first]

    logger = open_local(tmp_path)
    assert read_metrics(tmp_path) == [first]
    again = make_record(2, 0.25)
    logger.log([again])
    logger.close()
    assert read_metrics(tmp_path) == [first, again]


def test_a_step_that_a_resumed_run_repeats_counts_once(tmp_path):
    logger = open_local(tmp_path)
    logger.log([make_record(1, 0.1), make_record(2, 0.2)])
    logger.log([make_record(1, 0.3), make_record(1, 0.4, seed=1)])
    logger.close()
    expected = [make_record(1, 0.3), make_record(2, 0.2), make_record(1, 0.4, seed=1)]
    assert read_metrics(tmp_path) == expected


def test_a_complete_line_that_is_no_record_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1: not a record"):
        read_metrics(tmp_path)


def test_non_finite_values_are_strict_json_and_read_back(tmp_path):
    logger = open_local(tmp_path)
    values = [math.nan, math.inf, -math.inf]
    logger.log([make_record(step, value) for step, value in enumerate(values)])
    logger.finish({"seeds": {"0": {"loss": math.nan}}})
    logger.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    nan, plus, minus = (record.value for record in read_metrics(tmp_path))
    assert math.isnan(nan)
    assert (plus, minus) == (math.inf, -math.inf)


def test_summary_is_replaced_in_one_move(tmp_path, monkeypatch):
    logger = open_local(tmp_path)
    logger.finish({"seeds": {"0": {"accuracy": 0.5}}})

    def die(*paths: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        logger.finish({"seeds": {"0": {"accuracy": 0.9}}})
    logger.close()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {"seeds": {"0": {"accuracy": 0.5}}}


def test_local_logger_refuses_records_when_it_is_not_open(tmp_path):
    with pytest.raises(RuntimeError, match="before open"):
        LocalLogger().log([make_record(1, 0.1)])


class BrokenLogger(MemoryLogger):
    def close(self) -> None:
        super().close()
        raise OSError("no space left")


def test_composite_forwards_everything_and_closes_all_even_if_one_raises(tmp_path):
    parts = [MemoryLogger(), BrokenLogger(), MemoryLogger()]
    logger = CompositeLogger(parts)
    run, record = make_run(tmp_path), make_record(1, 0.5)
    logger.open(run)
    logger.log([record])
    logger.status(step=1, total_steps=2, steps_per_second=3.0, loss=0.1)
    logger.finish({"seeds": {}})
    with pytest.raises(OSError, match="no space left"):
        logger.close()
    for part in parts:
        assert part.run == run
        assert part.records == [record]
        assert part.statuses[0]["loss"] == 0.1
        assert part.summary == {"seeds": {}}
        assert part.closed


def show_status(logger: ProgressLogger, step: int) -> None:
    logger.status(
        step=step, total_steps=200, steps_per_second=2.0, loss=0.125,
        metric_name="accuracy", metric_value=0.75,
    )  # fmt: skip


def test_progress_without_a_terminal_prints_few_plain_lines(tmp_path, capsys):
    now = 0.0
    logger = ProgressLogger(interval=10.0, clock=lambda: now)
    logger.open(make_run(tmp_path))
    for step in range(1, 25):
        now += 1.0
        show_status(logger, step)
    show_status(logger, 200)
    logger.close()
    logger.close()
    lines = capsys.readouterr().out.splitlines(keepends=True)
    start = "step 1/200 (0%)  loss 0.125  accuracy 0.75  2 steps/s  0:01:40 left\n"
    assert lines[0] == start
    assert [line.split("/")[0] for line in lines] == ["step 1", "step 11", "step 21", "step 200"]
    assert not {"\r", "\x1b"} & set("".join(lines))


def test_each_evaluation_prints_one_line_averaged_over_seeds(tmp_path, capsys):
    logger = ProgressLogger()
    logger.open(make_run(tmp_path))
    records = [make_record(5, value, seed) for seed, value in enumerate((0.25, 0.75))]
    records += [make_record(5, value, seed, "loss") for seed, value in enumerate((1.0, 2.0))]
    records += [make_record(5, 9.0, 0, "other"), Record(5, 0, "train", "accuracy", 9.0, 1.0)]
    logger.log(records)
    logger.log([Record(6, 0, "train", "loss", 1.0, 1.0)])
    logger.close()
    expected = "step 5  val accuracy 0.5  val loss 1.5  mean of 2 seeds\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("width", [80, 120])
def test_progress_on_a_terminal_is_a_bar_with_evaluations_above_it(tmp_path, width):
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"}
    )
    logger = ProgressLogger(console=console)
    logger.open(make_run(tmp_path))
    show_status(logger, 50)
    logger.log([make_record(50, 0.625)])
    logger.close()
    text = console.file.getvalue()
    assert "50/200 (25%)  loss 0.125  accuracy 0.75  2 steps/s  0:01:15 left" in text
    assert "step 50  val accuracy 0.625\n" in text


def test_time_left_is_unknown_before_the_speed_is(tmp_path, capsys):
    logger = ProgressLogger()
    logger.open(make_run(tmp_path))
    logger.status(step=0, total_steps=10, steps_per_second=math.nan)
    logger.close()
    assert "? left" in capsys.readouterr().out
