"""A compilation cache on disk, so that a program is compiled once on a machine."""

import hashlib
import os
import platform
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/selective-ssm-cde (or under XDG_CACHE_HOME).

    JAX's own settings win: JAX_COMPILATION_CACHE_DIR names another directory, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. Programs for a CPU are kept apart by its
    features, for they may not run on another, and a home directory may be shared.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = root / "selective-ssm-cde" / f"jax-{jax.__version__}-{_cpu_features()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: every run compiles
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _cpu_features() -> str:
    """A short name for what this CPU can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
