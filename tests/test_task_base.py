"""What the training loop relies on, for every concrete task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.base import AbstractTask, Data
from tasks.signature import SignatureTask
from tasks.word_problem import WordProblem

TASKS = [
    WordProblem("S3", length=3),
    WordProblem("A5", length=6, samples=200, auxiliary_length=1, log_epsilon=1e-10),
    WordProblem("Z4xZ2", length=5, samples=300, auxiliary_length=None),
    SignatureTask(length=10, n_paths=60),
    SignatureTask(dimension=3, word=[1, 2, 3], length=10, n_paths=60, target="log_signature"),
    SignatureTask(dimension=3, word=[1, 2, 3], length=10, n_paths=60, target="alternating"),
]
NAMES = [f"{type(task).__name__}{index}" for index, task in enumerate(TASKS)]
every_task = pytest.mark.parametrize("task", TASKS, ids=NAMES)


def perfect_outputs(task, targets):
    if task.vocabulary is None:
        return jnp.asarray(targets)
    return 40 * jax.nn.one_hot(targets, task.n_outputs)


def metrics_of(task, outputs, targets):
    statistics = jax.vmap(task.statistics)(outputs, jnp.asarray(targets))
    return task.metrics({name: np.asarray(v).mean(axis=0) for name, v in statistics.items()})


def test_the_base_is_abstract_and_every_task_final():
    with pytest.raises(TypeError, match="abstract"):
        AbstractTask()
    for kind in (WordProblem, SignatureTask):
        assert getattr(kind, "__final__", False)
        assert dataclasses.is_dataclass(kind)
        with pytest.raises(dataclasses.FrozenInstanceError):
            kind().length = 7


@every_task
def test_data_have_the_declared_sizes_and_types(task):
    data = task.load()
    assert isinstance(data, Data)
    assert (task.vocabulary is None) != (task.channels is None)
    for split in (data.train, data.validation):
        assert len(split.inputs) == len(split.targets) > 0
        if task.channels is None:
            assert split.inputs.shape[1:] == (task.length,)
            assert split.inputs.dtype == split.targets.dtype == np.uint8
            assert max(split.inputs.max(), split.targets.max()) < task.vocabulary
        else:
            assert split.inputs.shape[1:] == (task.length, task.channels)
            assert split.inputs.dtype == split.targets.dtype == np.float32
        target_shape = (task.length,) if task.per_position else (task.n_outputs,)
        assert split.targets.shape[1:] == target_shape


@every_task
def test_right_answers_score_best_on_the_primary_metric(task):
    targets = task.load().validation.targets
    best = metrics_of(task, perfect_outputs(task, targets), targets)
    worse = metrics_of(task, perfect_outputs(task, np.roll(targets, 1, axis=0)), targets)
    assert best[task.metric] == pytest.approx(1.0 if task.maximise else 0.0)
    assert (best[task.metric] > worse[task.metric]) == task.maximise
    assert best["loss"] == pytest.approx(0, abs=1e-6)
    assert best["loss"] < worse["loss"]
    assert all(type(value) is float for value in best.values())


@every_task
def test_loss_is_differentiable_and_vanishes_only_at_the_answer(task):
    targets = jnp.asarray(task.load().train.targets[0])
    outputs = perfect_outputs(task, targets) + 0.5 * jax.random.normal(
        jax.random.key(0), perfect_outputs(task, targets).shape
    )
    loss, slope = jax.jit(jax.value_and_grad(task.loss))(outputs, targets)
    lower = task.loss(outputs - 1e-2 * slope, targets)
    assert loss.shape == ()
    assert np.isfinite(slope).all()
    assert lower <= loss


@every_task
def test_metrics_do_not_depend_on_batches(task):
    targets = task.load().validation.targets[:10]
    outputs = perfect_outputs(task, np.roll(targets, 1, axis=0))
    whole = metrics_of(task, outputs, targets)
    halves = [
        jax.vmap(task.statistics)(outputs[i : i + 5], jnp.asarray(targets[i : i + 5]))
        for i in (0, 5)
    ]
    means = {k: np.mean([np.asarray(h[k]).mean(axis=0) for h in halves], axis=0) for k in halves[0]}
    assert task.metrics(means) == pytest.approx(whole, rel=1e-5)


@every_task
def test_baselines_are_finite_floats_about_the_primary_metric(task):
    baselines = task.baselines(task.load())
    assert all(type(value) is float and np.isfinite(value) for value in baselines.values())
    assert any(name.startswith(task.metric) for name in baselines)


def test_auxiliary_sequences_are_shorter_and_the_loss_takes_them():
    task = TASKS[1]
    auxiliary = task.load().auxiliary
    assert auxiliary.inputs.shape == (60, 1)
    losses = jax.vmap(task.loss)(jnp.zeros((60, 1, 60)), jnp.asarray(auxiliary.targets))
    np.testing.assert_allclose(losses, np.log(60), rtol=1e-6)


def test_equal_arguments_give_equal_tasks():
    assert SignatureTask(word=[1, 2]) == SignatureTask(word=(1, 2))
    assert hash(SignatureTask(word=[1, 2])) == hash(SignatureTask(word=(1, 2)))
    assert WordProblem("S5") != WordProblem("A5")


@pytest.mark.parametrize("task", [t for t in TASKS if t.per_position], ids=str)
def test_the_statistics_of_pieces_make_those_of_the_whole(task):
    targets = jnp.asarray(task.load().train.targets[:5])
    outputs = jax.random.normal(jax.random.key(0), (*targets.shape, task.n_outputs))
    outputs += 3 * jax.nn.one_hot(targets, task.n_outputs)  # some are right, some all right
    pieces = [np.s_[:, :1], np.s_[:, 1:2], np.s_[:, 2:]]
    found = task.join(
        [jax.device_get(jax.vmap(task.statistics)(outputs[p], targets[p])) for p in pieces],
        [np.asarray(jax.vmap(task.count)(targets[p])) for p in pieces],
    )
    whole = jax.vmap(task.statistics)(outputs, targets)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_a_word_problem_is_tested_without_what_belongs_to_its_training():
    own = {"length": 5, "samples": 10**6, "path": "5.csv", "auxiliary_length": 2, "seed": 3}
    longer = WordProblem.test_settings(own, {"length": 9})
    assert longer == own | {"length": 9, "samples": 10_000, "path": None, "auxiliary_length": None}
    assert WordProblem.test_settings(own, {"seed": 4})["path"] == "5.csv"
    more = WordProblem.test_settings(own, {"length": 2, "samples": 10**5, "path": "2.csv"})
    assert (more["length"], more["samples"], more["path"]) == (2, 10**5, "2.csv")
    assert SignatureTask.test_settings({"length": 9}, {"length": 8}) == {"length": 8}
