"""Makes the notebook of the tutorial from its script, cell by cell, without outputs.

    python scripts/notebook.py            writes docs/tutorial.ipynb from docs/tutorial.py
    python scripts/notebook.py --check    says whether it is up to date (exit code 1 if it is not)

A cell begins with a line `# %%`, a cell of text with `# %% [markdown]`.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "tutorial.py"
CELL = re.compile(r"^# %%(?: \[(markdown)\])?\n", re.MULTILINE)


def cells(script: str) -> list[tuple[str, str]]:
    """The kind, "code" or "markdown", and the text of each cell.

    Raises:
        ValueError: for text before the first cell, or a cell of text that is no comment.
    """
    before, *parts = CELL.split(script)
    if before.strip():
        raise ValueError(f"got {before.splitlines()[0]!r}; expected a first cell, '# %%'")
    found = []
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        lines = text.strip("\n").split("\n")
        if kind == "markdown":
            if wrong := [line for line in lines if not re.match(r"#( |$)", line)]:
                raise ValueError(f"got {wrong[0]!r} in a cell of text; expected a comment")
            lines = [line[2:] for line in lines]
        found.append((kind or "code", "\n".join(lines)))
    return found


def notebook(script: str) -> str:
    """The notebook, in Jupyter's format 4.5."""

    def cell(index: int, kind: str, text: str) -> dict[str, Any]:
        common = {
            "cell_type": kind,
            "id": f"cell-{index}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        return common | ({"execution_count": None, "outputs": []} if kind == "code" else {})

    data = {
        "cells": [cell(i, kind, text) for i, (kind, text) in enumerate(cells(script))],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, and writes or checks."""
    parser = argparse.ArgumentParser(description="Makes docs/tutorial.ipynb from docs/tutorial.py.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    target, made = SCRIPT.with_suffix(".ipynb"), notebook(SCRIPT.read_text(encoding="utf-8"))
    if not options.check:
        target.write_text(made, encoding="utf-8")
    elif not target.exists() or target.read_text(encoding="utf-8") != made:
        print(f"error: {target} is not of {SCRIPT.name}: python scripts/notebook.py makes it")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
