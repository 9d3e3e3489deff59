"""Helpers: from command-line overrides to a built run, without a process of its own."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from experiments.config import Run, build
from experiments.loggers import MemoryLogger

CONFIGS = Path(__file__).parents[1] / "configs"


def compose_run(overrides: list[str], directory: Path) -> Run:
    """The run of `python experiments/run.py *overrides`."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("run", overrides, return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return build(config, choices, directory)


def execute(run: Run) -> tuple[MemoryLogger, dict]:
    """Runs it with a logger in memory; returns the logger and the summary."""
    logger = MemoryLogger()
    logger.open(run.info)
    summary = run.procedure.run(
        run.task, run.make_model, run.optimizer, run.seeds, logger, run.info.directory
    )
    return logger, dict(summary)


TINY_A5 = ["task=word_problem", "task.group=S3", "task.length=4", "task.samples=400"]
TINY_SIGNATURE = ["task=signature", "task.n_paths=120", "task.length=8"]
TINY_TRAIN = [
    "train.steps=2",
    "train.batch_size=4",
    "train.auxiliary_batch_size=4",
    "train.evaluate_every=1",
    "train.evaluate_batch_size=50",
]
