"""Configurations of earlier versions, as they are written now: kept results stay valid unedited.

A configuration says its `version`; one that says none is of version 1. Each step below tells what
one version wrote in the words of the next, and nothing else.

| version | what changed in it |
| --- | --- |
| 2 | a model without encoder and blocks is `ssm.model.MixerReadout` |
|   | S5 has its source's initial values, unless `log_real` and `real_normal` say otherwise |
|   | S4, S5 and Mamba name their scan, `form`, and the linear CDE its `dt` |
|   | the signature task's target `antisymmetric` is called `log_signature` |
| 3 | procedures and optimisers are below `experiments.training` |
|   | a run has the nodes of its procedure only: train and optimizer, or readout |
|   | `options` names the task and the model as they were chosen; before, classes told |
"""

import re
from collections.abc import Mapping
from typing import Any

VERSION = 3
"""Of the configurations written now."""


def migrated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration of any version, as one of this version.

    Raises:
        ValueError: if it is of a later version, or no run's configuration.
    """
    try:
        now = dict(config)
        version = now.get("version", 1)
        if type(version) is not int or not 1 <= version <= VERSION:
            raise ValueError(
                f"version: got {version!r}; expected 1 to {VERSION}, as this code knows"
            )
        for step in (_to_version_2, _to_version_3)[version - 1 :]:
            now = step(now)
        return now
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it has no {error}, which a run's has") from error


def _to_version_2(config: dict[str, Any]) -> dict[str, Any]:
    task, model = dict(config["task"]), dict(config["model"])
    if task.get("target") == "antisymmetric":
        task["target"] = "log_signature"
    mixer = dict(model["mixer"])
    name = str(mixer.get("_target_", "")).rpartition(".")[2]
    if name in ("S4", "S5", "Mamba"):
        mixer["form"] = "auto"
    if name == "S5":
        mixer |= {"log_real": True, "real_normal": True}
    if name == "LinearCDE":
        mixer["dt"] = "1/length"
        solver = dict(mixer.get("solver", {}))
        if solver.get("form") == "sequential":
            del solver["form"]
        mixer["solver"] = solver
    model["mixer"] = mixer
    encode, bare = model.pop("encode", True), model.pop("bare", False)
    if bare and not encode:
        model["_target_"] = "ssm.model.MixerReadout"
        model = {
            k: v for k, v in model.items() if k in ("_target_", "_partial_", "d_model", "mixer")
        }
    return config | {"version": 2, "task": task, "model": model}


MOVED = {
    "experiments.train.GradientDescent": "experiments.training.train.GradientDescent",
    "experiments.readout.LeastSquares": "experiments.training.readout.LeastSquares",
    "experiments.optimizer.clipped_adamw": "experiments.training.optimizer.clipped_adamw",
}
"""Targets of version 2, and what they are called now."""


def _to_version_3(config: dict[str, Any]) -> dict[str, Any]:
    moved = {
        name: {**node, "_target_": MOVED.get(node["_target_"], node["_target_"])}
        for name in ("train", "readout", "optimizer")
        if isinstance(node := config.get(name), Mapping) and "_target_" in node
    }
    options = {"task": _task_option(config["task"]), "model": _model_option(config["model"])}
    others = ("readout",) if config["procedure"] == "train" else ("train", "optimizer")
    now = config | moved | {"version": 3, "options": options}
    return {key: value for key, value in now.items() if key not in others}


def _task_option(task: Mapping[str, Any]) -> str:
    if "word" not in task:
        return "a5" if task.get("group") == "A5" else _snake(task["_target_"])
    named = {(2, (1, 2)): "area", (3, (1, 2, 3)): "volume"}
    return named.get((task["dimension"], tuple(task["word"])), "signature")


def _model_option(model: Mapping[str, Any]) -> str:
    mixer = model["mixer"]
    if "structure" in mixer:
        return "linear_cde" if mixer["structure"] == "dense" else f"{mixer['structure']}_cde"
    return _snake(mixer["_target_"]).removesuffix("_layer")


def _snake(target: str) -> str:
    """`ssm.mixers.TransformerLayer` is transformer_layer."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", target.rpartition(".")[2]).lower()
