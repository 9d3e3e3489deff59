"""From a Hydra configuration to typed, validated objects: Hydra ends here.

Every node with a `_target_` is checked against the signature it will be called with: an unknown
key, a missing one, a value of the wrong type, or a number that is not finite is one `ConfigError`
that names the key in full, the value, and what is valid. Then it is built, and task, model and
procedure are checked together, all before any data is made or anything is compiled.
"""

import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
from hydra.errors import HydraException
from jaxtyping import PRNGKeyArray
from omegaconf import MISSING, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from experiments.errors import ConfigError
from experiments.identity import cell_of
from experiments.loggers import AbstractLogger, RunInfo
from experiments.procedure import AbstractProcedure, MakeModel, Model
from experiments.usage import explain
from ssm.init import count_parameters
from tasks.base import AbstractTask

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
PROCEDURES = ("train", "readout")
GIVEN = {
    "model": ("vocabulary", "channels", "n_outputs", "key"),
    "model.mixer": ("d_model", "channels", "key"),
}
"""Arguments that the program gives to what a `_partial_` node makes, and a user may not."""
HYDRA_KEYS: dict[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": typing.Literal["none", "partial", "object", "all"],
    "_args_": list,
}


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
    """The run of `python experiments/run.py *overrides`, without a process of its own.

    Raises:
        ConfigError: for anything that cannot run.
    """
    try:
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            config = compose("run", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(explain(error, overrides)) from error
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
    plain = _resolved(config)
    _check_top(plain, choices)
    seeds = _check_seeds(plain["seeds"])
    task = _instantiate("task", plain["task"], AbstractTask)
    both = {name: _instantiate(name, plain[name], AbstractProcedure) for name in PROCEDURES}
    procedure = both[plain["procedure"]]
    _check_optimizer("optimizer", plain["optimizer"])
    optimizer = _instantiate("optimizer", plain["optimizer"], optax.GradientTransformation)
    partial_model = _instantiate("model", plain["model"], Callable)
    logger = _instantiate("logger", plain["logger"], AbstractLogger)

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
        logger,
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


def _resolved(config: Any) -> dict[str, Any]:
    """The configuration as plain data, without references."""
    try:
        return typing.cast(Any, OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "configuration")
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key}: got no value; expected one, as in {key}=…") from error
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", _first_line(error))
        reference = _below(OmegaConf.to_container(config, resolve=False), key)
        raise ConfigError(f"{key}: got {reference}, which fails: {reason}") from error


