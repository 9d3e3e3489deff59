"""Gradient training of several seeds at once: the loop."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from experiments import checkpoint
from experiments.batches import steps_per_epoch
from experiments.devices import BY_SEED, WHOLE, layout_of
from experiments.errors import ConfigError
from experiments.evaluate import make_evaluation
from experiments.loggers import AbstractLogger, Record
from experiments.procedure import (
    AbstractProcedure,
    MakeModel,
    Model,
    load,
    metrics_of,
    on_device,
    static_part,
)
from experiments.seeds import SeedAxis, over_seeds
from experiments.step import Mixing, Streams, TrainState, advance, make_step
from ssm.init import named_key
from tasks.base import AbstractTask, Data, Split

SECONDS_PER_DISPATCH = 1.0


@final
@dataclass(frozen=True)
class GradientDescent(AbstractProcedure):
    """Trains by a first-order optimiser, evaluating at a set interval, on all local devices.

    Seeds and the examples of each batch are dealt out to the devices (`experiments.devices`). A
    batch whose size the number of a seed's devices does not divide is done whole by each of them:
    right, but no faster. Any number of devices sees the same random numbers, and gives the same
    results up to the order of sums.

    Arguments:
        steps: most steps a seed takes.
        batch_size: examples of the main stream a step.
        mixing: how the auxiliary stream joins, see `experiments.step.make_step`.
        auxiliary_batch_size: its examples a step.
        evaluate_every: steps between evaluations on the whole validation split; step 0 and the last
            step are evaluated too.
        evaluate_batch_size: examples at a time in an evaluation.
        stop_at: a seed stops at the first evaluation whose primary metric is better than this.
        seed_axis: see `experiments.seeds.over_seeds`.

    Raises:
        ValueError: for a number out of range, or an unknown mixing.
    """

    steps: int
    batch_size: int = 32
    mixing: Mixing = "none"
    auxiliary_batch_size: int = 32
    evaluate_every: int = 10_000
    evaluate_batch_size: int = 400
    stop_at: float | None = None
    seed_axis: SeedAxis = "auto"

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "auxiliary_batch_size",
            "evaluate_every",
            "evaluate_batch_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected at least 1")
        if self.mixing not in get_args(Mixing):
            raise ValueError(
                f"mixing: got {self.mixing!r}; expected one of {list(get_args(Mixing))}"
            )
        over_seeds(lambda x: x, self.seed_axis)  # checks the name

    def check(self, task: AbstractTask, model: Model) -> None:
        pooled = model.pooling != "none"
        if task.per_position == pooled:
            kind = "at every position" if task.per_position else "for the whole sequence"
            valid = "'none'" if task.per_position else "'mean' or 'last'"
            raise ValueError(
                f"model.pooling: got {model.pooling!r}, but the task has a target {kind}; expected "
                f"{valid}"
            )

    def run(
        self,
        task: AbstractTask,
        make_model: MakeModel,
        optimizer: optax.GradientTransformation,
        seeds: Sequence[int],
        logger: AbstractLogger,
        directory: Path,
    ) -> Mapping[str, Any]:
        data = load(task)
        streams = self._streams(data)
        baselines = task.baselines(data)
        program = _Program(self, task, make_model, optimizer, seeds)
        streams, validation = program.layout.replicate((streams, on_device(data.validation)))
        loop = _Loop(self, task, program, seeds, logger, streams, validation)
        try:
            loop.run()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the state may be part of the failure
                loop.save(directory)
            raise
        loop.save(directory)
        return loop.summary() | {"baselines": baselines}

    def _streams(self, data: Data) -> Streams:
        """The training data on the device; the sizes of batches are checked here."""
        _check_batch("train.batch_size", self.batch_size, data.train)
        auxiliary = None
        if self.mixing != "none":
            if data.auxiliary is None:
                raise ConfigError(
                    f"train.mixing: got {self.mixing!r}, but this task has no auxiliary stream; "
                    "expected 'none' (the word problem has one unless auxiliary_length is null)"
                )
            _check_batch("train.auxiliary_batch_size", self.auxiliary_batch_size, data.auxiliary)
            auxiliary = on_device(data.auxiliary)
        return Streams(on_device(data.train), auxiliary, self.batch_size, self.auxiliary_batch_size)


def _check_batch(name: str, batch_size: int, split: Split) -> None:
    try:
        steps_per_epoch(len(split.inputs), batch_size)
    except ValueError as error:
        raise ConfigError(f"{name}{str(error).removeprefix('batch_size')}") from error


class _Program:
    """The compiled functions of a run: initialise, advance, evaluate; over seeds and devices."""

    def __init__(self, procedure, task, make_model, optimizer, seeds):
        def init(seed):
            model = make_model(named_key(jr.key(seed), "model"))
            params = eqx.filter(model, eqx.is_inexact_array)
            return TrainState(params, optimizer.init(params), jnp.int32(0), jnp.array(False))

        static = static_part(make_model)
        self.layout = layout = layout_of(len(seeds))
        step = make_step(task, static, optimizer, procedure.mixing, layout)
        evaluate = make_evaluation(task, static, procedure.evaluate_batch_size, layout)
        axis = procedure.seed_axis
        self.seeds = jnp.asarray(seeds, jnp.uint32)
        init_all = layout.spread(over_seeds(init, "map"), BY_SEED)
        self.init: Callable[[], TrainState] = jax.jit(lambda: init_all(self.seeds))

        def advance_some(state, streams, seeds, n):
            return over_seeds(lambda state, seed, n: advance(step, state, streams, seed, n), axis)(
                state, seeds, n
            )

        def advance_all(state, streams, n):
            spread = layout.spread(advance_some, BY_SEED, WHOLE, BY_SEED, BY_SEED)
            return spread(state, streams, self.seeds, n)

        def evaluate_all(params, split):
            return over_seeds(lambda p: evaluate(p, split), axis)(params)

        self.advance = jax.jit(advance_all, donate_argnums=0)
        self.evaluate = jax.jit(layout.spread(evaluate_all, BY_SEED, WHOLE))


@dataclass
class _Result:
    """What is known of one seed so far."""

    final: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    steps: int = 0
    steps_to_threshold: int | None = None
    failed_at: int | None = None
    active: bool = True


class _Loop:
    """Dispatches steps, evaluates and reports; waits for the device at evaluations only.

    The statistics of a dispatch are read while the next one runs.
    """

    def __init__(self, procedure, task, program, seeds, logger, streams, validation):
        self.procedure: GradientDescent = procedure
        self.task, self.program, self.logger = task, program, logger
        self.seeds = tuple(seeds)
        self.streams, self.validation = streams, validation
        self.state: TrainState = program.init()
        self.results = {seed: _Result() for seed in self.seeds}
        self.start = time.monotonic()
        self.pace = _Pace()
        self.sums: list[tuple[int, dict[str, np.ndarray]]] = []

    def run(self) -> None:
        """Trains until every seed has ended: by its steps, its threshold, or a failure."""
        step, pending = 0, None
        self._evaluate(0)
        while any(r.active for r in self.results.values()) and step < self.procedure.steps:
            target = min(
                self.procedure.steps,
                (step // self.procedure.evaluate_every + 1) * self.procedure.evaluate_every,
            )
            n = min(self.pace.steps, target - step)
            active = np.asarray([self.results[seed].active for seed in self.seeds])
            self.state, means = self.program.advance(
                self.state, self.streams, jnp.asarray(np.where(active, n, 0), jnp.int32)
            )
            if pending is not None:
                self._report(*pending)
            step += n
            # The state is donated to the next dispatch, so keep a copy of these few bytes.
            pending = (step, n, means, jnp.copy(self.state.failed))
            if step == target:
                self._report(*pending)
                pending = None
                self._evaluate(step)

    def save(self, directory: Path) -> None:
        """Writes the parameters of each seed."""
        for index, seed in enumerate(self.seeds):
            params = jax.tree.map(lambda x, i=index: x[i], self.state.params)
            checkpoint.save(directory / f"model-seed{seed}.eqx", params)

    def _report(self, step: int, n: int, means: dict[str, jax.Array], failed: jax.Array) -> None:
        """Reads one dispatch's statistics, and shows how far the run has come."""
        host = {name: np.asarray(v) for name, v in jax.device_get(means).items()}
        self.pace.done(n)
        self.sums.append((n, host))
        for seed, bad, steps in zip(
            self.seeds, jax.device_get(failed), self._steps_if(failed), strict=True
        ):
            if bad and self.results[seed].active:
                self.results[seed].active = False
                self.results[seed].failed_at = steps
                self.results[seed].steps = steps
        alive = [i for i, seed in enumerate(self.seeds) if self.results[seed].active]
        metrics = [self.task.metrics({k: v[i] for k, v in host.items()}) for i in alive]
        if metrics:
            self.logger.status(
                step=step,
                total_steps=self.procedure.steps,
                steps_per_second=self.pace.rate,
                loss=float(np.mean([m["loss"] for m in metrics])),
                metric_name=self.task.metric,
                metric_value=float(np.mean([m[self.task.metric] for m in metrics])),
            )

    def _steps_if(self, failed: jax.Array) -> list[int]:
        """The step of each seed, read from the device only if one failed."""
        if not np.any(jax.device_get(failed)):
            return [0] * len(self.seeds)
        return [int(s) for s in jax.device_get(self.state.step)]

    def _evaluate(self, step: int) -> None:
        """Evaluates, records train and validation metrics, and stops the seeds that have passed."""
        means = jax.device_get(self.program.evaluate(self.state.params, self.validation))
        seconds = time.monotonic() - self.start
        records: list[Record] = []
        for i, seed in enumerate(self.seeds):
            result = self.results[seed]
            if not result.active:
                continue
            metrics = metrics_of(self.task, means, i)
            for split, values in (("train", self._train_metrics(i)), ("val", metrics)):
                records += [Record(step, seed, split, k, v, seconds) for k, v in values.items()]
            self._judge(result, step, metrics)
        self.sums.clear()
        self.logger.log(records)
        self.pace.restart()

    def _train_metrics(self, index: int) -> dict[str, float]:
        """Metrics of a seed's training batches since the last evaluation."""
        total = sum(n for n, _ in self.sums)
        if not total:
            return {}
        names = self.sums[0][1]
        means = {k: sum(n * s[k][index] for n, s in self.sums) / total for k in names}
        return {k: float(v) for k, v in self.task.metrics(means).items()}

    def _judge(self, result: _Result, step: int, metrics: dict[str, float]) -> None:
        """Final and best metrics of a seed, and whether it has passed the threshold."""
        value, stop_at = metrics[self.task.metric], self.procedure.stop_at
        sign = 1 if self.task.maximise else -1
        result.final, result.steps = metrics, step
        if result.best is None or sign * value > sign * result.best:
            result.best, result.best_step = value, step
        if stop_at is not None and sign * value > sign * stop_at:
            result.active, result.steps_to_threshold = False, step

    def summary(self) -> dict[str, Any]:
        """The outcome of every seed, as plain data."""
        metric = self.task.metric
        return {
            "metric": metric,
            "threshold": self.procedure.stop_at,
            "training_seconds": time.monotonic() - self.start,
            "seeds": {
                str(seed): {
                    "final": r.final,
                    f"best_{metric}": r.best,
                    "best_step": r.best_step,
                    "steps": r.steps,
                    "steps_to_threshold": r.steps_to_threshold,
                    "failed_at": r.failed_at,
                }
                for seed, r in self.results.items()
            },
        }


class _Pace:
    """How many steps to dispatch at once, so that a dispatch lasts about a second.

    The first dispatch is mostly compilation: it says nothing of the rate, which is 0 until known.
    """

    def __init__(self):
        self.steps, self.rate, self.compiled = 1, 0.0, False
        self.restart()

    def restart(self) -> None:
        """Forgets the clock: what comes next is not training time, or is a fresh start."""
        self.last = time.monotonic()

    def done(self, n: int) -> None:
        """Notes that `n` more steps have ended."""
        now = time.monotonic()
        elapsed = max(now - self.last, 1e-6)
        self.last = now
        if not self.compiled:
            self.compiled = True
            return
        self.rate = n / elapsed
        wanted = max(1, int(self.rate * SECONDS_PER_DISPATCH))
        self.steps = min(wanted, 4 * self.steps)
