"""What is found in a run's directory is held against what is asked for before it is used."""

import json
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from experiments.errors import EnvironmentFault, OtherRun
from experiments.loggers import LocalLogger, Record, RunInfo
from experiments.results.files import CHECKPOINTS, CONFIG, IDS, METRICS, SUMMARY, read_metrics
from experiments.results.migration import VERSION
from experiments.rundir import RunDirectory, read_ids
from experiments.training.train import GradientDescent

DEEP = "[" * 100_000
BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
)
LOOP = "loop: &l {a: *l}\n"


def configuration(steps=20, seeds=(0,), rate=0.1):
    """Of a run whose schedule ends with its steps."""
    return {
        "version": VERSION,
        "task": {"_target_": "tasks.word_problem.WordProblem"},
        "train": {"_target_": "experiments.training.train.GradientDescent", "steps": steps},
        "optimizer": {"learning_rate": {"peak": rate, "decay_steps": steps}},
        "seeds": list(seeds),
        "options": {"task": "a5", "model": "rnn"},
        "logger": {"_target_": "experiments.loggers.LocalLogger"},
    }


def enter(path, config, steps=20):
    return RunDirectory(
        path, config, lambda n: configuration(n), GradientDescent(steps=steps).check_saved
    )


def progress(step):
    result = {
        "final": {"accuracy": 0.5}, "best": 0.5, "best_step": step, "steps": step,
        "steps_to_threshold": None, "failed_at": None, "failed_in": None, "active": True,
    }  # fmt: skip
    return {"step": step, "evaluated": step, "seconds": 1.0, "results": {"0": result}}


def leave(path, *, finished, config=None):
    """A run with checkpoints at steps 10 and 20, and, if it is finished, a summary."""
    config = config or configuration()
    logger = LocalLogger()
    with enter(path, config) as rundir:
        logger.open(RunInfo(path, config, "group", "name", (), (0,)))
        for step in (10, 20):
            logger.log([Record(step, 0, "val", "accuracy", step / 40, 1.0)])
            rundir.save({"w": jnp.full(3, step)}, progress(step), wait=True)
        if finished:
            seeds = {"0": {"final": {"accuracy": 0.5}, "steps": 20, "failed_at": None}}
            summary = {"metric": "accuracy", "seeds": seeds, "baselines": {}, "steps": 20}
            logger.finish(rundir.finish({**summary, "training_seconds": 1.0}))
        logger.close()
    return path


@pytest.fixture
def stopped(tmp_path):
    return leave(tmp_path / "stopped", finished=False)


@pytest.fixture
def finished(tmp_path):
    return leave(tmp_path / "finished", finished=True)


