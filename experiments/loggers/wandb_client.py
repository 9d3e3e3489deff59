"""What the W&B logger asks of the wandb package, which is imported here only when needed."""

import json
import logging
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results.files import IDS

INIT_SECONDS = 30.0
FINISH_SECONDS = 30.0
RETRY_SECONDS = 10.0

_log = logging.getLogger(__name__)


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
    import wandb

    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
    return settings.run_id if settings.sweep_id else None


def leave_sweep() -> None:
    """Keeps further runs of this process out of the sweep: wandb would give all the same id."""
    import wandb

    settings = wandb.setup().settings
    settings.sweep_id = settings.sweep_param_path = settings.run_id = None


def read_or_make_ids(directory: Path, seeds: Sequence[int]) -> dict[str, str]:
    """The W&B id of every seed, the same each time for one directory."""
    path = directory / IDS
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ids = {str(seed): secrets.token_hex(8) for seed in seeds} | before
    if agents := agents_run():
        ids[str(seeds[0])] = agents
    if ids != before:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
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
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    home = Path(os.path.expanduser("~"))
    netrc = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else [home / ".netrc"]
    settings = Path(os.environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb") / "settings"
    local = [Path(os.environ.get("WANDB_DIR", ".")) / name for name in ("wandb", ".wandb")]
    files = [*netrc, home / "_netrc", settings, *(folder / "settings" for folder in local)]
    return any(file.expanduser().is_file() for file in files)
