"""The training loop: seeds, steps, evaluation, stopping, and failures."""

import dataclasses
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from composing import TINY_A5, compose_run, execute

from experiments.loggers import read_metrics
from experiments.report import conclude
from experiments.training.batches import Examples
from experiments.training.evaluate import Evaluation
from experiments.training.seeds import over_seeds
from experiments.training.step import Streams, TrainState, advance, make_step, start
from ssm.init import named_key
from tasks.base import AbstractTask

SMALL = [
    *TINY_A5,
    "model=rnn",
    "model.d_model=8",
    "train.steps=100",
    "train.batch_size=8",
    "train.auxiliary_batch_size=4",
    "train.evaluate_every=50",
    "train.stop_at=null",
]


def records(logger, split="val", metric="accuracy"):
    return {
        (r.step, r.seed): r.value for r in logger.records if (r.split, r.metric) == (split, metric)
    }


@pytest.mark.slow
def test_seeds_trained_together_are_each_as_if_alone(tmp_path, nursery):
    """To the last bit after 100 steps, dropout included, in a process with JAX's own settings.

    And however often it is evaluated, which changes nothing in the training.
    """
    runs = {"together": ("[3,0,7]", 100), "alone": ("[7]", 20)}
    for name, (seeds, every) in runs.items():
        options = [*SMALL, "model.dropout=0.1", f"train.evaluate_every={every}", "logger=local"]
        command = [*options, f"seeds={seeds}", f"hydra.run.dir={tmp_path / name}"]
        assert nursery.run(command, XLA_FLAGS="") == 0, nursery.printed()
    together, alone = (tmp_path / name / "model-seed7.eqx" for name in runs)
    assert together.read_bytes() == alone.read_bytes()
    assert together.read_bytes() != (tmp_path / "together" / "model-seed0.eqx").read_bytes()
    of_both = [
        {r.metric: r.value for r in read_metrics(tmp_path / name) if is_final(r)} for name in runs
    ]
    assert len(of_both[0]) > 2
    assert of_both[0] == of_both[1]


def is_final(record):
    return (record.step, record.seed, record.split) == (100, 7, "val")


def test_batched_seeds_agree_with_mapped_ones(own_errors):
    step, state, streams = linear_problem("joint")
    seeds = jnp.arange(3, dtype=jnp.uint32)
    states = jax.tree.map(lambda x: jnp.stack([x] * 3), state)

    def run(axis):
        def one(state, seed):
            first = start(step, state, streams, seed)
            return advance(step, 100, first, streams, seed, jnp.int32(20))[0].state

        return jax.jit(over_seeds(one, axis))(states, seeds)

    mapped, batched = run("map"), run("vmap")
    np.testing.assert_allclose(batched.params.w, mapped.params.w, rtol=1e-5)
    assert len(np.unique(mapped.params.w)) == 3
    with pytest.raises(ValueError, match="seed_axis: got 'pmap'"):
        over_seeds(run, "pmap")


def test_grouping_steps_into_dispatches_changes_no_number():
    """Ten steps at once are ten single steps: this is what resuming relies on."""
    step, state, streams = linear_problem()
    run = jax.jit(lambda s, n: advance(step, 4, s, streams, jnp.uint32(5), n))
    at_once = one_by_one = start(step, state, streams, jnp.uint32(5))
    at_once, _ = run(at_once, jnp.int32(10))
    means = []
    for _ in range(10):
        one_by_one, mean = run(one_by_one, jnp.int32(1))
        means.append(float(mean["squared_error"]))
    assert at_once.state.step == one_by_one.state.step == 10
    assert at_once.count == 2  # since step 8, where the sums began anew
    assert float(at_once.sums["squared_error"]) == pytest.approx(sum(means[8:]), rel=1e-6)
    for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(one_by_one), strict=True):
        np.testing.assert_array_equal(a, b)


class Scale(eqx.Module):
    """y = w x, for steps that can be followed by hand."""

    w: jax.Array

    def __call__(self, x, *, key=None):
        return self.w * x


