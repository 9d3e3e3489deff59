"""Hydra's and OmegaConf's errors in one line that names the key, the value and what is valid."""

from collections.abc import Mapping

from omegaconf.errors import OmegaConfBaseException


def explain(error: Exception) -> str:
    """The message of an error about the command line, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith(("full_key", "object_")))
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
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
