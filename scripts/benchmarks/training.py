"""The training loop: what it adds to its steps, compilation, seeds, and mixed precision."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from benchmarks.harness import Options, Row, on_gpu, rows, time_in_turn
from experiments.config import Run, compose_run
from experiments.loggers import MemoryLogger
from experiments.rundir import RunDirectory
from experiments.training.batches import Examples
from experiments.training.loop import SECONDS_PER_DISPATCH, Loop
from experiments.training.procedure import on_device
from experiments.training.program import Program
from experiments.training.step import Streams
from experiments.training.train import GradientDescent

PAPER = [
    "figure1/linear_cde", "figure1/s4", "figure1/s5", "figure1/mamba",
    "figure2/linear_cde", "figure2/rnn", "figure2/s4", "figure2/mamba", "figure2/transformer",
]  # fmt: skip

SMALL_DATA = ["task.length=4", "task.samples=20000"]
"""A5 data that are quick to make; the sizes of a step are the paper's."""


def build_run(overrides: Sequence[str], seeds: Sequence[int]) -> Run:
    """The run of a command line, which writes nothing."""
    return compose_run([*overrides, f"seeds={list(seeds)}"], Path("unused"))


@dataclass
class Training:
    """A run's compiled functions and its state."""

    model: Any
    program: Any
    progress: Any
    streams: Any

    def advance(self, n: int) -> Any:
        """n more steps."""
        steps = jax.numpy.full(len(self.program.seeds), n, jax.numpy.int32)
        self.progress, _ = self.program.advance(self.progress, self.streams, steps)
        return self.progress


def program_of(overrides: Sequence[str], seeds: Sequence[int]) -> Training:
    """The training of a command line, on little data."""
    small = [] if any("figure1" in o or "task=area" in o for o in overrides) else SMALL_DATA[1:]
    run = build_run([*overrides, *small], seeds)
    procedure = run.procedure
    assert isinstance(procedure, GradientDescent)
    program = Program(procedure, run.task, run.make_model, run.optimizer, run.seeds)
    streams = procedure.streams(run.task.load())
    return Training(run.make_model(jax.random.key(0)), program, program.init(streams), streams)


def loop(options: Options) -> list[Row]:
    """The host's time a dispatch, from a run whose steps cost nothing; and the device's memory."""
    overrides = ["task=a5", "model=rnn", "model.d_model=4", *SMALL_DATA, "train.batch_size=1"]
    run = build_run([*overrides, "train.auxiliary_batch_size=1", "train.steps=1000000"], [0])
    procedure = run.procedure
    assert isinstance(procedure, GradientDescent)
    data = run.task.load()
    program: Any = Program(procedure, run.task, run.make_model, run.optimizer, run.seeds)
    logger = MemoryLogger()
    logger.open(run.info)
    streams, validation = procedure.streams(data), on_device(data.validation)
    count, memory = [0], []

    def counted(progress: Any, streams: Any, n: Any) -> Any:
        count[0] += 1
        if count[0] % 500 == 1:
            memory.append(sum(a.nbytes for a in jax.live_arrays()))
        if count[0] == 2001:
            raise StopIteration
        return advance(progress, streams, jax.numpy.minimum(n, 1))

    advance, program.advance = program.advance, counted
    with tempfile.TemporaryDirectory() as directory, RunDirectory(Path(directory), {}) as rundir:
        training = Loop(
            procedure, run.task, program, run.seeds, logger, rundir, streams, validation
        )
        training.pace.done = lambda n: None  # type: ignore[method-assign]
        training._evaluate = lambda: setattr(training, "evaluated", training.step)  # type: ignore[method-assign]
        advance(program.init(streams), streams, jax.numpy.ones(1, jax.numpy.int32))
        start = time.perf_counter()
        with contextlib.suppress(StopIteration):
            training.run()
    milliseconds = 1e3 * (time.perf_counter() - start) / 2000
    return [
        {
            "benchmark": "loop",
            "case": "2,000 dispatches of a step that costs next to nothing",
            "form": "host and device, a dispatch",
            "milliseconds": milliseconds,
            "share of a dispatch": milliseconds / 1e3 / SECONDS_PER_DISPATCH,
            "device kB after 500": memory[1] / 1e3,
            "after 2,000": memory[-1] / 1e3,
        }
    ]