@final
class SquaredError(AbstractTask):
    """Just enough of a task."""

    metric, maximise = "rmse", False
    vocabulary, channels, n_outputs, per_position, length = None, 1, 1, False, 1

    def load(self):
        raise NotImplementedError

    def metrics(self, means):
        return {"rmse": float(means["squared_error"]) ** 0.5}

    def baselines(self, data):
        return {}

    def loss(self, outputs, target):
        return jnp.sum((outputs - target) ** 2)

    def statistics(self, outputs, target):
        return {"squared_error": self.loss(outputs, target)}


def linear_problem(mixing="none", x=None):
    x = jnp.linspace(-1, 1, 20)[:, None] if x is None else x
    auxiliary = None if mixing == "none" else Examples(10 + x, 3 * (10 + x))
    streams = Streams(Examples(x, 3 * x), auxiliary, 4, 2)
    optimizer = optax.sgd(1e-3)
    params, static = eqx.partition(Scale(jnp.float32(0.5)), eqx.is_inexact_array)
    step = make_step(SquaredError(), static, optimizer, mixing)
    return step, TrainState.first(params, optimizer.init(params)), streams


@pytest.mark.parametrize("mixing", ["none", "joint", "alternate"])
def test_the_two_ways_of_mixing_by_hand(mixing):
    step, state, streams = linear_problem(mixing)
    key = jax.random.key(0)
    main, auxiliary = streams.batches(key, state.step)
    new, _ = step(state, main, auxiliary, key)

    def gradient(w, batch):
        x, y = np.asarray(batch.inputs), np.asarray(batch.targets)
        return float(np.mean(2 * (w * x - y) * x))

    w = 0.5
    if mixing == "joint":
        w -= 1e-3 * (gradient(w, main) + gradient(w, auxiliary))
    else:
        w -= 1e-3 * gradient(w, main)
        if mixing == "alternate":
            w -= 1e-3 * gradient(w, auxiliary)
    assert float(new.params.w) == pytest.approx(w, rel=1e-5)
    assert new.step == 1


def test_a_non_finite_loss_keeps_the_last_good_state():
    x = jnp.linspace(-1, 1, 20)[:, None].at[7].set(jnp.nan)
    step, state, streams = linear_problem(x=x)
    key = jax.random.key(5)
    first = start(step, state, streams, jnp.uint32(5))
    run = jax.jit(lambda n: advance(step, 100, first, streams, jnp.uint32(5), n)[0].state)
    ended = run(jnp.int32(50))
    first_bad = next(
        s for s in range(5) if np.isnan(streams.batches(key, jnp.int32(s))[0].inputs).any()
    )
    assert bool(ended.failed)
    assert int(ended.step) == first_bad
    assert int(ended.culprit) == -1  # the loss itself
    good = run(jnp.int32(first_bad))
    np.testing.assert_array_equal(ended.params.w, good.params.w)


@jax.custom_vjp
def poisoned(x, bad):
    """x, with a gradient that is not finite where `bad`."""
    return x


poisoned.defvjp(
    lambda x, bad: (x, bad), lambda bad, g: (jnp.where(bad, jnp.nan, g), jnp.zeros_like(bad))
)


class Affine(eqx.Module):
    """y = w x + c; the gradient of c is NaN on a batch with x above 0.99."""

    w: jax.Array
    c: jax.Array

    def __call__(self, x, *, key=None):
        return self.w * x + poisoned(self.c, jnp.max(x) > 0.99)


