"""The command: python experiments/run.py task=a5 model=mamba (--help lists what can be chosen)."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import jax
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cache import use_compilation_cache
from experiments.config import build
from experiments.errors import (
    ConfigError,
    EnvironmentFault,
    Interrupted,
    InUse,
    OtherRun,
    exit_code_of,
)
from experiments.places import CONFIGS
from experiments.prescribed import changes_of
from experiments.provenance import provenance
from experiments.report import conclude, introduce
from experiments.results.files import ERROR, OVERRIDES, SUMMARY, atomic, check_files, read_yaml
from experiments.results.identity import SWEEP_CODE, code_version
from experiments.rundir import RunDirectory
from experiments.streams import make_steady
from experiments.sweep import SweepReport
from experiments.trust import trust
from experiments.usage import check_flags, explain

PLAIN_REFERENCE = re.compile(r"\$\{(?:[\w.]+\}|(?:part|at|when|absent):)")
"""What a configuration may refer to whose author is not known: its own keys, and our functions."""

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, TypeError, ValueError)


_tracebacks = False
_composed = False  # whether Hydra is done, and an error is no longer about the command line


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="run")
def main(config: DictConfig) -> None:
    """Runs what a configuration describes; a single run then ends the process with its code."""
    global _composed
    _composed = True
    settings = HydraConfig.get()
    directory = Path(settings.runtime.output_dir)
    single = settings.mode != RunMode.MULTIRUN
    try:
        ended_well = _run(config, settings, directory)
        code = 0 if ended_well else 1
    except Interrupted as error:
        print(f"Interrupted: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except InUse as error:
        code = _tell(error, directory) if single else 0
        if not single:
            print(f"Left to the process that is at it: {error}", flush=True)
    except (ConfigError, EnvironmentFault, OSError) as error:
        code = _tell(error, directory)
    except MemoryError as error:
        code = _tell(_no_memory(error), directory)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            code = _tell(_no_memory(error), directory)
        else:
            code = _tell(error, directory, show=True)
    if single:
        sys.exit(code)


def _run(config: DictConfig, settings: Any, directory: Path) -> bool:
    """Builds a run and runs it; False if a seed failed."""
    # Full float32 products on every backend, as in PyTorch; a GPU's default would be TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    use_compilation_cache()
    where = _find_device()
    run = build(config, settings.runtime.choices, directory)
    with RunDirectory(
        directory, run.info.config, run.with_steps, run.procedure.check_saved
    ) as rundir:
        introduce(run, where["device"], settings.overrides.task, rundir)
        if os.environ.get(SWEEP_CODE, code_version()) != code_version():
            print("warning: the code has changed since the sweep began", file=sys.stderr)
        if rundir.summary is not None:
            return conclude(run, rundir.summary)
        data = run.procedure.load(run.task, run.make_model)
        with atomic(directory / OVERRIDES) as file:
            given = OmegaConf.to_container(settings.overrides.task, resolve=False)
            file.write(yaml.safe_dump(given).encode())  # environment variables by name
        try:
            run.logger.open(run.info)
            summary = run.procedure.run(
                data, run.task, run.make_model, run.optimizer, run.seeds, run.logger, rundir
            )
            rundir.interruption.settle()
            others = changes_of(run.info.config)
            extra = {"parameters": run.parameters, "changed_settings": others}
            summary = rundir.finish({**summary, **extra})
            run.logger.finish({**summary, **where})
        except Interrupted:
            run.logger.interrupt()
            run.logger.close()
            rundir.interruption.hand_over()
            raise
        finally:
            run.logger.close()
        return conclude(run, summary)


def _find_device() -> dict[str, Any]:
    try:
        return provenance()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that some platform is left
        reason = str(error).splitlines() or ["none is left"]
        raise EnvironmentFault(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: no such device here "
            f"({reason[0]}); expected cpu, or what this machine has"
        ) from error


def _no_memory(error: Exception) -> EnvironmentFault:
    reason = (str(error).splitlines() or ["no memory left"])[0]
    return EnvironmentFault(
        f"out of memory ({reason}); expected a smaller model, train.batch_size or "
        "train.evaluate_batch_size, or a larger device"
    )


def _tell(error: Exception, directory: Path, *, show: bool = False) -> int:
    """Prints an error, leaves it in the run's directory, and returns its exit code."""
    text = str(error) if isinstance(error, ConfigError | EnvironmentFault) else repr(error)
    if isinstance(error, OSError):
        text = f"{error.filename or directory}: {error.strerror or error}"
    print(f"error: {text}", file=sys.stderr, flush=True)
    if show or _tracebacks:
        traceback.print_exception(error)
    if isinstance(error, InUse | OtherRun) or (directory / SUMMARY).exists():
        return getattr(error, "exit_code", 1)
    try:
        with atomic(directory / ERROR) as file:
            file.write(f"{text}\n".encode())
    except OSError as again:
        print(f"       {ERROR} could not be written: {again}", file=sys.stderr)
    return getattr(error, "exit_code", 1)


