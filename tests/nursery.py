"""The command in processes that start at once: forked from one that has imported everything.

Run as a script, it reads a request a line, forks a child for it, says its process id, and says its
exit status when it has ended (negative: a signal). A child is a whole process of its own, which can
be killed; it has its own JAX, since the parent has not started one.
"""

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Nursery:
    """Children, one at a time.

    Attributes:
        log: what the last child printed.
    """

    def __init__(self, directory: Path, **environment: str):
        self.log = directory / "log.txt"
        self._child: int | None = None  # the child that has not been waited for
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "WANDB_MODE": "disabled", **environment},
        )

    def start(self, arguments: list[str], patch: str = "", **environment: str) -> int:
        """Starts the command, after the Python code `patch`; returns the process id."""
        if self._child is not None:  # of a test that has failed
            self._kill()
            self.wait()
        request = {"arguments": arguments, "patch": patch, "log": str(self.log)}
        request |= {"environment": environment}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._child = int(self._process.stdout.readline())
        return self._child

    def wait(self) -> int:
        """The exit status of the child."""
        status = int(self._process.stdout.readline())
        self._child = None
        return status

    def wait_for(self, condition: Callable[[], Any], seconds: float = 120) -> None:
        """Waits until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"nothing happened; the child printed {self.printed()}"
            time.sleep(0.005)

    def run(self, arguments: list[str], patch: str = "", **environment: str) -> int:
        """Starts the command and waits for its end."""
        self.start(arguments, patch, **environment)
        return self.wait()

    def printed(self) -> str:
        """What the last child printed."""
        return self.log.read_text()

    def close(self) -> None:
        """Ends the parent, and a child that is left."""
        self._kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._child is not None:
                os.kill(self._child, signal.SIGKILL)


def _serve() -> None:
    from experiments.run import command

    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        child = os.fork()
        if not child:
            log = os.open(request["log"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulthandler.dump_traceback_later(90)  # should it hang, the log says where
            os.environ.update(request["environment"])
            exec(request["patch"], {})
            code = command(request["arguments"])
            sys.stdout.flush()
            os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
