"""How a run can end other than well, and the exit code of each.

0: finished. 1: the environment failed it (a file, a disk, a device, another process), or a seed or
a cell of a sweep failed. 2: it was asked for wrongly. 75, `EX_TEMPFAIL` of sysexits.h: interrupted
by a signal, with a checkpoint of what it had; the same command goes on from there.
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

    exit_code = 75

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command goes on")
        self.signum = signum
