"""From a Hydra configuration to typed, validated objects: Hydra ends here.

Every node is checked and built (`experiments.nodes`), and task, model and procedure are checked
together, all before any data is made or anything is compiled.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from jaxtyping import PRNGKeyArray
from omegaconf import MISSING, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from omegaconf.resolvers import oc

from experiments.errors import ConfigError
from experiments.loggers import AbstractLogger, RunInfo
from experiments.nodes import below, first_line, instantiate, located
from experiments.places import CONFIGS, PUBLISHED
from experiments.results.identity import UNRELATED, cell_of
from experiments.results.migration import VERSION
from experiments.results.published import published
from experiments.training.procedure import AbstractProcedure, MakeModel, Model
from experiments.trust import check_resolved, check_targets
from experiments.usage import explain
from ssm.init import count_parameters
from tasks.base import AbstractTask

PROCEDURES = {"train": ("train", "optimizer"), "readout": ("readout",)}
"""The nodes that each procedure has; a run has no others of them."""


@dataclass
class RunConfig:
    """The keys of a run; groups are checked against their targets' signatures."""

    task: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    train: dict[str, Any] = MISSING
    readout: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    version: int = VERSION
    preset: str = "quick"
    procedure: str = "train"
    seeds: list[int] = field(default_factory=lambda: [0])
    published: str | None = None
    see_also: str | None = None


ConfigStore.instance().store("schema", RunConfig)


def _at(index: Any, *values: Any) -> Any:
    """`${at:2,a,b,c}` is b: the value at a position counted from 1."""
    if type(index) is not int:
        return values[0]  # an error where the number is given
    if not 1 <= index <= len(values):
        raise ConfigError(
            f"got {index}, but the experiment has settings for 1 to {len(values)} only"
        )
    return values[index - 1]


def _when(value: Any, wanted: Any, text: str) -> str:
    """`${when:value,wanted,text}` is the text if the value is the wanted one, else nothing."""
    return text if value == wanted else ""


def _part(fraction: float, steps: Any) -> int:
    """`${part:0.01,steps}` is that fraction of the steps, rounded down."""
    return int(fraction * steps) if type(steps) is int else 0  # an error where steps are given


ABSENT = "<absent>"
"""What a key resolves to that a later file takes back: `${absent:}`."""

OmegaConf.register_new_resolver("absent", lambda: ABSENT, replace=True)
OmegaConf.register_new_resolver("part", _part, replace=True)
OmegaConf.register_new_resolver("at", _at, replace=True)
OmegaConf.register_new_resolver("when", _when, replace=True)


@dataclass(frozen=True)
class Run:
    """Everything a run needs, built and checked."""

    task: AbstractTask
    make_model: MakeModel
    procedure: AbstractProcedure
    optimizer: optax.GradientTransformation
    logger: AbstractLogger
    seeds: tuple[int, ...]
    info: RunInfo
    preset: str
    published: str | None
    see_also: str | None
    parameters: int
    with_steps: Callable[[int], dict[str, Any]]


def compose_run(overrides: Sequence[str], directory: Path) -> Run:
    """The run of `python experiments/run.py *overrides`, without a process of its own.

    Raises:
        ConfigError: for anything that cannot run.
    """
    return build(*_compose(overrides), directory)


