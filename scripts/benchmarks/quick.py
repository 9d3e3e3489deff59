"""The quick presets, from the command to the result, compilation included."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Options, Row

RUN = Path(__file__).parents[2] / "experiments" / "run.py"


def quick(options: Options) -> list[Row]:
    """The dense linear CDE on A5 to 0.99, with nothing compiled before."""
    return [_command("model=linear_cde")]


def quick_mamba(options: Options) -> list[Row]:
    """The Mamba preset on A5, with nothing compiled before."""
    return [_command("model=mamba")]


def _command(model: str) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, str(RUN), "task=a5", model, "logger=local"],
            cwd=directory,
            env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds = time.perf_counter() - start
        (summary,) = Path(directory).rglob("summary.json")
        result = json.loads(summary.read_text())
    return {
        "benchmark": "quick",
        "case": "python experiments/run.py task=a5 …, from the command to its end",
        "form": model,
        "seconds": seconds,
        "training seconds": result["training_seconds"],
        "accuracy": result["seeds"]["0"]["final"]["accuracy"],
        "steps": result["seeds"]["0"]["steps"],
    }