def edit(path, change):
    """Changes a JSON file's data."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def describe(path, change, arrays=lambda arrays: None):
    """Changes what a checkpoint says of itself, or its arrays; it stays a whole file."""
    with np.load(path) as file:
        found = dict(file)
    description = json.loads(found.pop("description").tobytes())
    change(description)
    arrays(found)
    text = json.dumps(description).encode()
    np.savez(path, description=np.frombuffer(text, np.uint8), **found)


def newest(path):
    return sorted((path / CHECKPOINTS).glob("*.npz"))[-1]


def test_it_is_found_again(stopped, finished):
    with enter(stopped, configuration()) as rundir:
        assert (rundir.state, rundir.notes) == ("resumed", [])
        assert rundir.restored.description["procedure"]["step"] == 20
    with enter(finished, configuration()) as rundir:
        assert (rundir.state, rundir.notes) == ("finished", [])


def test_what_does_not_compute_may_differ(finished):
    other = configuration() | {"logger": {}, "options": {}, "published": "figure1/x"}
    with enter(finished, other) as rundir:
        assert rundir.state == "finished"


def test_other_code_is_said(finished, stopped, monkeypatch):
    from experiments import rundir as module

    monkeypatch.setattr(module, "code_version", lambda: "new")
    with enter(finished, configuration()) as rundir:
        (note,) = rundir.notes
        assert rundir.state == "finished"
        assert "summary.json was written by other code" in note
    with enter(stopped, configuration()) as rundir:
        (note,) = rundir.notes
        assert f"{newest(stopped).name} was written by other code" in note


@pytest.mark.parametrize("kept", [True, False], ids=["with config.yaml", "without config.yaml"])
@pytest.mark.parametrize("wrong", [{"rate": 0.2}, {"seeds": (1,)}, {"steps": 10}], ids=str)
@pytest.mark.parametrize("end", ["finished", "stopped"])
def test_another_run_is_refused_and_left_as_it_was(end, wrong, kept, request):
    path = request.getfixturevalue(end)
    if not kept:
        (path / CONFIG).unlink()
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"}
    with pytest.raises(OtherRun, match=r"another (run|configuration)"):
        enter(path, configuration(**wrong), wrong.get("steps", 20)).__enter__()
    now = {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"}
    assert now == before


def test_a_summary_that_was_copied_here_is_refused(finished, stopped, tmp_path):
    other = leave(tmp_path / "other", finished=True, config=configuration(rate=0.2))
    for path in (finished, stopped):
        (path / SUMMARY).write_bytes((other / SUMMARY).read_bytes())
        with pytest.raises(OtherRun, match=r"summary.json: it is of another run than config.yaml"):
            enter(path, configuration()).__enter__()


def test_a_summary_without_any_sign_of_whose_it_is_is_refused(finished):
    """As versions before 3 wrote it; beside its config.yaml it is accepted."""
    edit(finished / SUMMARY, lambda s: [s.pop(k) for k in ("configuration", "code", "identity")])
    with enter(finished, configuration()) as rundir:
        assert rundir.state == "finished"
    (finished / CONFIG).unlink()
    with pytest.raises(OtherRun, match="another run than the one asked for"):
        enter(finished, configuration()).__enter__()


@pytest.mark.parametrize("end", ["finished", "stopped"])
def test_more_steps_extend_it_with_their_schedule(end, request):
    path = request.getfixturevalue(end)
    with enter(path, configuration(40), 40) as rundir:
        assert rundir.state == "resumed"
        (note,) = rundir.notes
        assert note.startswith("Extended from 20 to 40 steps, and with them optimizer.learning_")
        assert "decay_steps: 20, now 40" in note
    assert not (path / SUMMARY).exists()


def test_more_steps_and_something_else_are_another_run(finished):
    other = configuration(40)
    other["optimizer"]["learning_rate"]["peak"] = 0.2
    with pytest.raises(OtherRun, match=r"different are optimizer.learning_rate.peak: 0.1, now 0.2"):
        RunDirectory(finished, other, lambda n: configuration(n, rate=0.2)).__enter__()


def test_a_failed_first_start_is_no_run(tmp_path):
    """What an error left before any checkpoint does not bind the corrected command."""
    logger, wrong = LocalLogger(), configuration(rate=-1.0)
    logger.open(RunInfo(tmp_path, wrong, "group", "name", (), (0,)))
    logger.log([Record(0, 0, "val", "accuracy", 0.1, 1.0)])
    logger.close()
    (tmp_path / "error.txt").write_text("what went wrong")
    with enter(tmp_path, configuration()) as rundir:
        assert rundir.state == "new"
    assert not (tmp_path / METRICS).exists()
    assert not (tmp_path / "error.txt").exists()


DAMAGE = {
    "a value": (lambda text: text.replace("0.25", "0.26"), "line"),
    "a letter": (lambda text: text.replace("accuracy", "accurbcy", 1), "line"),
    "no JSON": (lambda text: "x" + text[1:], "line 1"),
    "a row less": (lambda text: text.split("\n", 1)[1], "shorter"),
    "a row twice": (lambda text: text.split("\n")[0] + "\n" + text, "one of"),
    "another order": (lambda text: "\n".join(text.split("\n")[1::-1]) + "\n", "one of"),
    "no last newline": (lambda text: text[:-1], "shorter"),
    "spaces": (lambda text: text.replace(" ", "\t", 1), "one of"),
    "zeros": (lambda text: "\0" * len(text), "line 1"),
    "nothing": (lambda text: "", "shorter"),
    "nesting": (lambda text: DEEP + text, "line 1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_metrics_are_what_they_were_at_the_checkpoint(damage, stopped):
    change, says = DAMAGE[damage]
    metrics = stopped / METRICS
    metrics.write_text(change(metrics.read_text()))
    with pytest.raises(EnvironmentFault, match=f"metrics.jsonl.*{says}.*restore the file"):
        enter(stopped, configuration()).__enter__()


def test_a_checkpoint_without_a_checksum_is_none_of_this_version(stopped):
    """It could have the metrics cut to nothing."""
    for path in (stopped / CHECKPOINTS).glob("*.npz"):
        describe(path, lambda d: d.update(metrics_bytes=0, metrics_sha256=None))
    with pytest.raises(EnvironmentFault, match="one of 0 lines: it is not what it was"):
        enter(stopped, configuration()).__enter__()


def test_metrics_that_came_after_the_checkpoint_are_cut_off(stopped):
    before = (stopped / METRICS).read_text()
    (stopped / METRICS).write_text(before + '{"step": 21, "torn')
    with enter(stopped, configuration()):
        assert (stopped / METRICS).read_text() == before
    assert [r.step for r in read_metrics(stopped)] == [10, 20]


SAID = {
    "step below zero": lambda d: d["procedure"].update(step=-5),
    "step beyond the last": lambda d: d["procedure"].update(step=21, evaluated=21),
    "step before its evaluation": lambda d: d["procedure"].update(step=5),
    "step as text": lambda d: d["procedure"].update(step="20"),
    "step that is no whole number": lambda d: d["procedure"].update(step=20.5),
    "step true": lambda d: d["procedure"].update(step=True, evaluated=0),
    "no step": lambda d: d["procedure"].pop("step"),
    "seconds below zero": lambda d: d["procedure"].update(seconds=-1.0),
    "no results": lambda d: d["procedure"].pop("results"),
    "results as a list": lambda d: d["procedure"].update(results=[]),
    "a result with another key": lambda d: d["procedure"]["results"]["0"].update(more=1),
    "a result without a key": lambda d: d["procedure"]["results"]["0"].pop("active"),
    "a result that is text": lambda d: d["procedure"]["results"].update({"0": "good"}),
    "a metric that is text": lambda d: d["procedure"]["results"]["0"].update(final={"a": "b"}),
    "no procedure": lambda d: d.pop("procedure"),
    "no configuration": lambda d: d.pop("config"),
    "a configuration of no run": lambda d: d.update(config={"version": 1}),
    "a later version": lambda d: d["config"].update(version=VERSION + 1),
    "no code": lambda d: d.pop("code"),
    "no seed's results": lambda d: d["procedure"].update(results={}),
    "bytes below zero": lambda d: d.update(metrics_bytes=-1),
    "bytes as text": lambda d: d.update(metrics_bytes="many"),
    "bytes beyond counting": lambda d: d.update(metrics_bytes=2**70),
    "ids that are numbers": lambda d: d.update(wandb_ids={"0": 1}),
}


@pytest.mark.parametrize("said", SAID)
def test_a_checkpoint_that_no_run_could_have_written_gives_way_to_the_one_before(said, stopped):
    last = newest(stopped)
    describe(last, SAID[said])
    with enter(stopped, configuration()) as rundir:
        assert rundir.restored.description["procedure"]["step"] == 10
    assert not last.exists()


def test_an_array_that_claims_more_than_there_is_gives_way_too(stopped):
    """A header of 400 GB is no lack of memory."""
    last = newest(stopped)
    with zipfile.ZipFile(last) as file:
        members = {name: file.read(name) for name in file.namelist()}
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': "
    header += b"(100000000000,), }".ljust(117 - 50) + b"\n"
    name = next(n for n in members if "w" in n)
    members[name] = header.ljust(128, b" ") + members[name][128:]
    with zipfile.ZipFile(last, "w") as file:
        for key, content in members.items():
            file.writestr(key, content)
    with enter(stopped, configuration()) as rundir:
        assert rundir.restored.description["procedure"]["step"] == 10


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "3", '"text"', '{"0": 1}', '{"0": null}', "{", DEEP, "\0\0"],
    ids=lambda text: text[:12] or "empty",
)
def test_wandb_ids_that_cannot_be_read_stop_nothing(text, stopped):
    (stopped / IDS).write_text(text)
    assert read_ids(stopped) is None
    with enter(stopped, configuration()) as rundir:
        rundir.save({"w": jnp.zeros(3)}, progress(20), wait=True)


BAD_SUMMARIES = {
    "no metric": lambda s: s.pop("metric"),
    "a metric that is a number": lambda s: s.update(metric=3),
    "no seeds": lambda s: s.pop("seeds"),
    "seeds as a list": lambda s: s.update(seeds=[]),
    "a seed that is null": lambda s: s.update(seeds={"0": None}),
    "no final": lambda s: s["seeds"]["0"].pop("final"),
    "a final without the metric": lambda s: s["seeds"]["0"].update(final={"loss": 1.0}),
    "a metric as text": lambda s: s["seeds"]["0"].update(final={"accuracy": "high"}),
    "steps below zero": lambda s: s["seeds"]["0"].update(steps=-1),
    "a failure as text": lambda s: s["seeds"]["0"].update(failed_at="soon"),
    "no baselines": lambda s: s.pop("baselines"),
    "baselines as text": lambda s: s.update(baselines={"uniform": "low"}),
    "seconds as text": lambda s: s.update(training_seconds="few"),
    "steps as text": lambda s: s.update(steps="20"),
}


@pytest.mark.parametrize("wrong", BAD_SUMMARIES)
def test_a_summary_with_wrong_contents_is_one_error_that_names_them(wrong, finished):
    edit(finished / SUMMARY, BAD_SUMMARIES[wrong])
    with pytest.raises(EnvironmentFault, match=r"summary.json is damaged \(.*expected") as error:
        enter(finished, configuration()).__enter__()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [SUMMARY, CONFIG])
@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", DEEP, "- " * 100_000, "\0", "a: b: c", BOMB, LOOP]
)
def test_a_damaged_file_is_one_error_that_names_it(name, text, finished):
    (finished / name).write_text(text)
    with pytest.raises(EnvironmentFault, match=rf"{name} is damaged \(.*remove the dir") as error:
        enter(finished, configuration()).__enter__()
    assert "\n" not in str(error.value)


LINKS = [".lock", METRICS, SUMMARY, CONFIG, CHECKPOINTS, IDS, ".overrides.yaml.tmp", "metrics.png"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_directory_is_not_followed(name, stopped, tmp_path):
    """A stranger's might have the lock, or the metrics, cut a file of the user's."""
    mine = tmp_path / "mine"
    mine.write_text("of the user")
    if (stopped / name).is_dir():
        (stopped / name).rename(tmp_path / "elsewhere")
        mine = tmp_path / "elsewhere"
    else:
        (stopped / name).unlink(missing_ok=True)
    (stopped / name).symlink_to(mine)
    with pytest.raises(EnvironmentFault, match=f"{name} is a link"):
        enter(stopped, configuration()).__enter__()
    assert mine.is_dir() or mine.read_text() == "of the user"


def test_a_configuration_is_plain_data(finished):
    """A tag that would call something is damage."""
    (finished / CONFIG).write_text("a: !!python/object/apply:os.system ['echo called']\n")
    with pytest.raises(EnvironmentFault, match=r"config\.yaml is damaged"):
        enter(finished, configuration()).__enter__()


def test_the_configuration_is_written_as_it_is_read(finished):
    assert yaml.safe_load(Path(finished / CONFIG).read_text()) == configuration()
