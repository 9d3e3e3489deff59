"""The training loop: dispatches steps, evaluates, reports, and keeps what is needed to go on."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import Interrupted, OtherRun
from experiments.loggers import AbstractLogger
from experiments.results.files import Record, model_file
from experiments.rundir import RunDirectory
from experiments.training import checkpoint
from experiments.training.batches import Examples
from experiments.training.procedure import metrics_of
from experiments.training.program import Program, Settings
from experiments.training.step import Streams
from tasks.base import AbstractTask

SECONDS_PER_DISPATCH = 1.0


@dataclass
class Result:
    """What is known of one seed so far."""

    final: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    steps: int = 0
    steps_to_threshold: int | None = None
    failed_at: int | None = None
    failed_in: str | None = None
    active: bool = True


class Loop:
    """Dispatches steps, evaluates and reports; waits for the device at evaluations only.

    The statistics of a dispatch are read while the next one runs. A checkpoint is written after
    every evaluation and every `checkpoint_seconds`; a signal is acted upon after the dispatch, of
    training or evaluation, that was running when it came.
    """

    def __init__(
        self,
        settings: Settings,
        task: AbstractTask,
        program: Program,
        seeds: Sequence[int],
        logger: AbstractLogger,
        rundir: RunDirectory,
        streams: Streams,
        validation: Examples,
    ):
        self.settings, self.task, self.program = settings, task, program
        self.seeds = tuple(seeds)
        self.logger, self.rundir = logger, rundir
        self.streams, self.validation = streams, validation
        self.results = {seed: Result() for seed in self.seeds}
        self.progress = program.init(streams)
        self.step, self.evaluated = 0, -1
        self.start = time.monotonic()
        self.pace, self.evaluation_pace = Pace(), Pace()
        if rundir.restored is not None:
            self._restore(rundir.restored)
        self.saved = time.monotonic()

    def run(self) -> None:
        """Trains until every seed has ended: by its steps, its threshold, or a failure."""
        pending = None
        while True:
            if self._is_evaluation():
                if pending is not None:
                    self._report(*pending)
                    pending = None
                self._evaluate()
                self._save()
            if self.step >= self.settings.steps or not any(r.active for r in self.results.values()):
                break
            every = self.settings.evaluate_every
            target = min(self.settings.steps, (self.step // every + 1) * every)
            n = min(self.pace.steps, target - self.step)
            active = np.asarray([self.results[seed].active for seed in self.seeds])
            self.progress, means = self.program.advance(
                self.progress, self.streams, jnp.asarray(np.where(active, n, 0), jnp.int32)
            )
            self.step += n
            if pending is not None:
                self._report(*pending)
            # The state is donated to the next dispatch, so keep a copy of these few bytes.
            pending = (self.step, n, means, jnp.copy(self.progress.state.failed))
            stop = self.rundir.interruption.signum is not None
            if stop or time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
                self._report(*pending)
                pending = None
                self._save_and_check()
        self.rundir.flush()

    def keep_models(self) -> None:
        """Writes the parameters of each seed."""
        for index, seed in enumerate(self.seeds):
            params = jax.tree.map(lambda x, i=index: x[i], self.progress.state.params)
            checkpoint.save(self.rundir.path / model_file(seed), params)

    def _is_evaluation(self) -> bool:
        """Whether this step is to be evaluated, and has not been yet."""
        due = self.step % self.settings.evaluate_every == 0 or self.step >= self.settings.steps
        return due and self.step != self.evaluated

    def _save(self, *, wait: bool = False) -> None:
        description = {
            "step": self.step,
            "evaluated": self.evaluated,
            "seconds": time.monotonic() - self.start,
            "results": {str(s): dataclasses.asdict(r) for s, r in self.results.items()},
        }
        self.rundir.save(self.progress, description, wait=wait)
        self.saved = time.monotonic()

    def _save_and_check(self) -> None:
        """Writes a checkpoint; if a signal has come, waits for it and raises `Interrupted`."""
        try:
            self.rundir.interruption.check()
        except Interrupted:
            self._save(wait=True)
            raise
        self._save()

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint."""
        description: Mapping[str, Any] = found.description["procedure"]
        try:
            arrays = found.restore(jax.eval_shape(lambda p: p, self.progress))
        except ValueError as error:  # the code of the model has changed
            raise OtherRun(f"{error}; expected a checkpoint of this model and optimiser") from error
        shardings = jax.tree.map(lambda x: x.sharding, self.progress)
        self.progress = jax.device_put(arrays, shardings)
        self.step, self.evaluated = description["step"], description["evaluated"]
        self.results = {seed: Result(**description["results"][str(seed)]) for seed in self.seeds}
        self.start = time.monotonic() - description["seconds"]

    def _report(self, step: int, n: int, means: dict[str, jax.Array], failed: jax.Array) -> None:
        """Reads one dispatch's statistics, and shows how far the run has come."""
        host = {name: np.asarray(v) for name, v in jax.device_get(means).items()}
        self.pace.done(n)
        if np.any(bad := jax.device_get(failed)):
            self._note_failures(bad)
        alive = [i for i, seed in enumerate(self.seeds) if self.results[seed].active]
        metrics = [self.task.metrics({k: v[i] for k, v in host.items()}) for i in alive]
        if metrics:
            self.logger.status(
                step=step,
                total_steps=self.settings.steps,
                steps_per_second=self.pace.rate,
                loss=float(np.mean([m["loss"] for m in metrics])),
                metric_name=self.task.metric,
                metric_value=float(np.mean([m[self.task.metric] for m in metrics])),
            )

    def _note_failures(self, failed: np.ndarray) -> None:
        """Ends the seeds that failed, with the step and the parameter whose gradient it was."""
        state = self.progress.state
        steps, culprits = jax.device_get((state.step, state.culprit))
        paths = [p for p, _ in jax.tree_util.tree_flatten_with_path(state.params)[0]]
        for i, seed in enumerate(self.seeds):
            result = self.results[seed]
            if failed[i] and result.active:
                result.active, result.failed_at = False, int(steps[i])
                result.steps = int(steps[i])
                path = paths[culprits[i]] if culprits[i] >= 0 else None
                result.failed_in = "loss" if path is None else jax.tree_util.keystr(path)

    def _evaluate(self) -> None:
        """Evaluates, records train and validation metrics, and stops the seeds that have passed."""
        means = self._validation_means()
        sums, counts = jax.device_get((self.progress.sums, self.progress.count))
        seconds = time.monotonic() - self.start
        records: list[Record] = []
        for i, seed in enumerate(self.seeds):
            result = self.results[seed]
            if not result.active:
                continue
            metrics = metrics_of(self.task, means, i)
            train: dict[str, float] = {}
            if counts[i] and self.step > 0:
                train = metrics_of(self.task, {k: v / counts[i] for k, v in sums.items()}, i)
            for split, values in (("train", train), ("val", metrics)):
                records += [
                    Record(self.step, seed, split, k, v, seconds) for k, v in values.items()
                ]
            self._judge(result, metrics)
        self.logger.log(records)
        self.evaluated = self.step
        self.pace.restart()

    def _validation_means(self) -> dict[str, np.ndarray]:
        """The statistics of the validation split, made in dispatches of about a second."""
        params, size = self.progress.state.params, len(self.validation.inputs)
        sums = self.program.zeros(params, self.validation)
        width, start = self.program.width(size), 0
        self.evaluation_pace.restart()
        while start < size:
            if self.rundir.interruption.signum is not None:
                self._save_and_check()
            n = min(self.evaluation_pace.steps, -(-(size - start) // width))
            sums = self.program.evaluate(
                params, self.validation, sums, jnp.int32(start), jnp.int32(n)
            )
            jax.block_until_ready(sums)
            self.evaluation_pace.done(n)
            start += n * width
        return {name: v / size for name, v in jax.device_get(sums).items()}

    def _judge(self, result: Result, metrics: dict[str, float]) -> None:
        """Final and best metrics of a seed, and whether it has passed the threshold."""
        value, stop_at = metrics[self.task.metric], self.settings.stop_at
        sign = 1 if self.task.maximise else -1
        result.final, result.steps = metrics, self.step
        if result.best is None or sign * value > sign * result.best:
            result.best, result.best_step = value, self.step
        if stop_at is not None and sign * value > sign * stop_at:
            result.active, result.steps_to_threshold = False, self.step

    def summary(self) -> dict[str, Any]:
        """The outcome of every seed, as plain data."""
        metric = self.task.metric
        return {
            "metric": metric,
            "threshold": self.settings.stop_at,
            "steps": self.settings.steps,
            "training_seconds": time.monotonic() - self.start,
            "seeds": {
                str(seed): {
                    "final": r.final,
                    f"best_{metric}": r.best,
                    "best_step": r.best_step,
                    "steps": r.steps,
                    "steps_to_threshold": r.steps_to_threshold,
                    "failed_at": r.failed_at,
                    "failed_in": r.failed_in,
                }
                for seed, r in self.results.items()
            },
        }


class Pace:
    """How many steps to dispatch at once, so that a dispatch lasts about a second.

    The first dispatch is mostly compilation: it says nothing of the rate, which is 0 until known.
    """

    def __init__(self) -> None:
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
