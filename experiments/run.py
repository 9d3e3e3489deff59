"""The command: python experiments/run.py task=a5 model=mamba (--help lists what can be chosen)."""

import sys
from pathlib import Path

import hydra
import jax
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.cache import use_compilation_cache
from experiments.config import CONFIGS, build
from experiments.errors import ConfigError
from experiments.provenance import provenance
from experiments.report import conclude, introduce


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="run")
def main(config: DictConfig) -> None:
    """Builds the run a configuration describes, and runs it."""
    settings = HydraConfig.get()
    # Full float32 products on every backend, as in PyTorch; a GPU's default would be TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    use_compilation_cache()
    try:
        run = build(config, settings.runtime.choices, Path(settings.runtime.output_dir))
        where = provenance()
        introduce(run, where["device"], settings.overrides.task)
        try:
            run.logger.open(run.info)
            summary = run.procedure.run(
                run.task, run.make_model, run.optimizer, run.seeds, run.logger, run.info.directory
            )
            run.logger.finish({**summary, "parameters": run.parameters, **where})
        finally:
            run.logger.close()
    except ConfigError as error:
        _stop(f"error: {error}", 2, settings.mode)
        return
    if not conclude(run, summary):
        _stop("error: a seed failed", 1, settings.mode)


def _stop(message: str, code: int, mode: RunMode | None) -> None:
    """Ends a single run with an exit code; a job of a sweep fails, and the sweep goes on."""
    if mode == RunMode.MULTIRUN:
        raise RuntimeError(message)
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    # The installed module's function, not this script's, so that launchers can import it by name.
    from experiments.run import main as entry

    entry()
