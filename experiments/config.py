"""From a Hydra configuration to typed, validated objects: Hydra ends here.

Every node with a `_target_` is checked against the signature it will be called with: an unknown
key, a missing one, or a value of the wrong type is one `ConfigError` that names the key in full,
the value, and what is valid. Then it is built, and task, model and procedure are checked together,
all before any data is made or anything is compiled.
"""

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import hydra.utils
import jax
import jax.random as jr
import optax
from beartype.door import is_bearable
from beartype.roar import BeartypeException
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from jaxtyping import PRNGKeyArray
from omegaconf import MISSING, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.errors import ConfigError
from experiments.identity import cell_of
from experiments.loggers import AbstractLogger, RunInfo
from experiments.procedure import AbstractProcedure, MakeModel, Model
from ssm.init import count_parameters
from tasks.base import AbstractTask

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
PROCEDURES = ("train", "readout")


@dataclass
class RunConfig:
    """The keys of a run; groups are checked against their targets' signatures."""

    task: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    train: dict[str, Any] = MISSING
    readout: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    preset: str = "quick"
    procedure: str = "train"
    seeds: list[int] = field(default_factory=lambda: [0])
    published: str | None = None
    see_also: str | None = None


ConfigStore.instance().store("schema", RunConfig)


def _at(index: int, *values: Any) -> Any:
    """`${at:2,a,b,c}` is b: the value at a position counted from 1."""
    if not 1 <= index <= len(values):
        raise ConfigError(
            f"got {index}, but the experiment has settings for 1 to {len(values)} only"
        )
    return values[index - 1]


def _when(value: Any, wanted: Any, text: str) -> str:
    """`${when:value,wanted,text}` is the text if the value is the wanted one, else nothing."""
    return text if value == wanted else ""


def _part(fraction: float, steps: int) -> int:
    """`${part:0.01,steps}` is that fraction of the steps, rounded down."""
    return int(fraction * steps)


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


def compose_run(overrides: Sequence[str], directory: Path) -> Run:
    """The run of `python experiments/run.py *overrides`, without a process of its own."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("run", list(overrides), return_hydra_config=True)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return build(config, choices, directory)


def build(config: Any, choices: Mapping[str, str], directory: Path) -> Run:
    """The run a composed configuration describes.

    Arguments:
        config: an OmegaConf `DictConfig`, composed from `configs/run.yaml`.
        choices: the chosen option of each group, for names ("task", "model").
        directory: of the run's results.

    Raises:
        ConfigError: for anything that cannot run.
    """
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{key}: {error}".splitlines()[0] if key else str(error)) from error
    if plain["procedure"] not in PROCEDURES:
        raise ConfigError(
            f"procedure: got {plain['procedure']!r}; expected one of {list(PROCEDURES)}"
        )
    seeds = _check_seeds(plain["seeds"])
    task = _instantiate("task", plain["task"])
    procedure = _instantiate(plain["procedure"], plain[plain["procedure"]])
    optimizer = _instantiate("optimizer", plain["optimizer"])
    partial_model = _instantiate("model", plain["model"])

    def make_model(key: PRNGKeyArray) -> Model:
        return partial_model(
            vocabulary=task.vocabulary, channels=task.channels, n_outputs=task.n_outputs, key=key
        )

    model = _check_model(make_model, task, procedure, plain["model"])
    name = run_name(plain, choices)
    info = RunInfo(
        directory=directory,
        config=plain,
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
        _instantiate("logger", plain["logger"]),
        seeds,
        info,
        plain["preset"],
        plain["published"],
        plain["see_also"],
        count_parameters(model),
    )


def run_name(plain: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """What a run is called, without its seeds."""
    length, depth = plain["task"].get("length"), plain["model"].get("depth", 1)
    return f"{choices['model']}-{choices['task']}-length{length}-depth{depth}"


def _check_seeds(seeds: list[int]) -> tuple[int, ...]:
    valid = "a list of different integers from 0 to 2³²−1, such as [0,1,2]"
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= s < 2**32 for s in seeds):
        raise ConfigError(f"seeds: got {seeds}; expected {valid}")
    return tuple(seeds)


def _check_model(
    make_model: MakeModel, task: AbstractTask, procedure: AbstractProcedure, node: Mapping[str, Any]
) -> Any:
    """The model's shapes; builds and applies it abstractly, without computing anything."""
    key = jax.eval_shape(lambda: jr.key(0))
    try:
        model = eqx.filter_eval_shape(make_model, key)
        procedure.check(task, model)
        shape = (task.length,) if task.channels is None else (task.length, task.channels)
        dtype = "float32" if task.vocabulary is None else "int32"
        example = jax.ShapeDtypeStruct(shape, dtype)
        eqx.filter_eval_shape(lambda m, x, k: m(x, key=k), model, example, key)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(_located(str(error).splitlines()[0], node)) from error
    return model


def _located(message: str, node: Mapping[str, Any]) -> str:
    """A message that begins with an argument's name, with the full key of that argument."""
    name = message.split(":")[0].split(",")[0].split(" ")[0]
    if "." in name or name == "procedure":
        return message
    return f"model.mixer.{message}" if name in node.get("mixer", {}) else f"model.{message}"


def _instantiate(name: str, node: Mapping[str, Any]) -> Any:
    """Checks a node and everything below it, then builds it."""
    _check_node(name, node)
    try:
        return hydra.utils.instantiate(dict(node), _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, TypeError | ValueError | OSError):
            raise
        message = str(cause).splitlines()[0]
        separator = "." if message.split(":")[0].split(" ")[0] in node else ": "
        raise ConfigError(f"{name}{separator}{message}") from error


def _check_node(path: str, node: Any) -> None:
    """Checks the keys and values of a `_target_` node against the target's signature."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check_node(f"{path}[{index}]", item)
        return
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        _check_node(f"{path}.{key}", value)
    if "_target_" not in node:
        return
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:
        raise ConfigError(
            f"{path}._target_: got {node['_target_']!r}; expected an importable class or function"
        ) from error
    parameters = inspect.signature(target).parameters
    hints = _type_hints(target)
    given = {k: v for k, v in node.items() if not k.startswith("_")}
    for key, value in given.items():
        if key not in parameters:
            valid = ", ".join(p for p in parameters if p not in ("self", "key"))
            raise ConfigError(f"{path}.{key}: unknown key; {node['_target_']} takes {valid}")
        nested = isinstance(value, Mapping) and "_target_" in value
        if not nested and key in hints and not _fits(value, hints[key]):
            raise ConfigError(f"{path}.{key}: got {value!r}; expected {_describe(hints[key])}")
    missing = [
        k
        for k, p in parameters.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and k not in given
    ]
    if missing and not node.get("_partial_"):
        raise ConfigError(f"{path}: {node['_target_']} needs {', '.join(missing)}")


def _type_hints(target: Any) -> dict[str, Any]:
    """Annotations of a target's arguments, as far as they can be resolved."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        annotations = {k: p.annotation for k, p in inspect.signature(target).parameters.items()}
        return {k: a for k, a in annotations.items() if a is not inspect.Parameter.empty}


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    try:
        if is_bearable(value, hint):
            return not (isinstance(value, bool) and hint in (int, float))
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and is_bearable(float(value), hint)
    except BeartypeException:  # an annotation that cannot be checked
        return True


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