def _check_top(plain: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """Checks the keys of a run, and the choices that Hydra lets pass since they are optional."""
    known = [f.name for f in fields(RunConfig)]
    if unknown := [key for key in plain if key not in known]:
        raise ConfigError(f"{unknown[0]}: unknown key; a run has {', '.join(known)}")
    if missing := [key for key in known if key not in plain]:
        raise ConfigError(f"{missing[0]}: got no value; a run has {', '.join(known)}")
    if plain["procedure"] not in PROCEDURES:
        raise ConfigError(f"procedure: got {plain['procedure']!r}; expected 'train' or 'readout'")
    task, model = choices["task"], choices["model"]
    for group, usual in (("quick", task), ("quick/pair", f"{task}-{model}")):
        options = sorted(path.stem for path in Path(CONFIGS, group).glob("*.yaml"))
        if choices.get(group, usual) not in (usual, *options):
            raise ConfigError(
                f"{group}: got {choices[group]!r}; expected one of {', '.join(options)}"
            )


def _check_seeds(seeds: list[int]) -> tuple[int, ...]:
    whole = all(isinstance(s, int) and 0 <= s < 2**32 for s in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise ConfigError(
            f"seeds: got {seeds}; expected a list of different integers from 0 to 2³²−1, such as "
            "[0,1,2]"
        )
    return tuple(seeds)


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
        raise ConfigError(_located("model", error, node)) from error
    return model


def _located(path: str, error: BaseException, node: Any) -> str:
    """An error's first line, with the full keys of the arguments that it begins with.

    It is "name: got …", "name must be …", or "first, second: got …"; "mixer.name: …" is of a node
    below.
    """
    message = _first_line(error)
    match = re.match(r"((?:\w+\.)*)(\w+(?:, \w+)*)(?=: | must )", message)
    owner = _below(node, match[1].rstrip(".")) if match else None
    names = match[2].split(", ") if match else []
    if match is None or not isinstance(owner, Mapping) or not all(n in owner for n in names):
        return f"{path}: {message}"
    return ", ".join(f"{path}.{match[1]}{name}" for name in names) + message[match.end() :]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _below(node: Any, key: str) -> Any:
    """What plain data hold at a dotted key, or None."""
    for part in filter(None, key.split(".")):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _instantiate(path: str, node: Any, kind: Any) -> Any:
    """Checks a node and everything below it, then builds it: an object of some kind."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path}: got {node!r}; expected an option of this group")
    _check_node(path, node)
    try:
        built = hydra.utils.instantiate(dict(node), _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, TypeError | ValueError | OSError | HydraException):
            raise cause from None  # a fault of the program, not of what was given
        inner = re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE)
        below, where = (_below(node, inner[1]), f"{path}.{inner[1]}") if inner else (node, path)
        raise ConfigError(_located(where, cause, below)) from error
    if not isinstance(built, kind):
        raise ConfigError(
            f"{path}._target_: got {node['_target_']!r}; expected what makes an {kind.__name__}"
        )
    return built


def _check_node(path: str, node: Any) -> None:
    """Checks what is in a node against the signatures of its target and of those below it."""
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{path}: got {node}; expected a finite number")
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check_node(f"{path}[{index}]", item)
    if isinstance(node, Mapping):
        for key, value in node.items():
            _check_node(f"{path}.{key}", value)
        if "_target_" in node:
            _check_call(path, node)


def _check_call(path: str, node: Mapping[str, Any]) -> None:
    """Checks one node's keys and values against its target's signature."""
    target = _target(path, node["_target_"])
    parameters, hints = inspect.signature(target).parameters, _type_hints(target)
    named = {
        k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    takes = [name for name in named if name not in GIVEN.get(path, ())]
    for key, value in node.items():
        hint = HYDRA_KEYS.get(key, hints.get(key, Any))
        if key not in takes and key not in HYDRA_KEYS:
            valid = ", ".join(takes) or "no arguments"
            raise ConfigError(f"{path}.{key}: unknown key; {node['_target_']} takes {valid}")
        if wrong := _misfit(value, hint):
            where, part = wrong
            raise ConfigError(f"{path}.{key}{where}: got {part!r}; expected {_describe(hint)}")
    partial = node.get("_partial_", False)
    if path in GIVEN and not partial:
        raise ConfigError(f"{path}._partial_: got {partial}; expected True")
    missing = [k for k in takes if named[k].default is inspect.Parameter.empty and k not in node]
    if missing and "_args_" not in node and (path in GIVEN or not partial):
        raise ConfigError(f"{path}: {node['_target_']} needs {', '.join(missing)}")


def _target(path: str, name: Any) -> Any:
    """The class or function called `name`."""
    try:
        target = pkgutil.resolve_name(name)
        inspect.signature(target)
    except Exception as error:  # importing a module can fail in any way
        raise ConfigError(
            f"{path}._target_: got {name!r}; expected an importable class or function "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error
    if inspect.isabstract(target):
        raise ConfigError(f"{path}._target_: got {name!r}; expected a class that is not abstract")
    return target


def _type_hints(target: Any) -> dict[str, Any]:
    """Annotations of a target's arguments, as far as they can be resolved."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        annotations = {k: p.annotation for k, p in inspect.signature(target).parameters.items()}
        return {k: a for k, a in annotations.items() if a is not inspect.Parameter.empty}


def _misfit(value: Any, hint: Any) -> tuple[str, Any] | None:
    """Where in a value, and what there, is not of a type; None if all is."""
    if not value or not _fits(type(value)(), hint):
        return None if _fits(value, hint) else ("", value)
    if isinstance(value, list):  # beartype looks at one item only, by chance
        wrong = [(f"[{i}]", item) for i, item in enumerate(value) if not _fits([item], hint)]
    elif isinstance(value, Mapping) and "_target_" not in value:
        wrong = [(f".{k}", item) for k, item in value.items() if not _fits({k: item}, hint)]
    else:
        wrong = [] if _fits(value, hint) else [("", value)]
    return wrong[0] if wrong else None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; an integer may be a real number, a boolean is no number."""
    try:
        value = _stand_in(value)
        if isinstance(value, bool):
            return is_bearable(value, hint) and bool in _members(hint)
        real = float(value) if isinstance(value, int) else value
        return is_bearable(value, hint) or is_bearable(real, hint)
    except OverflowError:
        return False
    except (BeartypeException, _UnknownType):
        return True


class _UnknownType(Exception):
    """What a node makes is not known before it is called."""


def _stand_in(value: Any) -> Any:
    """The value with an empty object in place of each node, of the type of what the node makes."""
    if isinstance(value, list):
        return [_stand_in(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {key: _stand_in(item) for key, item in value.items()}
    if value.get("_partial_"):
        return _stand_in  # a function, as it makes one
    target = pkgutil.resolve_name(value["_target_"])
    if not inspect.isclass(target) or issubclass(target, tuple):
        raise _UnknownType
    return object.__new__(target)


def _members(hint: Any) -> set[Any]:
    """The types of a union; `bool` stands for anything."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return {t for member in typing.get_args(hint) for t in _members(member)}
    return {bool} if hint in (Any, object) else {hint}


def _describe(hint: Any) -> str:
    """A type in words: "int or null", "one of 'core', 'full'"."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(dict.fromkeys(map(_describe, typing.get_args(hint))))
    if hint is type(None):
        return "null"
    plain = isinstance(hint, type) and typing.get_origin(hint) is None
    return hint.__name__ if plain else re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))
