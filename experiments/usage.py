"""Hydra's and OmegaConf's errors in one line that names the key, the value and what is valid."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from experiments.places import CONFIGS


def explain(error: Exception, arguments: Sequence[str] = ()) -> str:
    """The message of an error about the command line, in one line.

    Arguments:
        arguments: of the command line, where the error does not say which it is about.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        reason = _in_one_line(error).partition(" See https:")[0]
        key, _, value = error.override.partition("=")
        if (
            key
            and re.search(r"[=:, (){}\[\]]", value)
            and not value.startswith(("$", "'", '"', "[", "{"))
        ):
            return (
                f"{error.override}: {reason}; expected the value in quotes, and these in quotes "
                f"for the shell, as in \"{key}='{value}'\""
            )
        return f"{error.override}: {reason}; expected key=value, as in task.length=4 or seeds=[0,1]"
    text = _in_one_line(error)
    if match := re.search(r"Ambiguous value for argument '([^=]*)=(.*?)' 1\.", text):
        key, value = match.groups()
        return f"{key}: got {value}; expected one value, a list as [{value}], or a sweep (-m)"
    if nameless := [a for a in arguments if a.startswith("=")]:
        return f"{nameless[0]}: no key; expected key=value, as in task.length=4"
    unreadable = "Error resolving interpolation", "Config group override"
    if isinstance(error, TypeError) or any(part in text for part in unreadable):
        wrong = [a for a in arguments if _chooses_nothing(a)]
        return f"{' '.join(wrong)}: expected one option of the group, as in model=mamba"
    return _with_valid_keys(error, text)


def check_flags(arguments: Sequence[str]) -> str | None:
    """What is wrong with the command's flags, in one line, or None."""
    unknown = get_args_parser().parse_known_args(list(arguments))[1]
    if unknown and not unknown[0].startswith("-"):
        return f"{unknown[0]}: expected all settings together, after the flags (-m comes first)"
    return f"{unknown[0]}: unknown flag; --help lists those there are" if unknown else None


def _missing_option(error: MissingConfigException) -> str:
    """Of a group: what was asked for, and what there is."""
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if not group:
        configs = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        return f"--config-name: got {option!r}; expected {configs}"
    folder = Path(CONFIGS, group.partition("/")[0])
    if group.startswith("experiment"):
        option = str(error.missing_cfg_file).partition("/")[2]
        group = "experiment"
        options = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    else:
        options = list(error.options or [])
    return f"{group}: got {option!r}; expected one of {', '.join(options)}"


def _chooses_nothing(argument: str) -> bool:
    """Whether an override is of a group of configurations, and its value cannot be an option."""
    key, _, value = argument.partition("=")
    group = key.lstrip("~+").partition("@")[0]
    folder = Path(CONFIGS, group)
    return folder.is_dir() and not (folder / f"{value}.yaml").is_file()


def _with_valid_keys(error: Exception, text: str) -> str:
    """With the key in full, and the keys that there are if it is none of them."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if "is not a ListConfig" in str(cause):
        name, _, value = text.removeprefix("Error merging override ").split()[0].partition("=")
        return (
            f"{name}: got {value}; expected a list, as in {name}=[{value}]; a sweep (-m) has "
            f"{name}=[0],[1] for two runs, {name}=[0,1] for one of both"
        )
    if isinstance(cause, OmegaConfBaseException):
        if cause is not error:
            text = f"{text} {str(cause).splitlines()[0]}"
        key = getattr(cause, "full_key", None)
        if key and key not in text:
            text = f"{key}: {text}"
        parent = getattr(cause, "parent_node", None)
        if "not in" in text and isinstance(parent, Mapping):
            text = f"{text.rstrip('.')}; valid are {', '.join(map(str, parent))}"
    return text


def _in_one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_")))
