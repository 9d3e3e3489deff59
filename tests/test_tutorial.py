"""The tutorial runs, and its notebook is what the script makes of it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RUN = """
import itertools, runpy, sys
import matplotlib.pyplot as plt
numbers = itertools.count(1)
def show():
    plt.savefig(f"{sys.argv[2]}/{next(numbers)}.png")
    plt.close("all")
plt.show = show
runpy.run_path(sys.argv[1])
"""


def load_script():
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "scripts" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_what_the_script_makes():
    assert load_script().main(["--check"]) == 0
    data = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in data["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    source = "\n\n".join("".join(cell["source"]) for cell in code)
    compile(source, "tutorial", "exec")


def test_cells():
    make = load_script().cells
    assert make("# %% [markdown]\n# # a\n#\n# b\n\n# %%\nx = 1\n\n\n# %%\ny\n") == [
        ("markdown", "# a\n\nb"),
        ("code", "x = 1"),
        ("code", "y"),
    ]
    with pytest.raises(ValueError, match="expected a first cell"):
        make("x = 1\n# %%\n")
    with pytest.raises(ValueError, match="expected a comment"):
        make("# %% [markdown]\nx = 1\n")


@pytest.mark.slow
def test_the_tutorial_runs_and_shows_what_it_says(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    environment.pop("XLA_FLAGS", None)  # the tests' programs are compiled in haste, and run slowly
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "docs" / "tutorial.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 6
    differences = re.findall(r"scan and loop differ by (\S+)", done.stdout)
    assert len(differences) == 4
    assert max(map(float, differences)) < 1e-4
    dense, diagonal = (
        [float(x) for x in re.search(rf"^{name}: \[(.*?)\]", done.stdout, re.M)[1].split()]
        for name in ("dense", "diagonal")
    )
    assert min(dense[:5]) > 0.95
    assert max(diagonal[2:]) < 0.2