def compilation(options: Options) -> list[Row]:
    """Seconds to compile every program of each experiment of the paper, one seed."""
    found: list[Row] = []
    for name in PAPER:
        depth = [] if name.endswith("linear_cde") else ["model.depth=4"]
        run = build_run([f"+experiment={name}", *depth], [0])
        start = time.perf_counter()
        for function in _programs(run):
            function()
        found.append(
            {
                "benchmark": "compilation",
                "case": "every program of an experiment, depth 4 where it has depths",
                "form": name,
                "seconds": time.perf_counter() - start,
            }
        )
    return found


def _programs(run: Run) -> list[Callable[[], Any]]:
    """What a run compiles, lowered from shapes alone."""
    procedure: Any = run.procedure
    task = run.task
    shape = (task.length,) if task.channels is None else (task.length, task.channels)
    dtype = "float32" if task.vocabulary is None else "uint8"
    if not isinstance(procedure, GradientDescent):
        batch = jax.ShapeDtypeStruct((procedure.batch_size, *shape), dtype)
        inputs = np.broadcast_to(np.zeros((), dtype), (10_000, *shape))
        shapes = eqx.filter(eqx.filter_eval_shape(run.make_model, jax.random.key(0)), _is_shape)
        compute = procedure._compile(run.make_model, inputs)
        return [lambda: compute.lower(shapes, batch).compile()]
    program: Any = Program(procedure, task, run.make_model, run.optimizer, run.seeds)
    target = shape if task.per_position else (1,)
    target_dtype = "float32" if task.vocabulary is None else "uint8"

    def examples(n: int, length: int | None = None) -> Any:
        inputs = shape if length is None else (length, *shape[1:])
        outputs = target if length is None or not task.per_position else (length,)
        arrays: Any = (
            jax.ShapeDtypeStruct((n, *inputs), dtype),
            jax.ShapeDtypeStruct((n, *outputs), target_dtype),
        )
        return Examples(*arrays)

    auxiliary = examples(3600, 2) if procedure.mixing != "none" else None
    streams = Streams(
        examples(800_000), auxiliary, procedure.batch_size, procedure.auxiliary_batch_size
    )
    progress = jax.eval_shape(program.init, streams)
    params, validation = progress.state.params, examples(200_000)
    steps, n = jax.ShapeDtypeStruct((len(run.seeds),), "int32"), jax.ShapeDtypeStruct((), "int32")
    sums = jax.eval_shape(lambda: program.zeros(params, validation))
    seeds = program.seeds
    return [
        lambda: program._init.lower(seeds, streams).compile(),
        lambda: program._advance.lower(progress, streams, seeds, steps).compile(),
        lambda: program.evaluate.lower(params, validation, sums, n, n).compile(),
    ]


def _is_shape(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def seeds(options: Options) -> list[Row]:
    """Five seeds in one program beside one, at the paper's A5 sizes."""
    found: list[Row] = []
    names, steps = (
        (("linear_cde", "rnn", "s4", "mamba"), 200) if on_gpu() else (("linear_cde", "rnn"), 2)
    )
    for name in names:
        overrides = [f"+experiment=figure2/{name}", "task.length=12"]
        runs = {f"{n} seed{'s' if n > 1 else ''}": program_of(overrides, range(n)) for n in (1, 5)}
        seconds = time_in_turn(
            {k: partial(p.advance, steps) for k, p in runs.items()}, options.repeats
        )
        extra = {k: {"times one seed": s / seconds["1 seed"]} for k, s in seconds.items()}
        found += rows("seeds", f"{name}, length 12, {steps} steps", seconds, "1 seed", extra)
    return found


def precision(options: Options) -> list[Row]:
    """A training step with dense layers in bfloat16 beside float32, at the paper's A5 size."""
    overrides = ["+experiment=figure2/mamba", "task.length=12"]
    runs = {
        name: program_of([*overrides, f"model.products={name}"], [0])
        for name in ("float32", "bfloat16")
    }
    seconds = time_in_turn({k: partial(p.advance, 1) for k, p in runs.items()}, options.repeats)
    return rows("precision", "mamba, length 12, one step", seconds, "float32")