def compose_plain(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of the same, without a look at what it describes.

    Raises:
        ConfigError: if it cannot be composed or resolved.
    """
    config, choices = _compose(overrides)
    return _resolved(config) | {"options": _options(choices)}


def _compose(overrides: Sequence[str]) -> tuple[Any, Mapping[str, str]]:
    """The configuration, and the chosen option of each group."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("run", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(explain(error, overrides)) from error
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, choices


def build(config: Any, choices: Mapping[str, str], directory: Path) -> Run:
    """The run a composed configuration describes.

    Arguments:
        config: an OmegaConf `DictConfig`, composed from `configs/run.yaml`.
        choices: the chosen option of each group, for names ("task", "model").
        directory: of the run's results.

    Raises:
        ConfigError: for anything that cannot run.
    """
    plain = _resolved(config)
    _check_top(plain, choices)
    check_targets("", plain)
    check_resolved("", plain)
    plain["options"] = _options(choices)
    seeds = _check_seeds(plain["seeds"])
    _check_published(plain["published"])
    task = instantiate("task", plain["task"], AbstractTask)
    procedure = instantiate(plain["procedure"], plain[plain["procedure"]], AbstractProcedure)
    optimizer = optax.identity()
    if "optimizer" in plain:
        _check_optimizer("optimizer", plain["optimizer"])
        optimizer = instantiate("optimizer", plain["optimizer"], optax.GradientTransformation)
    make_model = model_maker(plain["model"], task)
    logger = instantiate("logger", plain["logger"], AbstractLogger)
    model = _check_model(make_model, task, procedure, plain["model"])
    name = run_name(plain, choices)
    info = RunInfo(
        directory=directory,
        config=_without_secrets(config, plain),
        group=f"{plain['preset']}: {name} {cell_of(plain)}",
        name=name,
        tags=(choices["task"], choices["model"], plain["preset"]),
        seeds=seeds,
        job_type=plain["procedure"],
        metric=task.metric,
    )
    return Run(
        task,
        make_model,
        procedure,
        optimizer,
        logger,
        seeds,
        info,
        plain["preset"],
        plain["published"] or None,
        plain["see_also"],
        count_parameters(model),
        lambda steps: _with_steps(config, steps) | {"options": plain["options"]},
    )


def model_maker(node: Any, task: AbstractTask) -> MakeModel:
    """What makes the model of a node for a task, from a key.

    Raises:
        ConfigError: if the node is none of a model.
    """
    partial_model = instantiate("model", node, Callable)

    def make_model(key: PRNGKeyArray) -> Model:
        return partial_model(
            vocabulary=task.vocabulary, channels=task.channels, n_outputs=task.n_outputs, key=key
        )

    return make_model


def _with_steps(config: Any, steps: int) -> dict[str, Any]:
    """The same configuration for another number of steps, and what follows from it."""
    other = copy.deepcopy(config)
    OmegaConf.update(other, "train.steps", steps)
    return _resolved(other)


def _options(choices: Mapping[str, str]) -> dict[str, str]:
    """The names under which results are compared."""
    return {group: choices[group] for group in ("task", "model")}


def run_name(plain: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """What a run is called, without its seeds."""
    length, depth = plain["task"].get("length"), plain["model"].get("depth", 1)
    return f"{choices['model']}-{choices['task']}-length{length}-depth{depth}"


def _resolved(config: Any) -> dict[str, Any]:
    """The configuration as plain data, without references, absent keys, and what is not used."""
    try:
        return owned(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "configuration")
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key}: got no value; expected one, as in {key}=…") from error
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line(error))
        reference = below(OmegaConf.to_container(config, resolve=False), key)
        raise ConfigError(f"{key}: got {reference}, which fails: {reason}") from error


