"""Loggers: where a run's numbers go.

A training loop opens one logger, hands it records as plain Python numbers, and closes it in a
`finally`:

    run = RunInfo(directory, config, group="figure2", name="lcde-a5", tags=(), seeds=(0, 1))
    try:
        logger.open(run)
        logger.log([Record(step, seed, "val", "accuracy", 0.97, seconds)])
        logger.status(step=step, total_steps=total, steps_per_second=80.0, loss=0.1)
        logger.finish({"seeds": {"0": {"accuracy": 0.97}}})
    finally:
        logger.close()

`LocalLogger` is the record of truth; the others are views of the same numbers.
"""

from experiments.loggers.base import AbstractLogger, RunInfo
from experiments.loggers.composite import CompositeLogger
from experiments.loggers.local import LocalLogger
from experiments.loggers.memory import MemoryLogger
from experiments.loggers.progress import ProgressLogger
from experiments.loggers.wandb import WandbLogger
from experiments.results.files import Record, read_metrics

__all__ = [
    "AbstractLogger",
    "CompositeLogger",
    "LocalLogger",
    "MemoryLogger",
    "ProgressLogger",
    "Record",
    "RunInfo",
    "WandbLogger",
    "read_metrics",
]
