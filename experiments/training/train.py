"""Gradient training of several seeds at once, as a procedure: its settings and their checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final, get_args

import optax

from experiments.errors import ConfigError
from experiments.loggers import AbstractLogger
from experiments.results import schema
from experiments.rundir import RunDirectory
from experiments.training.batches import steps_per_epoch
from experiments.training.loop import Loop
from experiments.training.procedure import AbstractProcedure, MakeModel, Model, load_data, on_device
from experiments.training.program import Program
from experiments.training.seeds import SeedAxis, over_seeds
from experiments.training.step import Mixing, Streams
from tasks.base import AbstractTask, Data, Split


@final
@dataclass(frozen=True)
class GradientDescent(AbstractProcedure):
    """Trains by a first-order optimiser, evaluating at a set interval, on all local devices.

    Seeds, and the examples of each batch, are divided among the devices
    (`experiments.training.devices`). If the number of devices per seed does not divide the batch
    size, each of them computes the whole batch, with the same result and no speed-up. The random
    numbers do not depend on the number of devices, and results agree up to the order of sums.

    Arguments:
        steps: most steps a seed takes.
        batch_size: examples of the main stream a step.
        mixing: how the auxiliary stream joins, see `experiments.training.step.make_step`.
        auxiliary_batch_size: its examples a step.
        evaluate_every: steps between evaluations on the whole validation split; step 0 and the last
            step are evaluated too.
        evaluate_batch_size: examples at a time in an evaluation.
        stop_at: a seed stops at the first evaluation whose primary metric is better than this.
        seed_axis: see `experiments.training.seeds.over_seeds`.
        checkpoint_seconds: between checkpoints, beside those at evaluations.

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
    checkpoint_seconds: int | float = 300

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "auxiliary_batch_size",
            "evaluate_every",
            "evaluate_batch_size",
        ):
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 1 to 2³¹−1")
        if not self.checkpoint_seconds > 0:
            raise ValueError(
                f"checkpoint_seconds: got {self.checkpoint_seconds}; expected a positive number"
            )
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

    def load(self, task: AbstractTask, make_model: MakeModel) -> Data:
        data = load_data(task)
        _check_batch("train.batch_size", self.batch_size, data.train)
        if self.mixing != "none":
            if data.auxiliary is None:
                raise ConfigError(
                    f"train.mixing: got {self.mixing!r}, but this task has no auxiliary stream; "
                    "expected 'none' (the word problem has one unless auxiliary_length is null)"
                )
            _check_batch("train.auxiliary_batch_size", self.auxiliary_batch_size, data.auxiliary)
        return data

    def check_saved(self, description: Mapping[str, Any]) -> None:
        said = schema.check(schema.Training, description["procedure"])
        steps = description["config"].get("train", {}).get("steps", self.steps)
        seeds = {str(seed) for seed in description["config"].get("seeds", said["results"])}
        if set(said["results"]) != seeds:
            raise ValueError(f"results: got {', '.join(said['results'])}; expected each seed's")
        step, evaluated = said["step"], said["evaluated"]
        if not evaluated <= step <= steps:
            raise ValueError(f"step: got {step}; expected {evaluated} to {steps}")

    def run(
        self,
        data: Data,
        task: AbstractTask,
        make_model: MakeModel,
        optimizer: optax.GradientTransformation,
        seeds: Sequence[int],
        logger: AbstractLogger,
        rundir: RunDirectory,
    ) -> Mapping[str, Any]:
        streams = self.streams(data)
        baselines = task.baselines(data)
        program = Program(self, task, make_model, optimizer, seeds)
        streams, validation = program.layout.replicate((streams, on_device(data.validation)))
        loop = Loop(self, task, program, seeds, logger, rundir, streams, validation)
        loop.run()
        loop.keep_models()
        return loop.summary() | {"baselines": baselines}

    def streams(self, data: Data) -> Streams:
        """The training data on the device."""
        auxiliary = None if self.mixing == "none" else data.auxiliary
        return Streams(
            on_device(data.train),
            None if auxiliary is None else on_device(auxiliary),
            self.batch_size,
            self.auxiliary_batch_size,
        )


def _check_batch(name: str, batch_size: int, split: Split) -> None:
    try:
        steps_per_epoch(len(split.inputs), batch_size)
    except ValueError as error:
        raise ConfigError(f"{name}{str(error).removeprefix('batch_size')}") from error
