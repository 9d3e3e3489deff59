"""The one-way flow: who may import whom, read from the source without running it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "ssm": {"tasks", "experiments", "scripts", "hydra", "omegaconf", "wandb", "optax", "signax"},
    "tasks": {"ssm", "experiments", "scripts", "hydra", "omegaconf", "wandb", "optax", "diffrax"},
    "experiments": {"scripts", "tests"},
}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_they_may(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported_packages(path) & FORBIDDEN[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_experiments_know_mixers_and_tasks_by_their_abstract_types_only():
    concrete = {"ssm.mixers", "ssm.cde", "tasks.word_problem", "tasks.signature"}
    for path in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert module not in concrete, f"{path.relative_to(ROOT)} imports {module}"