def test_an_infinity_in_one_gradient_is_found_there():
    x = jnp.linspace(-1, 1, 20)[:, None]
    streams = Streams(Examples(x, 3 * x), None, 4, 2)
    optimizer = optax.adam(1e-3)
    model = Affine(jnp.float32(0.5), jnp.float32(0.1))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    step = make_step(SquaredError(), static, optimizer, "none")
    first = start(step, TrainState.first(params, optimizer.init(params)), streams, jnp.uint32(1))
    run = jax.jit(lambda n: advance(step, 100, first, streams, jnp.uint32(1), n)[0])
    ended = run(jnp.int32(50))
    batches = (streams.batches(jax.random.key(1), jnp.int32(s))[0].inputs for s in range(50))
    at = next(s for s, batch in enumerate(batches) if jnp.max(batch) > 0.99)
    assert (int(ended.state.step), int(ended.count)) == (at, at)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    assert names[int(ended.state.culprit)] == ".c"
    good = run(jnp.int32(at))
    for a, b in zip(
        jax.tree.leaves(ended.state.opt_state), jax.tree.leaves(good.state.opt_state), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_seed_that_fails_is_reported_and_the_others_go_on(tmp_path, capsys):
    run = compose_run(
        [*SMALL, "seeds=[0,1]", "train.steps=40", "train.evaluate_every=20"], tmp_path
    )

    make_model = run.make_model

    def bad_model(key):
        model = make_model(key)
        bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(poison))
        scale = jnp.where(bad, jnp.nan, 1.0)
        return eqx.tree_at(lambda m: m.readout.weight, model, model.readout.weight * scale)

    poison = named_key(jax.random.key(1), "model")
    run = dataclasses.replace(run, make_model=bad_model)
    logger, summary = execute(run)
    assert summary["seeds"]["1"]["failed_at"] == 0
    assert summary["seeds"]["0"]["failed_at"] is None
    assert summary["seeds"]["0"]["steps"] == 40
    assert not conclude(run, summary)
    assert summary["seeds"]["1"]["failed_in"] == "loss"
    assert "seed 1: the loss is not finite after 0 steps" in capsys.readouterr().err
    assert (40, 0) in records(logger)
    assert (20, 1) not in records(logger)
    assert (tmp_path / "model-seed1.eqx").exists()


@pytest.mark.slow
def test_each_seed_stops_at_its_threshold(tmp_path):
    options = [
        *SMALL,
        "task.samples=2000",  # every sequence: few examples would be learnt by heart
        "train.batch_size=64",
        "model.d_model=32",
        "optimizer.learning_rate=0.005",
        "seeds=[0,1]",
        "train.steps=3000",
        "train.evaluate_every=100",
        "train.stop_at=0.9",
    ]
    logger, summary = execute(compose_run(options, tmp_path))
    last = logger.statuses[-1]
    assert (last["total_steps"], last["metric_name"]) == (3000, "accuracy")
    assert last["steps_per_second"] > 0
    assert last["loss"] > 0
    for seed in (0, 1):
        result = summary["seeds"][str(seed)]
        values = {step: v for (step, s), v in records(logger).items() if s == seed}
        assert result["steps_to_threshold"] == max(values) == result["steps"]
        assert values[max(values)] > 0.9
        assert all(v <= 0.9 for step, v in values.items() if step < max(values))
        assert result["best_accuracy"] == values[max(values)] == result["final"]["accuracy"]


def test_evaluation_counts_every_example_once(tmp_path):
    """Against a plain loop, for batch sizes that do and do not divide the split."""
    run = compose_run(SMALL, tmp_path)
    data = run.task.load().validation
    split = Examples(jnp.asarray(data.inputs), jnp.asarray(data.targets))
    model = run.make_model(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    predicted = np.argmax(jax.jit(jax.vmap(model))(split.inputs.astype(jnp.int32)), axis=-1)
    right = np.asarray(predicted) == data.targets
    for batch_size in (7, len(right), 1000):
        evaluation = Evaluation(run.task, static, batch_size)
        add = jax.jit(lambda sums, start, n, e=evaluation: e.add(params, split, sums, start, n))
        sums, at_a_time = evaluation.zeros(params, split), 3 * evaluation.width(len(right))
        for begin in range(0, len(right), at_a_time):
            sums = add(sums, jnp.int32(begin), jnp.int32(3))
        metrics = run.task.metrics({k: np.asarray(v) / len(right) for k, v in sums.items()})
        assert metrics["accuracy"] == pytest.approx(right.mean(), rel=1e-5)
        assert metrics["accuracy_last"] == pytest.approx(right[:, -1].mean(), rel=1e-5)
        assert metrics["accuracy_sequence"] == pytest.approx(right.all(axis=1).mean(), abs=1e-6)
