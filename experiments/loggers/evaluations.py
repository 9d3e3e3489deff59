"""Later evaluations of a run, in the summaries of its W&B runs: never a failure of either."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.loggers.wandb import WandbLogger
from experiments.results.files import IDS, read_json

_log = logging.getLogger(__name__)


def log_evaluations(
    directory: Path, config: Mapping[str, Any], values: Mapping[int, Mapping[str, float]]
) -> None:
    """Adds numbers to the summaries of a run's W&B runs, if it has any and W&B can be reached.

    Arguments:
        directory: of the run, whose `wandb_ids.json` names its W&B runs.
        config: of the run, whose logger says where they are.
        values: by seed, the numbers and what they are called.
    """
    if not (directory / IDS).exists():
        return
    node = _find(config.get("logger"))
    if node is None:
        return
    try:
        ids = read_json(directory / IDS)
        where: dict[str, Any] = {key: node.get(key) for key in ("project", "entity", "mode", "dir")}
        if hidden := [key for key, value in where.items() if "${" in str(value)]:
            raise ValueError(
                f"logger.…{hidden[0]}: got {where[hidden[0]]}, which is not known here"
            )
        WandbLogger(**where).amend(directory, {s: ids[str(s)] for s in values}, values)
    except Exception as error:
        _log.warning("Weights & Biases has no evaluation (%s: %s).", type(error).__name__, error)


def _find(node: Any) -> Mapping[str, Any] | None:
    """The W&B logger in a logger's configuration, if there is one."""
    if not isinstance(node, Mapping):
        return None
    if str(node.get("_target_", "")).rpartition(".")[2] == WandbLogger.__name__:
        return node
    return next(filter(None, map(_find, node.values())), None)
