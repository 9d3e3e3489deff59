"""Output that cannot be written is dropped; it is no fault of the run."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from experiments.streams import make_steady
make_steady()
for number in range(2000):
    print("step", number, "…", flush=number % 100 == 0)
print("an error …", file=sys.stderr)
file = open(sys.argv[1], "w")
assert file.fileno() > 2
file.write("done")
file.close()
sys.exit(3)
"""


def run(tmp_path, redirected, **environment):
    """The exit code, and what it printed, of the program in a shell."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        f"{sys.executable} {script} {tmp_path / 'file'} {redirected}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert (tmp_path / "file").read_text() == "done"
    return done


@pytest.mark.parametrize(
    "redirected",
    [
        ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full", "> /dev/full 2>&1",
        "| head -1; exit ${PIPESTATUS[0]}", "2>&1 | true; exit ${PIPESTATUS[0]}",
    ],
)  # fmt: skip
def test_output_that_goes_nowhere(redirected, tmp_path):
    done = run(tmp_path, redirected)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_encoding_without_the_character(encoding, tmp_path):
    done = run(tmp_path, "", PYTHONIOENCODING=encoding)
    assert done.returncode == 3
    assert done.stdout.startswith("step 0 " + ("…" if encoding == "utf-8" else "?"))
    assert len(done.stdout.splitlines()) == 2000
