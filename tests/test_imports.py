"""The one-way flow: who may import whom, read from the source without running it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("ssm", "tasks", "experiments")

FORBIDDEN = {
    "tasks": {"ssm", "experiments", "scripts", "hydra", "omegaconf", "wandb", "optax", "diffrax"},
    "experiments": {"scripts", "tests"},
}

OF_SSM = {"ssm", "jax", "equinox", "diffrax", "jaxtyping", "numpy"}
"""All that mathematics imports beside the standard library."""

CONCRETE = {"ssm.mixers", "ssm.cde"}
ABSTRACT = {"ssm.mixers.base", "ssm.cde.base", "tasks.base"}
"""What experiments know of them: not families, solvers or tasks, but what these have in common."""

OF_RESULTS = {"experiments.results", "experiments.analysis", "experiments.places"}
OUTSIDE_OF_RESULTS = {"numpy", "yaml", "pydantic", "matplotlib", "wandb"}
"""All that results and their analysis import beside the standard library: no JAX, no Hydra."""

PALLAS = "jax.experimental.pallas"
KERNEL = "ssm/scans/kernel.py"
BY_NAME = "experiments/trust.py"
"""Imports what a configuration names, once it has checked the name."""


def imported(source: str, package: str, by_name: bool = False) -> set[str]:
    """The full names of all modules that a module of `package` imports, anywhere in it.

    Of `from a import b` they are a and a.b, for b may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                assert node.level <= len(parents), f"line {node.lineno}: no such package"
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
            name = node.args[0] if node.args else None
            literal = isinstance(name, ast.Constant)
            assert literal or by_name, f"line {node.lineno}: imports what it computes"
            names |= {str(name.value)} if literal else set()
    return names


def _called(function: ast.expr) -> str | None:
    return getattr(function, "id", None) or getattr(function, "attr", None)


