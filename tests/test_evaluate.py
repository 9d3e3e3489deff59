"""The command that evaluates a trained run: its own numbers again; others, read in pieces."""

import json
import logging
import re
import shutil
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from composing import TINY_A5, TINY_SIGNATURE, TINY_TRAIN, compose_run, keep
from wandb_server import KEY, WandbServer, isolate

from experiments.errors import ConfigError
from experiments.evaluate import Request, command
from experiments.evaluation import evaluate
from experiments.loading import load_run
from experiments.training.pieces import PieceReader, mean_statistics
from tasks.a5_files import write_word_file
from tasks.base import AbstractTask, Split
from tasks.groups import parse_group
from tasks.word_problem import WordProblem

MODELS = ["linear_cde", "diagonal_cde", "s4", "s5", "mamba", "rnn", "transformer"]
every_model = pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=[] if m == "diagonal_cde" else [pytest.mark.slow]) for m in MODELS],
)
S3 = parse_group("S3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    options = ["model=rnn", "model.d_model=4", "model.dropout=0.1", "seeds=[7,2]"]
    keep(compose_run([*TINY_A5, *TINY_TRAIN, *options], path))
    return path


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    path = tmp_path_factory.mktemp("frozen")
    options = ["task=area", *TINY_SIGNATURE[1:], "model=linear_cde", "model.d_model=4"]
    keep(compose_run(options, path))
    return path


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def lines(path):
    return [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["trained", "frozen"])
def test_its_own_validation_split_gives_the_numbers_of_its_training(
    name, request, tmp_path, capsys
):
    path = shutil.copytree(request.getfixturevalue(name), tmp_path / "run")
    summary = json.loads((path / "summary.json").read_text())
    assert command([str(path)]) == 0
    printed = capsys.readouterr().out
    written = lines(path)
    for seed, result in summary["seeds"].items():
        found = {x["metric"]: x["value"] for x in written if x["seed"] == int(seed)}
        assert found.keys() == result["final"].keys()
        for metric, value in result["final"].items():
            np.testing.assert_allclose(found[metric], value, rtol=1e-5, err_msg=metric)
        assert f"{result['final'][summary['metric']]:.4g}" in printed
    for baseline, value in summary["baselines"].items():
        assert baseline.startswith("loss") or f"{value:.4g}" in printed
    for line in written:
        assert line["split"] == "val"
        assert (line["on"], line["seen"]) == ({}, 0)
        assert line["step"] == (2 if name == "trained" else 0)
        assert line["seconds"] >= 0


def test_a_list_is_one_evaluation_each_and_the_run_s_own_length_is_its_own_data(copied, capsys):
    assert command([str(copied), "task.length=[4,9]", "samples=30", "seeds=[2]", "piece=4"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"^task +split +seed +sequences +token +last token +sequence", table, re.M)
    assert "chance" in table
    assert re.search(r"^length=4 +val +2 +30 ", table, re.M)
    assert re.search(r"^length=9 +test +2 +30 ", table, re.M)
    written = lines(copied)
    assert {x["seed"] for x in written} == {2}
    on = {"length": 9, "auxiliary_length": None}
    assert [x["on"] for x in written if x["split"] == "test"] == [on] * (4 + 9)
    assert command([str(copied), "split=train", "samples=5"]) == 0
    assert {x["split"] for x in lines(copied)[len(written) :]} == {"train"}
    assert "trained on" not in capsys.readouterr().out.split("\n\n")[1]


def test_sequences_that_were_trained_on_are_counted(trained):
    run = load_run(trained)
    rows = {row.tobytes() for row in run.task.load().train.inputs}
    other = WordProblem("S3", length=4, samples=400, seed=1).load()
    seen = sum(row.tobytes() in rows for row in (*other.train.inputs, *other.validation.inputs))
    assert seen > 0
    outcome = next(evaluate(run, {"seed": 1}))
    assert (outcome.split, outcome.sequences, outcome.seen) == ("test", 400, seen)
    assert next(evaluate(run, {"length": 2})).seen == 36  # the second training stream has them all
    assert next(evaluate(run, {"seed": 1}, split="validation", samples=10)).sequences == 10


def test_a_file_has_its_own_length(copied, tmp_path, capsys):
    inputs = np.random.default_rng(0).integers(6, size=(20, 6), dtype=np.uint8)
    file = tmp_path / "a=b.csv"
    write_word_file(file, 1, inputs, S3.running_products(inputs))
    assert command([str(copied), f"task.path='{file}'"]) == 0
    assert "20" in capsys.readouterr().out
    assert lines(copied)[0]["on"]["length"] == 6
    run = load_run(copied)
    outputs = jax.vmap(run.models[7])(jnp.asarray(inputs, jnp.int32))
    share = np.mean(np.asarray(outputs).argmax(axis=2) == S3.running_products(inputs))
    assert lines(copied)[0]["value"] == pytest.approx(share)


def test_lists_and_lists_of_lists(trained, frozen):
    words, walks = load_run(trained), load_run(frozen)
    request = Request(trained, {"length": [5, 6], "seed": [1, 2], "group": "S3"})
    assert [tuple(e.values()) for e in request.evaluations(words)] == [
        (length, seed, "S3") for length in (5, 6) for seed in (1, 2)
    ]
    assert Request(frozen, {"word": [2, 1]}).evaluations(walks) == [{"word": [2, 1]}]
    both = Request(frozen, {"word": [[2, 1], [1, 1]]}).evaluations(walks)
    assert both == [{"word": [2, 1]}, {"word": [1, 1]}]


WRONG = {
    "no run": (["/nowhere"], 2, "RUN: got '/nowhere'"),
    "no run there": (["."], 1, "config.yaml: missing; expected a run's directory"),
    "an unknown key": (["{}", "task.lenght=4"], 2, "task.lenght: unknown key; .*length"),
    "a key of the model": (["{}", "model.depth=4"], 2, "model.depth: unknown key; .*task.KEY"),
    "another class": (["{}", "task._target_=os.mkdir"], 2, "task._target_: unknown key"),
    "a target below": (["{}", "task.path={{_target_:os.getcwd}}"], 2, "task.path.*trust=os"),
    "no value": (["{}", "task.length"], 2, "task.length: .*expected key=value"),
    "a new key": (["{}", "+task.length=3"], 2, "expected KEY=VALUE"),
    "a sweep": (["{}", "task.length=3,4"], 2, r"KEY=\[VALUE,VALUE\]"),
    "no length": (["{}", "task.length=[]"], 2, r"task.length: got \[\]; expected one value"),
    "a word for a length": (["{}", "task.length=long"], 2, "task.length: got 'long'; expected int"),
    "too short": (["{}", "task.length=1"], 2, "task.length"),
    "another group": (["{}", "task.group=S4"], 2, "task.group: .*vocabulary is 24; expected 6"),
    "a missing file": (["{}", "task.path=none.csv"], 1, "task.path must be .*'none.csv'"),
    "a split": (["{}", "split=test"], 2, "split: got 'test'; expected validation or train"),
    "a seed": (["{}", "seeds=[1]"], 2, r"seeds: got 1; expected some of \[7, 2\]"),
    "no list of seeds": (["{}", "seeds=7"], 2, "seeds: got 7; expected a list"),
    "no piece": (["{}", "piece=0"], 2, "piece: got 0; expected an integer of at least 1"),
    "a share": (["{}", "samples=0.5"], 2, "samples: got 0.5; expected an integer"),
    "trust": (["{}", "trust=a-b"], 2, "trust: got 'a-b'"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_one_line(trained, arguments, code, message, capsys, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert command([argument.format(trained) for argument in arguments]) == code
    printed = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{message}.*\n", printed), printed
    assert not (trained / "evaluations.jsonl").exists()


def test_help_says_what_there_is(capsys):
    assert command(["--help"]) == 0
    assert command([]) == 2
    assert "task.length=[40,80,160]" in capsys.readouterr().out


def means(task, model, split, piece, batch_size):
    return mean_statistics(PieceReader(task, task.statistics, piece, batch_size), model, split)


def model_of(overrides, tmp_path):
    run = compose_run(overrides, tmp_path)
    return run.task, eqx.nn.inference_mode(run.make_model(jr.key(0)))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@every_model
def test_pieces_give_the_metrics_of_the_whole(model, tmp_path):
    """Of pieces that do not divide the length, and batches that do not divide the examples."""
    options = [*TINY_A5, "task.length=11", f"model={model}", "model.d_model=8"]
    task, model = model_of(options, tmp_path)
    split = Split(*(part[:7] for part in task.load().train))
    whole = means(task, model, split, piece=11, batch_size=4)
    assert 0 < np.mean(whole["correct"]) < 1
    assert_same(means(task, model, split, piece=4, batch_size=4), whole)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pieces_give_the_pooled_regression_of_the_whole(pooling, tmp_path):
    options = [*TINY_SIGNATURE, "procedure=train", "model=s5", "model.d_model=8"]
    task, model = model_of([*options, f"model.pooling={pooling}"], tmp_path)
    split = Split(*(part[:5] for part in task.load().train))
    whole = means(task, model, split, piece=8, batch_size=5)
    assert_same(means(task, model, split, piece=3, batch_size=5), whole)


def test_pieces_give_the_frozen_features_of_the_whole(frozen):
    run = load_run(frozen)
    (whole,) = evaluate(run, {"length": 7})
    (pieces,) = evaluate(run, {"length": 7}, piece=3)
    assert pieces.metrics["rmse"] == pytest.approx(whole.metrics["rmse"], rel=1e-3)
    assert pieces.baselines == whole.baselines


@every_model
def test_a_long_sequence_is_read(model, tmp_path):
    """5,120 tokens."""
    options = [*TINY_A5, f"model={model}", "model.d_model=8"]
    _, model = model_of(options, tmp_path)
    task = WordProblem("S3", length=5120, samples=2, train_fraction=0.5)
    found = means(task, model, task.load().train, piece=1024, batch_size=1)
    assert found["correct"].shape == (5120,)
    assert np.isfinite(found["loss"])


@dataclass(frozen=True)
class Masked(AbstractTask):
    """Positions whose target is 0 do not count; statistics are as the base joins them."""

    length: int = 6
    metric = "accuracy"
    maximise = True
    channels = None
    per_position = True
    vocabulary = n_outputs = 3

    def load(self):
        raise NotImplementedError

    loss = metrics = baselines = load

    def count(self, targets):
        return jnp.sum(targets > 0).astype(jnp.float32)

    def statistics(self, outputs, targets):
        mask = targets > 0
        right = (jnp.argmax(outputs, axis=1) == targets) & mask
        return {"right": jnp.sum(right) / jnp.sum(mask), "each": right.astype(jnp.float32)}


def test_positions_that_do_not_count_weigh_nothing_in_any_piece():
    """A piece without any position that counts has the mean 0/0."""
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(4, 6, 3)), rng.integers(3, size=(4, 6))
    targets[0, 2:4] = 0
    targets[:, 0] = 1
    task = Masked()
    one = jax.vmap(task.statistics)
    pieces = [(outputs[:, a : a + 2], targets[:, a : a + 2]) for a in (0, 2, 4)]
    found = task.join(
        [jax.device_get(one(*map(jnp.asarray, piece))) for piece in pieces],
        [np.asarray(jax.vmap(task.count)(jnp.asarray(y))) for _, y in pieces],
    )
    for name, value in one(jnp.asarray(outputs), jnp.asarray(targets)).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


class NoPieces(eqx.Module):
    """A model that reads whole sequences only."""

    pooling: str = "none"

    def __call__(self, x, *, key=None):
        return jax.nn.one_hot(x, 6)

    features = __call__


def test_a_model_that_reads_no_pieces_is_evaluated_whole(trained):
    run = load_run(trained)
    run = type(run)(**vars(run) | {"models": {7: NoPieces()}})
    with pytest.raises(ConfigError, match=r"piece: got 3 for sequences of length 4; .* that"):
        next(evaluate(run, piece=3))
    split = run.task.load().validation
    (outcome,) = evaluate(run, piece=4)
    share = np.mean(split.inputs == split.targets)
    assert outcome.metrics["accuracy"] == pytest.approx(share)


@pytest.fixture
def server(copied, tmp_path, monkeypatch):
    """A user who is logged in, and a run that has a W&B run there."""
    isolate(monkeypatch, tmp_path / "home")
    (copied / "wandb_ids.json").write_text('{"7": "seven", "2": "two"}')
    config = (copied / "config.yaml").read_text()
    assert "_target_: experiments.loggers.WandbLogger" in config
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        import wandb

        wandb.teardown()


def test_wandb_s_summaries_have_it_and_its_histories_stay(server, copied):
    for seed in ("seven", "two"):
        served = server.runs[seed]
        served.info = {"name": seed, "project": "selective-ssm-cde", "config": "{}"}
        served.lines["wandb-history.jsonl"][0] = '{"_step": 0, "val/accuracy": 0.5}'
        served.lines["wandb-summary.json"][0] = '{"val/accuracy": 0.5}'
    assert command([str(copied), "task.length=5", "seeds=[7]", "samples=9"]) == 0
    summary = server.runs["seven"].summary
    (accuracy,) = [x["value"] for x in lines(copied) if x["metric"] == "accuracy"]
    assert summary["evaluation/length=5/test/accuracy"] == pytest.approx(accuracy)
    assert summary["val/accuracy"] == 0.5
    assert not [name for name in summary if "_at_" in name]
    assert not server.runs["seven"].sent
    assert server.runs["two"].summary == {"val/accuracy": 0.5}


def test_without_wandb_s_answer_the_evaluation_is_whole(server, copied, caplog):
    server.refused.add("RunResumeStatus")
    with caplog.at_level(logging.WARNING):
        assert command([str(copied), "task.length=5", "seeds=[7]", "samples=9"]) == 0
    assert "Weights & Biases failed" in caplog.text
    assert lines(copied)
