"""What the W&B logger asks of the wandb package, which is imported here only when needed."""

import json
import logging
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results.files import IDS, read_json, replace

INIT_SECONDS = 30.0
FINISH_SECONDS = 30.0
RETRY_SECONDS = 10.0

RUN_ID = re.compile(r"[^\s/\\#?%:]{1,128}")

_log = logging.getLogger(__name__)


def load_settings() -> Any:
    """wandb's own settings; blanks around the key, for which it would refuse them, are removed."""
    import wandb

    if key := os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_API_KEY"] = key.strip()
    return wandb.setup(settings=wandb.Settings(silent=True)).settings


def make_settings(*, system_metrics: bool) -> Any:
    """The settings of a run, as far as this version of wandb has them."""
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "finish_timeout_raises": True,
        "x_transaction_log_flush_interval": 1.0,
        "x_file_stream_retry_wait_max_seconds": RETRY_SECONDS,  # less than the wait at the end
        "x_disable_stats": not system_metrics,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def log_files(run: Any, name: str, files: Sequence[Path]) -> Any:
    """Logs files as one artifact of a run, without copying them; returns it, or None."""
    if not files:
        return None
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="run-record")
    for path in files:
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
    run.log_artifact(artifact)
    return artifact


def agents_run() -> str | None:
    """The id of the run that `wandb agent` made for this process; None elsewhere, or if taken."""
    settings = load_settings()
    return settings.run_id if settings.sweep_id else None


def leave_sweep() -> None:
    """Keeps further runs of this process out of the sweep: wandb would give all the same id."""
    import wandb

    settings = wandb.setup().settings
    settings.sweep_id = settings.sweep_param_path = settings.run_id = None


def read_or_make_ids(directory: Path, seeds: Sequence[int]) -> dict[str, str]:
    """The W&B id of every seed, the same each time for one directory, unless its file is damaged:
    then all are new, and one warning says so."""
    path = directory / IDS
    try:
        before = _check_ids(read_json(path)) if path.exists() else {}
    except (OSError, ValueError) as error:
        _log.warning("%s is damaged (%s): Weights & Biases has new runs from here on.", path, error)
        before = {}
    ids = {str(seed): secrets.token_hex(8) for seed in seeds} | before
    if agents := agents_run():
        ids[str(seeds[0])] = agents
    if ids != before:
        replace(path, json.dumps(ids, indent=2) + "\n")
    return ids


def _check_ids(ids: Any) -> dict[str, str]:
    if not isinstance(ids, dict):
        raise ValueError("it holds no ids of seeds")
    for seed, run_id in ids.items():
        if not (isinstance(run_id, str) and RUN_ID.fullmatch(run_id)):
            raise ValueError(f"seed {seed}: got {run_id!r:.60}; expected an id of a run")
    if len(set(ids.values())) < len(ids):
        raise ValueError("two seeds have the same id")
    return ids


def release_ids() -> None:
    """Stops wandb's background process, in which a run that failed to start still holds its id."""
    try:
        import wandb

        wandb.teardown()
    except Exception as error:
        _log.debug("Weights & Biases did not shut down: %s", error)


def may_be_logged_in() -> bool:
    """Whether credentials or settings of wandb can exist at all; looks at names, reads nothing."""
    names = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if any(os.environ.get(name, "").strip() for name in names):
        return True
    home = Path(os.path.expanduser("~"))
    netrc = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else [home / ".netrc"]
    settings = Path(os.environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb") / "settings"
    local = [Path(os.environ.get("WANDB_DIR", ".")) / name for name in ("wandb", ".wandb")]
    files = [*netrc, home / "_netrc", settings, *(folder / "settings" for folder in local)]
    return any(file.expanduser().is_file() for file in files)