def within(name: str, modules: set[str]) -> bool:
    """Whether it is one of these modules, or in one of these packages."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def wrong_imports(path: str, source: str, concrete: set[str]) -> set[str]:
    """What a file may not import; its path is from the root, such as ssm/scans/kernel.py."""
    room, *_ = parts = path.split("/")
    names = imported(source, ".".join(parts[:-1]), by_name=path == BY_NAME)
    wrong = {name for name in names if within(name, FORBIDDEN.get(room, set()))}
    if room == "ssm":
        allowed = OF_SSM | set(sys.stdlib_module_names)
        wrong |= {name for name in names if name.partition(".")[0] not in allowed}
    if room == "experiments":
        wrong |= {n for n in names if within(n, CONCRETE | concrete) and not within(n, ABSTRACT)}
    if path.startswith(("experiments/results/", "experiments/analysis/")):
        outside = OUTSIDE_OF_RESULTS | set(sys.stdlib_module_names)
        allowed = OF_RESULTS - ({"experiments.analysis"} if "/results/" in path else set())
        here = {name for name in names if within(name, {"experiments"})} - {"experiments"}
        wrong |= {name for name in here if not within(name, allowed)}
        wrong |= {name for name in names - here if name.partition(".")[0] not in outside}
    if path != KERNEL:
        wrong |= {name for name in names if within(name, {PALLAS})}
    return wrong


def concrete_tasks() -> set[str]:
    """All modules of tasks but the abstract one, and `tasks` itself, which is empty."""
    return {f"tasks.{p.stem}" for p in (ROOT / "tasks").glob("*.py")} - {
        "tasks.base",
        "tasks.__init__",
    }


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    tasks = concrete_tasks()
    assert {"tasks.word_problem", "tasks.signature"} <= tasks
    for file in files:
        path = file.relative_to(ROOT).as_posix()
        wrong = wrong_imports(path, file.read_text(encoding="utf-8"), tasks)
        assert not wrong, f"{path} imports {sorted(wrong)}"


def test_a_figure_is_drawn_without_jax_or_hydra():
    program = "import sys, figures\nprint([m for m in ('jax', 'hydra') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "[]\n"


def test_the_kernel_is_where_pallas_is():
    assert PALLAS in imported((ROOT / KERNEL).read_text(encoding="utf-8"), "ssm.scans")


def test_the_modules_of_ssm_import_one_another_without_a_circle():
    """At the top of files, so that any of them may be imported first."""
    files = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for f in (ROOT / "ssm").rglob("*.py")
    }
    needs = {}
    for name, file in files.items():
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        top = [n for n in ast.parse(file.read_text("utf-8")).body if "Import" in type(n).__name__]
        source = "\n".join(ast.unparse(node) for node in top)
        needs[name] = {n for n in imported(source, package) if n in files and n != name}
    for name, of in needs.items():  # a package's own parts are no circle of it
        needs[name] = {n for n in of if not name.startswith(f"{n}.")}
    while needs:
        free = {name for name, of in needs.items() if not of & needs.keys()}
        assert free, f"a circle among {sorted(needs)}"
        needs = {name: of for name, of in needs.items() if name not in free}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("experiments/a.py", "from ssm.mixers import S4", {"ssm.mixers", "ssm.mixers.S4"}),
        ("experiments/a.py", "from ssm import mixers, init", {"ssm.mixers"}),
        ("experiments/a.py", "import ssm.mixers", {"ssm.mixers"}),
        ("experiments/a.py", "import ssm.mixers.s4 as s", {"ssm.mixers.s4"}),
        ("experiments/a.py", "import ssm.cde, os", {"ssm.cde"}),
        ("experiments/a.py", "from tasks import signature as s", {"tasks.signature"}),
        ("experiments/a.py", "import tasks.signature", {"tasks.signature"}),
        ("experiments/a.py", "from scripts.x import y", {"scripts.x", "scripts.x.y"}),
        ("experiments/a.py", "def f():\n    import ssm.cde.tsit5", {"ssm.cde.tsit5"}),
        ("experiments/a.py", "import importlib\nimportlib.import_module('ssm.cde')", {"ssm.cde"}),
        ("experiments/a.py", "from importlib import import_module as i", set()),
        ("experiments/b/a.py", "from ..a import x\nfrom . import c", set()),
        ("experiments/a.py", "from tasks.base import AbstractTask\nimport tasks", set()),
        ("experiments/a.py", "from ssm.mixers.base import AbstractMixer", set()),
        ("experiments/a.py", "import ssm.init\nfrom ssm.init import named_key", set()),
        ("experiments/a.py", "import tasks.based_on", set()),
        ("ssm/mixers/a.py", "from ..cde import x\nfrom . import s4\nfrom .base import y", set()),
        ("ssm/a.py", "import optax", {"optax"}),
        ("ssm/a.py", "from scipy.linalg import expm", {"scipy.linalg", "scipy.linalg.expm"}),
        ("ssm/a.py", "if True:\n    import tasks.base", {"tasks.base"}),
        ("ssm/a.py", "import jax.numpy, equinox, diffrax, numpy, collections.abc", set()),
        ("ssm/scans/a.py", "from jax.experimental import pallas as pl", {PALLAS}),
        ("ssm/a.py", f"from {PALLAS} import triton", {PALLAS, f"{PALLAS}.triton"}),
        ("ssm/scans/a.py", "import jax.experimental.pallas.triton", {f"{PALLAS}.triton"}),
        ("tasks/a.py", f"import {PALLAS}", {PALLAS}),
        ("experiments/results/a.py", "import jax", {"jax"}),
        ("experiments/results/a.py", "from experiments.results.b import c\nimport yaml", set()),
        ("experiments/results/a.py", "import experiments.analysis.b", {"experiments.analysis.b"}),
        ("experiments/analysis/a.py", "import hydra", {"hydra"}),
        ("experiments/analysis/a.py", "import experiments.config", {"experiments.config"}),
        ("experiments/analysis/a.py", "import matplotlib.pyplot, experiments.places", set()),
        (KERNEL, f"import {PALLAS}\nfrom jax.experimental.pallas import triton", set()),
        ("tasks/a.py", "from ssm import init", {"ssm", "ssm.init"}),
        ("tasks/a.py", "from .base import x\nfrom . import groups\nimport signax", set()),
        ("tasks/a.py", "from ..ssm import x", AssertionError),
        ("ssm/a.py", "__import__(name)", AssertionError),
    ],
)  # fmt: skip
def test_the_checker(path, source, expected):
    tasks = {"tasks.signature", "tasks.groups"}
    if expected is AssertionError:
        with pytest.raises(AssertionError):
            wrong_imports(path, source, tasks)
    else:
        assert wrong_imports(path, source, tasks) == expected
