"""Cells: what a number is about, by the names of the paper's tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Cell:
    """All that two runs share if their seeds belong together.

    Arguments:
        task: a group such as "A5"; "area" or "volume", as in Figure 1; else a name of the task.
        size: the length of a word problem, the dimension of a signature task.
        model: "linear_cde", "diagonal_cde", "mamba", "s4", "s5", "rnn", "transformer", …
        depth: number of blocks.
        nonlinear: in a signature task, whether the activation is other than the identity.
        width: of the model.
    """

    task: str
    size: int
    model: str
    depth: int
    nonlinear: bool
    width: int

    def __str__(self) -> str:
        kind = " nonlinear" if self.nonlinear else ""
        where = f"{self.task} {self.size}, depth {self.depth}{kind}, width {self.width}"
        return f"{self.model} on {where}"


def cell_in(config: Mapping[str, Any]) -> Cell:
    """The cell that a resolved configuration of this version is of.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is not a run's configuration.
    """
    task, model = config["task"], config["model"]
    if is_signature(task):
        name, size = _signature_name(task), task["dimension"]
    else:
        name, size = str(task.get("group", config["options"]["task"])), task.get("length", 0)
    return Cell(
        name,
        int(size),
        _model_name(config["options"]["model"], model["mixer"]),
        int(model.get("depth", 1)),
        nonlinear=is_signature(task) and model.get("activation", "identity") != "identity",
        width=int(model["d_model"]),
    )


def is_signature(task: Mapping[str, Any]) -> bool:
    """Whether a task's configuration is of a signature, which is measured by its RMSE."""
    return "word" in task


def _signature_name(task: Mapping[str, Any]) -> str:
    """Figure 1's name for its two problems; else the word, and the target."""
    word, named = tuple(task["word"]), {(2, (1, 2)): "area", (3, (1, 2, 3)): "volume"}
    name = named.get((task["dimension"], word), "signature " + ",".join(map(str, word)))
    return name if task["target"] == "coordinate" else f"{name}, {task['target']}"


def _model_name(option: str, mixer: Mapping[str, Any]) -> str:
    """The model that was chosen; a linear CDE by its structure, which is an option of its own."""
    if option in ("linear_cde", "diagonal_cde") and "structure" in mixer:
        return "linear_cde" if mixer["structure"] == "dense" else f"{mixer['structure']}_cde"
    return option
