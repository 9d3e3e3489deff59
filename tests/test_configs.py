"""Every option and experiment composes, builds and trains; wrong ones: `test_bad_input.py`."""

import dataclasses
import functools
import logging
import re
from pathlib import Path

import jax
import pytest
from composing import CONFIGS, compose_run, execute

from experiments.results.identity import differences
from experiments.results.published import published
from tasks.signature import SignatureTask

MODELS = sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml"))
TASKS = sorted(p.stem for p in (CONFIGS / "task").glob("*.yaml"))
EXPERIMENTS = sorted(
    str(p.relative_to(CONFIGS / "experiment").with_suffix(""))
    for p in (CONFIGS / "experiment").rglob("*.yaml")
)
SMALL = [e for e in EXPERIMENTS if e.startswith("small/")]
PAPERS = [e for e in EXPERIMENTS if e not in SMALL and e != "figure1/diagonal_cde"]
PROGRAMS = ("jit(init)", "jit(advance_some)", "jit(evaluate_some)")
"""Of a run that trains: each is compiled once, as JAX_LOG_COMPILES=1 tells."""

OTHER_TASK = {"figure1/s4": "signature", "figure1/s5": "volume", "figure2/rnn": "word_problem"}
"""Instead of the experiment's own, so that each task is run."""

SMALL_MIXER = {
    "mamba": ["model.mixer.d_state=2"],
    "s4": ["model.mixer.d_state=2"],
    "s5": ["model.mixer.d_state=2"],
    "transformer": ["model.mixer.num_heads=2", "model.mixer.d_feedforward=16"],
}


def test_every_config_file_is_reached():
    assert {"mamba", "linear_cde", "diagonal_cde", "s4", "s5", "rnn", "transformer"} <= set(MODELS)
    assert set(TASKS) >= {"a5", "area", *OTHER_TASK.values()}
    assert {e.rpartition("/")[0] for e in EXPERIMENTS} == {
        "figure1", "figure2", "small/figure1", "small/figure2"
    }  # fmt: skip
    assert set(SMALL) == {f"small/{e}" for e in set(EXPERIMENTS) - set(SMALL)}
    assert len(PAPERS) == 9


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(e, marks=[] if e == "figure2/mamba" else [pytest.mark.slow])
        for e in EXPERIMENTS
    ],
)
def test_every_experiment_learns(experiment, tmp_path, caplog):
    """Those of the small study among the slow tests: `results/small` has them as well."""
    folder, _, model = experiment.rpartition("/")
    figure = folder.removeprefix("small/")
    readout = model.endswith("_cde")
    tiny = (
        ["task.length=8", f"task.n_paths={120 if readout else 400}"]
        if figure == "figure1"
        else ["task.group=S3", "task.length=4", "train.auxiliary_batch_size=3"]
    )
    if experiment in OTHER_TASK:
        tiny.append(f"task={OTHER_TASK[experiment]}")
    options = [
        f"+experiment={experiment}",
        *tiny,
        "model.d_model=8",
        *SMALL_MIXER.get(model, []),
        "optimizer.learning_rate=0.003",
        "train.steps=200",
        "train.evaluate_every=50",
        "seeds=[0]",
    ]
    run = compose_run(options, tmp_path)
    assert run.preset == ("small" if experiment in SMALL else figure)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        logger, summary = execute(run)
    if figure == "figure1" and readout:
        assert summary["seeds"]["0"]["final"]["rmse"] < summary["baselines"]["rmse_zero"]
    else:
        losses = [r.value for r in logger.records if (r.split, r.metric) == ("train", "loss")]
        assert len(losses) == 4
        assert losses[-1] < losses[0]
        compiled = re.findall(r"Finished XLA compilation of (jit\(\w+\))", caplog.text)
        assert {name: compiled.count(name) for name in PROGRAMS} == dict.fromkeys(PROGRAMS, 1)


@pytest.fixture(scope="module")
def load_once():
    """As many examples as a task loads, once for all models that it is given to."""

    @functools.cache
    def load(task):
        short = {"length": 4} if isinstance(task, SignatureTask) else {}
        return dataclasses.replace(task, **short).load()

    return load


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_enough_examples_for_every_model(
    task, model, tmp_path, monkeypatch, load_once
):
    """With the settings that the command has if nothing else is said."""
    run = compose_run([f"task={task}", f"model={model}"], tmp_path)
    data = load_once(run.task)
    monkeypatch.setattr(type(run.task), "load", lambda self: data)
    assert run.procedure.load(run.task, run.make_model) is data  # raises ConfigError


def test_diagonal_features_have_the_dense_ones_protocol(tmp_path):
    dense, diagonal = (
        compose_run([f"+experiment=figure1/{m}"], tmp_path).info.config
        for m in ("linear_cde", "diagonal_cde")
    )
    assert differences(dense, diagonal) == [
        "model.mixer.structure: 'dense', now 'diagonal'"
    ]  # fmt: skip
    assert diagonal["published"] is None