def _without_secrets(config: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """The configuration as it is written down: environment variables by name, not by value, in
    what computes nothing. What is computed is written as it is, for it is the run's identity."""

    def by_name(name: str, default: Any = None) -> str:
        return f"${{oc.env:{name}}}"

    OmegaConf.register_new_resolver("oc.env", by_name, replace=True)
    try:
        shown = _resolved(config)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    return plain | {key: shown[key] for key in UNRELATED if key in shown}


def owned(plain: Any) -> dict[str, Any]:
    """A configuration with the nodes of its procedure only, and without keys that are absent."""
    others = unused_nodes(plain.get("procedure"))
    return {key: _present(value) for key, value in plain.items() if key not in others}


def unused_nodes(procedure: Any) -> list[str]:
    """The nodes of the other procedures."""
    used = PROCEDURES.get(procedure, sum(PROCEDURES.values(), ()))
    return [node for nodes in PROCEDURES.values() for node in nodes if node not in used]


def _present(node: Any) -> Any:
    """The same data without the keys that are absent."""
    if not isinstance(node, dict):
        return node
    return {key: _present(value) for key, value in node.items() if value != ABSENT}


def _check_top(plain: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """Checks the keys of a run, and the choices that Hydra does not."""
    known = [f.name for f in fields(RunConfig)]
    if unknown := [key for key in plain if key not in known]:
        raise ConfigError(f"{unknown[0]}: unknown key; a run has {', '.join(known)}")
    if missing := [key for key in owned({**dict.fromkeys(known), **plain}) if key not in plain]:
        raise ConfigError(f"{missing[0]}: got no value; a run has {', '.join(known)}")
    if plain["version"] != VERSION:
        raise ConfigError(f"version: got {plain['version']!r}; expected {VERSION}, this code's")
    if plain["procedure"] not in PROCEDURES:
        raise ConfigError(f"procedure: got {plain['procedure']!r}; expected 'train' or 'readout'")
    task, model = choices.get("task"), choices.get("model")
    if not (isinstance(task, str) and isinstance(model, str)):
        raise ConfigError(f"task, model: got {task}, {model}; expected one option of each group")
    pair, usual = choices.get("quick/pair"), f"{choices.get('quick')}-{model}"
    options = sorted(path.stem for path in Path(CONFIGS, "quick/pair").glob("*.yaml"))
    if pair not in (None, usual, *options):  # Hydra lets it pass, since it is optional
        raise ConfigError(f"quick/pair: got {pair!r}; expected one of {', '.join(options)}")


def _check_seeds(seeds: list[int]) -> tuple[int, ...]:
    whole = all(isinstance(s, int) and 0 <= s < 2**32 for s in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise ConfigError(
            f"seeds: got {seeds}; expected a list of different integers from 0 to 2³²−1, such as "
            "[0,1,2]"
        )
    return tuple(seeds)


def _check_published(reference: str | None) -> None:
    """Fails before the training that the result would be compared after."""
    try:
        if reference:
            published(reference)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"published: got {reference!r}; expected figure1/… or figure2/…, a row of "
            f"{PUBLISHED}/figure1.csv or figure2.csv ({first_line(error)})"
        ) from error


def _check_optimizer(path: str, node: Any) -> None:
    """Checks the ranges of the numbers that Optax takes as they come."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key in ("learning_rate", "peak_value", "eps"):
            low, valid = math.ulp(0.0), "a number above 0"
        elif key in ("init_value", "end_value", "weight_decay"):
            low, valid = 0.0, "a number of at least 0"
        elif key in ("b1", "b2", "momentum"):
            low, valid = 0.0, "a number of at least 0 and below 1"
        else:
            low, valid = -math.inf, ""
        high = 1.0 if "below 1" in valid else math.inf
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if valid and not isinstance(value, Mapping | None) and not (number and low <= value < high):
            raise ConfigError(f"{path}.{key}: got {value!r}; expected {valid}")
        _check_optimizer(f"{path}.{key}", value)


def _check_model(
    make_model: MakeModel, task: AbstractTask, procedure: AbstractProcedure, node: Mapping[str, Any]
) -> Any:
    """The model's shapes; builds and applies it abstractly, without computing anything."""
    key = jax.eval_shape(lambda: jr.key(0))
    shape = (task.length,) if task.channels is None else (task.length, task.channels)
    dtype = "float32" if task.vocabulary is None else "int32"
    example = jax.ShapeDtypeStruct(shape, dtype)
    try:
        model = eqx.filter_eval_shape(make_model, key)
        if not isinstance(model, Model):
            raise ConfigError(f"model._target_: got {node['_target_']!r}, which makes no model")
        try:
            procedure.check(task, model)
        except ValueError as error:  # it gives full keys
            raise ConfigError(str(error)) from error
        eqx.filter_eval_shape(lambda m, x, k: m(x, key=k), model, example, key)
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise ConfigError(located("model", error, node)) from error
    return model
