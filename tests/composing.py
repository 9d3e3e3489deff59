"""Helpers: small settings, and a built run executed with a logger in memory."""

from pathlib import Path

from experiments import config
from experiments.config import Run, compose_plain, compose_run
from experiments.loggers import LocalLogger, MemoryLogger
from experiments.rundir import RunDirectory

__all__ = [
    "CONFIGS",
    "TINY_A5",
    "TINY_SIGNATURE",
    "TINY_TRAIN",
    "compose_plain",
    "compose_run",
    "execute",
    "keep",
]

CONFIGS = Path(config.CONFIGS)


def execute(run: Run) -> tuple[MemoryLogger, dict]:
    """Runs it with a logger in memory; returns the logger and the summary."""
    logger = MemoryLogger()
    data = run.procedure.load(run.task, run.make_model)
    logger.open(run.info)
    with RunDirectory(run.info.directory, run.info.config) as rundir:
        summary = run.procedure.run(
            data, run.task, run.make_model, run.optimizer, run.seeds, logger, rundir
        )
    return logger, dict(summary)


def keep(run: Run) -> dict:
    """Runs it as the command does, leaving its files in its directory; returns the summary."""
    logger = LocalLogger()
    data = run.procedure.load(run.task, run.make_model)
    with RunDirectory(run.info.directory, run.info.config) as rundir:
        logger.open(run.info)
        summary = rundir.finish(
            run.procedure.run(
                data, run.task, run.make_model, run.optimizer, run.seeds, logger, rundir
            )
        )
        logger.finish(summary)
        logger.close()
    return summary


TINY_A5 = ["task=word_problem", "task.group=S3", "task.length=4", "task.samples=400"]
TINY_SIGNATURE = ["task=signature", "task.n_paths=120", "task.length=8"]
TINY_TRAIN = [
    "train.steps=2",
    "train.batch_size=4",
    "train.auxiliary_batch_size=4",
    "train.evaluate_every=1",
    "train.evaluate_batch_size=50",
]