@pytest.mark.parametrize("experiment", SMALL)
def test_small_experiments_differ_in_size_alone(experiment, tmp_path):
    """What a model is stays as in the paper: gates, solver, quirks, what surrounds the mixer."""
    small, paper = (
        compose_run([f"+experiment={name}"], tmp_path).info.config
        for name in (experiment, experiment.removeprefix("small/"))
    )
    sizes = {"d_state", "num_heads", "d_feedforward", "dropout"}
    sizes |= {"log_real", "real_normal"}  # how the kept results of the small study's S5 began
    assert {k: v for k, v in small["model"]["mixer"].items() if k not in sizes} == {
        k: v for k, v in paper["model"]["mixer"].items() if k not in sizes
    }
    for key in ("_target_", "activation", "norm", "pooling", "positions"):
        assert small["model"].get(key) == paper["model"].get(key)
    assert small["procedure"] == paper["procedure"]
    assert small["seeds"] == paper["seeds"]
    if "train" in small:
        assert small["train"]["stop_at"] == paper["train"]["stop_at"]
    assert small["published"] is None


@pytest.mark.parametrize("experiment", PAPERS)
def test_every_experiment_is_the_papers(experiment, tmp_path):
    """Settings of `paper.md`'s tables, and a published value to compare with."""
    run = compose_run([f"+experiment={experiment}"], tmp_path)
    config = run.info.config
    assert run.seeds == (0, 1, 2, 3, 4)
    assert not published(run.published).startswith("nothing")
    if experiment.startswith("figure1"):
        assert config["model"]["d_model"] == 256
        assert (config["task"]["n_paths"], config["task"]["length"]) == (100_000, 100)
        if config["procedure"] == "train":
            assert config["train"]["steps"] == 401 * 2500
            assert config["optimizer"]["learning_rate"] == 1e-4
            assert (config["train"]["batch_size"], config["train"]["mixing"]) == (32, "none")
        else:
            assert not {"train", "optimizer"} & config.keys()
        features = {"_target_", "_partial_", "d_model", "mixer"}  # no blocks, no pooling
        if "linear" in experiment:
            assert config["model"].keys() == features
            assert config["model"]["_target_"] == "ssm.model.MixerReadout"
        else:
            assert (config["model"]["dropout"], config["model"]["norm"]) == (0, False)
            assert config["model"]["pooling"] == "mean"
        assert config["model"]["mixer"].get("d_state", 256) == 256
    else:
        model = experiment.partition("/")[2]
        rates = {"rnn": 1e-4, "s4": 1e-4, "transformer": 2e-4, "mamba": 3e-4, "linear_cde": 2e-4}
        assert config["optimizer"]["learning_rate"] == rates[model]
        assert config["optimizer"]["weight_decay"] == 0.01
        assert config["model"]["d_model"] == (256 if model == "linear_cde" else 1024)
        assert config["train"]["stop_at"] == 0.9
        assert (config["train"]["steps"], config["train"]["evaluate_every"]) == (10**6, 10**4)
        assert (config["model"]["dropout"], config["model"]["norm"]) == (0.1, True)
        assert config["model"]["mixer"].get("d_state", 64) == 64
        linear = model == "linear_cde"
        assert config["train"]["mixing"] == ("alternate" if linear else "joint")
        assert config["train"]["auxiliary_batch_size"] == (3 if linear else 32)
        assert config["task"]["log_epsilon"] == (1e-10 if linear else 0)
        assert config["model"]["activation"] == ("relu" if linear else "glu")
        assert config["task"]["auxiliary_fraction"] == (1.0 if model == "linear_cde" else 0.8)


def test_quirks_are_on_in_the_papers_configs(tmp_path):
    for figure in ("figure1", "figure2"):
        mixer = compose_run([f"+experiment={figure}/s4"], tmp_path).info.config["model"]["mixer"]
        assert mixer["softplus_dt"] is True
    mixer = compose_run(["model=s4"], tmp_path).info.config["model"]["mixer"]
    assert mixer["softplus_dt"] is False


def test_groups_tell_configurations_apart_and_seeds_not(tmp_path):
    def group(*overrides):
        return compose_run(list(overrides), tmp_path).info.group

    assert group() == group("seeds=[3,4]") == group("logger=local")
    assert group() != group("model.activation=relu")
    assert group("task=word_problem") != group("task=word_problem", "task.group=S4")


def test_mambas_learning_rate_follows_its_depth(tmp_path):
    for depth, rate in ((1, 3e-4), (2, 3e-4), (3, 1e-4), (4, 1e-4)):
        run = compose_run(["+experiment=figure2/mamba", f"model.depth={depth}"], tmp_path)
        assert run.info.config["optimizer"]["learning_rate"] == rate


def test_the_published_row_follows_the_overrides(tmp_path):
    run = compose_run(
        ["+experiment=figure1/s4", "task=volume", "model.depth=2", "model.activation=gelu"],
        tmp_path,
    )
    assert run.published == "figure1/s4-3-depth2-nonlinear"
    assert "0.01965" in published(run.published)
    assert "no depth" in published("figure2/mamba-20")
    assert "4 block(s)" in published("figure2/mamba-12")


def test_no_config_has_a_key_its_target_lacks_or_hides_an_argument():
    """Groups list exactly their constructor's arguments, so that each can be overridden."""
    import inspect

    import yaml
    from hydra.utils import get_object

    given_by_program = {
        "self",
        "key",
        "mixer",
        "vocabulary",
        "channels",
        "n_outputs",
        "d_model",
        "solver",
    }
    for group in ("task", "model", "optimizer", "train", "readout"):
        for path in (CONFIGS / group).glob("*.yaml"):
            node = yaml.safe_load(Path(path).read_text())
            node = node.get("mixer", node)
            if "_target_" not in node or group == "optimizer":
                continue
            arguments = set(inspect.signature(get_object(node["_target_"])).parameters)
            keys = {k for k in node if not k.startswith("_") and k != "defaults"}
            assert keys - {"solver"} == arguments - given_by_program, path
