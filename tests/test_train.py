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

from experiments import checkpoint
from experiments.batches import Examples
from experiments.evaluate import make_evaluation
from experiments.report import conclude
from experiments.seeds import over_seeds
from experiments.step import Streams, TrainState, advance, make_step
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


def parameters(run, seed):
    model = run.make_model(jax.random.key(0))
    like = eqx.filter(model, eqx.is_inexact_array)
    return jax.tree.leaves(checkpoint.load(run.info.directory / f"model-seed{seed}.eqx", like))


def test_seeds_trained_together_are_each_as_if_alone(tmp_path):
    """To 1e-6 relative after 100 steps, dropout included."""
    options = [*SMALL, "model.dropout=0.1", "train.evaluate_every=100"]
    together = compose_run([*options, "seeds=[3,0,7]"], tmp_path / "together")
    execute(together)
    alone = compose_run([*options, "seeds=[7]"], tmp_path / "alone")
    execute(alone)
    for got, want in zip(parameters(together, 7), parameters(alone, 7), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    differ = [
        np.any(a != b)
        for a, b in zip(parameters(together, 0), parameters(together, 7), strict=True)
    ]
    assert any(differ)


def test_batched_seeds_agree_with_mapped_ones(own_errors):
    step, state, streams = linear_problem("joint")
    seeds = jnp.arange(3, dtype=jnp.uint32)
    states = jax.tree.map(lambda x: jnp.stack([x] * 3), state)

    def run(axis):
        def one(state, seed):
            return advance(step, state, streams, seed, jnp.int32(20))[0]

        return jax.jit(over_seeds(one, axis))(states, seeds)

    mapped, batched = run("map"), run("vmap")
    np.testing.assert_allclose(batched.params.w, mapped.params.w, rtol=1e-5)
    assert len(np.unique(mapped.params.w)) == 3
    with pytest.raises(ValueError, match="seed_axis: got 'pmap'"):
        over_seeds(run, "pmap")


def test_evaluation_never_changes_the_training(tmp_path):
    runs = []
    for every in (10, 60):
        run = compose_run(
            [*SMALL, "train.steps=60", "model.dropout=0.1", f"train.evaluate_every={every}"],
            tmp_path / str(every),
        )
        logger, _ = execute(run)
        runs.append((parameters(run, 0), records(logger)[60, 0]))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs[0][1] == runs[1][1]


def test_grouping_steps_into_dispatches_changes_no_number():
    """Ten steps at once are ten single steps: this is what resuming relies on."""
    step, state, streams = linear_problem()
    run = jax.jit(lambda s, n: advance(step, s, streams, jnp.uint32(5), n))
    at_once, _ = run(state, jnp.int32(10))
    one_by_one = state
    for _ in range(10):
        one_by_one, _ = run(one_by_one, jnp.int32(1))
    assert at_once.step == one_by_one.step == 10
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
    return step, TrainState(params, optimizer.init(params), jnp.int32(0), jnp.array(False)), streams


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
    run = jax.jit(lambda s, n: advance(step, s, streams, jnp.uint32(5), n))
    ended, _ = run(state, jnp.int32(50))
    first_bad = next(
        s for s in range(5) if np.isnan(streams.batches(key, jnp.int32(s))[0].inputs).any()
    )
    assert bool(ended.failed)
    assert int(ended.step) == first_bad
    good, _ = run(state, jnp.int32(first_bad))
    np.testing.assert_array_equal(ended.params.w, good.params.w)


def test_a_seed_that_fails_is_reported_and_the_others_go_on(tmp_path, capsys):
    run = compose_run(
        [*SMALL, "seeds=[0,1]", "train.steps=40", "train.evaluate_every=20"], tmp_path
    )

    make_model = run.make_model

    def poisoned(key):
        model = make_model(key)
        bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(poison))
        scale = jnp.where(bad, jnp.nan, 1.0)
        return eqx.tree_at(lambda m: m.readout.weight, model, model.readout.weight * scale)

    poison = named_key(jax.random.key(1), "model")
    run = dataclasses.replace(run, make_model=poisoned)
    logger, summary = execute(run)
    assert summary["seeds"]["1"]["failed_at"] == 0
    assert summary["seeds"]["0"]["failed_at"] is None
    assert summary["seeds"]["0"]["steps"] == 40
    assert not conclude(run, summary)
    assert "seed 1: loss or gradient not finite after 0 steps" in capsys.readouterr().err
    assert (40, 0) in records(logger)
    assert (20, 1) not in records(logger)
    assert (tmp_path / "model-seed1.eqx").exists()


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
        means = jax.jit(make_evaluation(run.task, static, batch_size))(params, split)
        metrics = run.task.metrics(jax.device_get(means))
        assert metrics["accuracy"] == pytest.approx(right.mean(), rel=1e-5)
        assert metrics["accuracy_last"] == pytest.approx(right[:, -1].mean(), rel=1e-5)
        assert metrics["accuracy_sequence"] == pytest.approx(right.all(axis=1).mean(), abs=1e-6)
