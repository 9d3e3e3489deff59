"""What every task promises, for every file in `configs/task/`."""

import jax
import numpy as np
import pytest
from composing import CONFIGS, TINY_TRAIN, compose_plain, compose_run, execute

TASKS = sorted(p.stem for p in (CONFIGS / "task").glob("*.yaml"))
SMALL = {"n_paths": 120, "samples": 400, "length": 8, "group": "S3"}
"""Sizes, for the tasks that have them."""


def options(task):
    """The command line of a small task, read by an RNN."""
    sizes = compose_plain([f"task={task}", "model=rnn"])["task"]
    small = [f"task.{key}={value}" for key, value in SMALL.items() if key in sizes]
    return [f"task={task}", *small, "model=rnn", "model.d_model=4", *TINY_TRAIN]


@pytest.mark.parametrize("task", TASKS)
def test_data_loss_and_metrics_fit_together(task, tmp_path):
    task = compose_run(options(task), tmp_path).task
    data = task.load()
    for split in (data.train, data.validation):
        assert len(split.inputs) == len(split.targets) > 0
        assert split.inputs.shape[1] == task.length
        if task.vocabulary is None:
            assert split.inputs.dtype == np.float32
            assert split.inputs.shape[2:] == (task.channels,)
        else:
            assert np.issubdtype(split.inputs.dtype, np.unsignedinteger)
            assert split.inputs.max() < task.vocabulary
            assert split.inputs.ndim == 2
    for again, before in zip(task.load().train, data.train, strict=True):
        np.testing.assert_array_equal(again, before)
    position = (task.length,) if task.per_position else ()
    outputs = jax.random.normal(jax.random.key(0), (*position, task.n_outputs))
    target = jax.numpy.asarray(data.train.targets[0])
    loss, gradient = jax.value_and_grad(task.loss)(outputs, target)
    assert np.isfinite(loss)
    assert np.any(gradient)
    metrics = task.metrics(task.statistics(outputs, target))
    assert {task.metric, "loss"} <= metrics.keys()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    baselines = task.baselines(data)
    assert baselines
    assert all(np.isfinite(value) for value in baselines.values())


@pytest.mark.parametrize(
    "task",  # the others are of the same two classes
    [pytest.param(t, marks=[pytest.mark.slow] if t != "word_problem" else []) for t in TASKS],
)
def test_it_trains(task, tmp_path):
    _, summary = execute(compose_run(options(task), tmp_path))
    assert summary["seeds"]["0"]["final"]
