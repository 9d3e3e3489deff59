"""How a run can end other than well, and the exit code of each.

0: finished. 1: the environment failed it (a file, a disk, a device, another process), or a seed or
a cell of a sweep failed. 2: it was asked for wrongly. 75, `EX_TEMPFAIL` of sysexits.h: interrupted
by a signal, with a checkpoint of what it had; the same command goes on from there. 130: the same,
by Ctrl-C, as shells have it.
"""

import signal


class ConfigError(ValueError):
    """A configuration that cannot run; the message names key, value, and what is valid."""

    exit_code = 2


class OtherRun(ConfigError):
    """The run's directory holds another run, which is left alone."""


class EnvironmentFault(RuntimeError):
    """Something outside the configuration: a file, a disk, a device, another process."""

    exit_code = 1


class InUse(EnvironmentFault):
    """Another process is running in the directory, which is left alone."""


class Interrupted(Exception):
    """The run was told to stop by a signal, and has written a checkpoint of what it had."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command goes on")
        self.signum = signum
        self.exit_code = exit_code_of(signum)


def exit_code_of(signum: int) -> int:
    """The exit code of a run that a signal stopped."""
    return 130 if signum == signal.SIGINT else 75
