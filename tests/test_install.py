"""The package is whole without a checkout: configurations, tables and a command."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in ("ssm", "tasks", "experiments")
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert {name for name in listed if "._" not in name} == found
    for room in ("ssm", "tasks", "experiments"):
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


@pytest.mark.slow
def test_a_wheel_runs_in_a_clean_environment_from_another_directory(tmp_path):
    """Built, installed with the locked requirements, and run as `selective-ssm`."""

    def run(*command, **options):
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=900, **options
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    source = tmp_path / "source"  # setuptools leaves its build beside what it builds
    tracked = ("ssm", "tasks", "experiments", "configs", "results/published")
    for name in (*tracked, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=True)
    python, elsewhere = tmp_path / "clean/bin/python", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(python, "-m", "pip", "install", "--require-hashes", "-r", ROOT / "requirements.lock")
    run(python, "-m", "pip", "install", "--no-deps", wheel)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}

    def command(*arguments):
        return run(
            tmp_path / "clean/bin" / arguments[0], *arguments[1:], cwd=elsewhere, env=environment
        )

    assert "model: diagonal_cde, linear_cde, mamba" in command("selective-ssm", "--help")
    short = ["train.steps=200", "train.evaluate_every=100", "logger=local", "hydra.run.dir=run"]
    printed = command("selective-ssm", "task=a5", "model=mamba", *short)
    assert "Seed 0: validation accuracy 0." in printed
    assert "Finished before" in command("selective-ssm", "resume=run")
    printed = command(
        "selective-ssm", "task=a5", "model=mamba", *short[:3], "published=figure2/mamba-3",
        "hydra.run.dir=other",
    )  # fmt: skip
    assert "Published, at the paper's settings: " in printed
    printed = command("selective-ssm-evaluate", "run", "task.length=4")
    assert "0." in printed
    summary = (elsewhere / "run" / "summary.json").read_text()
    assert '"commit": null' in summary