def command(arguments: Sequence[str]) -> int:
    """The whole command line; returns the exit code, see `experiments.errors`.

    Arguments:
        arguments: Hydra's; `resume=DIRECTORY`, which stands for the command that an earlier run
            in that directory had; and `trust=PACKAGE`, whose classes the configuration may name.
    """
    global _tracebacks, _composed
    _composed = False
    make_steady()
    _tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    try:
        given = _expand_resume(_take_trust(arguments))
        if wrong := check_flags(given):
            raise ConfigError(wrong)
        sys.argv = ["experiments/run.py", *given]
        with _hydra_raises():
            main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:
        print("Interrupted; what had a checkpoint goes on by the same command", file=sys.stderr)
        code = exit_code_of(signal.SIGINT)
    except Exception as error:
        code = _blame(error, arguments)
    finally:
        GlobalHydra.instance().clear()
    if SweepReport.current is not None:
        unfinished = SweepReport.current.conclude()
        code = code or unfinished
    return code


def _blame(error: Exception, arguments: Sequence[str]) -> int:
    """Prints an error that came out of Hydra, and returns the exit code; raises it if it is none of
    the user's."""
    if not _composed and isinstance(error, COMPOSITION_ERRORS):
        text, code = explain(error, arguments), ConfigError.exit_code
    elif not _composed and isinstance(error, OSError):
        text = f"hydra.run.dir, hydra.sweep.dir: {error.filename}: {error.strerror}"
        code = EnvironmentFault.exit_code
    elif SweepReport.current is not None:  # a job that its scheduler lost, cancelled for example
        text, code = f"{type(error).__name__}: {error}".splitlines()[0], EnvironmentFault.exit_code
    else:
        raise error
    print(f"error: {text}", file=sys.stderr, flush=True)
    if _tracebacks:
        traceback.print_exception(error)
    return code


def _take_trust(arguments: Sequence[str]) -> list[str]:
    """The arguments without `trust=PACKAGE`, which is acted upon."""
    for argument in arguments:
        if argument.startswith("trust="):
            trust(argument.removeprefix("trust="))
    return [a for a in arguments if not a.startswith("trust=")]


def _expand_resume(arguments: Sequence[str]) -> list[str]:
    """`resume=DIRECTORY` as the overrides that are kept there, and that directory."""
    others = [a for a in arguments if not a.startswith("resume=")]
    resumed = [a.removeprefix("resume=") for a in arguments if a.startswith("resume=")]
    if not resumed:
        return others
    path = Path(resumed[-1])
    if len(resumed) > 1 or "-m" in others or "--multirun" in others:
        raise ConfigError(
            f"resume: got {' '.join(resumed)} in a sweep, or twice; expected one run's directory "
            "(a sweep goes on if the same command is given again)"
        )
    try:
        check_files(path)
        saved = read_yaml(path / OVERRIDES)
    except (OSError, ValueError) as error:
        saved = error
    if not isinstance(saved, list) or not all(isinstance(item, str) for item in saved):
        raise ConfigError(
            f"resume: got {resumed[-1]!r}; expected the directory of an earlier run, which has "
            f"its command in {OVERRIDES}"
        )
    given = {_key(argument) for argument in others}
    saved = [item for item in saved if _key(item) not in given]
    for item in saved:
        _check_saved(item, path)
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return [*saved, *others, f"hydra.run.dir='{quoted}'"]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _check_saved(override: str, directory: Path) -> None:
    """Refuses what a run's directory, perhaps a stranger's, might do beyond describing the run.

    Targets are checked with all others. Here, Hydra's own settings, which can name code too, and
    environment variables, which hold secrets and might be sent to a stranger's W&B project.
    """
    key, _, value = override.lstrip("+~").partition("=")
    group = (CONFIGS / key.partition("@")[0]).is_dir() or "/" in key
    if override.startswith("-") or "hydra" in key:
        wrong = "expected settings of the run only, none of Hydra"
    elif ".." in key or (group and not re.fullmatch(r"\w[\w/-]*", value)):
        wrong = "expected an option of this code's configurations"
    elif "${" in PLAIN_REFERENCE.sub("", override):
        wrong = f"expected references to keys only; if you trust it, say {key}=… on this command"
    else:
        return
    raise ConfigError(f"resume: got {override!r} in {directory / OVERRIDES}; {wrong}")


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Has Hydra raise its errors, where it would print them and end the process."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def entry() -> int:
    """The command as a process: of `python experiments/run.py`, and of an installed package."""
    # The installed module's function, not this script's, so that launchers can import it by name.
    from experiments.run import command as imported

    return imported(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
