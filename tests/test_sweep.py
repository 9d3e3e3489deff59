"""Where the cells of a sweep are, and which of them there is anything to do for."""

import json
import time
from pathlib import Path

import pytest

from experiments import sweep
from experiments.run import command
from experiments.sweep import Places, SweepReport

LAUNCHER = sweep.Plugins.instance().class_name_to_class[
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
]
SWEEPS = [
    ["task=a5", "model=rnn,mamba", "seeds=[0],[1,2]", "optimizer.learning_rate=0.1,1e-3"],
    [
        "task=a5,area",
        "model=linear_cde,diagonal_cde",
        "task.length=5,6",
        "++model.d_model=5,6",
    ],
    ["+experiment=figure2/mamba,figure2/s4", "task.length=3,4", "model.depth=1,2"],
    ["model=mamba", "model.mixer.variant=core,full", "model.mixer={d_state:4},{d_state:5}"],
    ["optimizer=adam,adamw", "~train.stop_at", "train.steps='${train.batch_size}',7"],
]


def cells_of(monkeypatch, arguments):
    """(job, composed by Hydra, by `Places`) of each cell; nothing is launched."""
    found = []

    def look(self, config, **kwargs):
        loader, places = sweep.GlobalHydra.instance().config_loader(), Places(config)
        for job in sweep._jobs(config):
            cell = loader.load_sweep_config(config, job)
            found.append(
                (job, Path(cell.hydra.sweep.dir, cell.hydra.sweep.subdir), *places.find(job))
            )
        raise SystemExit(0)

    monkeypatch.setattr(SweepReport, "on_multirun_start", look)
    assert command(["-m", "logger=local", *arguments]) == 0
    return found


@pytest.mark.parametrize("arguments", SWEEPS, ids=" ".join)
def test_cells_are_where_hydra_puts_them(arguments, monkeypatch):
    found = cells_of(monkeypatch, arguments)
    assert len(found) > 1
    assert len({where for _, where, _, _ in found}) == len(found)
    for job, where, place, why in found:
        assert (place, why) == (where, ""), job


def test_a_cell_that_cannot_be_is_said_to_be_and_the_others_run(monkeypatch, tmp_path, capsys):
    launched = []
    monkeypatch.setattr(
        LAUNCHER, "launch", lambda self, jobs, initial_job_idx: launched.extend(jobs) or []
    )
    arguments = ["-m", "seeds=[0],[1,x],3", f"hydra.sweep.dir={tmp_path}"]
    assert command(arguments) == 1
    assert [job[0] for job in launched] == ["seeds=[0]"]
    printed = capsys.readouterr()
    assert "3 cells: 1 new; 2 refused" in printed.out
    assert "Value 'x' of type 'str'" in printed.err
    assert "seeds: got 3; expected a list, as in seeds=[3]" in printed.err


def test_finished_cells_are_left_out_unless_they_are_another_run(monkeypatch, tmp_path, capsys):
    """A cell is named after its identity, which its summary has to say as well."""
    from experiments.loggers import LocalLogger, RunInfo
    from experiments.results.identity import configuration_of

    launched = []
    monkeypatch.setattr(
        LAUNCHER, "launch", lambda self, jobs, initial_job_idx: launched.extend(jobs) or []
    )
    arguments = ["-m", "task=a5", "model=rnn", "seeds=[0],[1],[2]", f"hydra.sweep.dir={tmp_path}"]
    found = cells_of_sweep(monkeypatch, arguments)
    for seed, path in enumerate(found):
        logger, config = LocalLogger(), {"seeds": [seed], "train": {"steps": 1}}
        logger.open(RunInfo(path, config, "group", "name", (), (seed,)))
        logger.finish(
            {
                "metric": "accuracy",
                "seeds": {str(seed): {"final": {"accuracy": 0.5}}},
                "baselines": {},
                "training_seconds": 1.0,
                "identity": path.name.rpartition("-")[2] if seed != 1 else "another",
                "configuration": configuration_of(config) if seed != 2 else "another",
            }
        )
        logger.close()
    assert command(arguments) == 1
    assert [job[-1] for job in launched] == ["seeds=[1]", "seeds=[2]"]
    printed = capsys.readouterr().out
    assert "1 finished before, passed over; 2 failed before" in printed
    assert printed.count("holds the results of another run") == 2


def cells_of_sweep(monkeypatch, arguments):
    with monkeypatch.context() as patch:
        return [where for _, where, _, _ in cells_of(patch, arguments[1:])]


@pytest.mark.slow
def test_two_hundred_cells_start_in_seconds(monkeypatch):
    seeds = ",".join(f"[{n}]" for n in range(100))
    took = []
    before = SweepReport.on_multirun_start

    def timed(self, config, **kwargs):
        start = time.monotonic()
        before(self, config, **kwargs)
        took.append(time.monotonic() - start)
        raise SystemExit(0)

    monkeypatch.setattr(SweepReport, "on_multirun_start", timed)
    assert command(["-m", "model=rnn,mamba", f"seeds={seeds}"]) == 1
    assert took[0] < 20, json.dumps(took)  # 5 on idle cores
