"""The command: python experiments/run.py task=a5 model=mamba (--help lists what can be chosen)."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config import build
from experiments.errors import ConfigError
from experiments.provenance import provenance
from experiments.report import conclude, introduce

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="run")
def main(config: DictConfig) -> None:
    """Builds the run a configuration describes, and runs it."""
    settings = HydraConfig.get()
    try:
        run = build(config, settings.runtime.choices, Path(settings.runtime.output_dir))
        where = provenance()
        introduce(run, where["device"])
        try:
            run.logger.open(run.info)
            summary = run.procedure.run(
                run.task, run.make_model, run.optimizer, run.seeds, run.logger, run.info.directory
            )
            run.logger.finish({**summary, "parameters": run.parameters, **where})
        finally:
            run.logger.close()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if not conclude(run, summary):
        sys.exit(1)


if __name__ == "__main__":
    # The installed module's function, not this script's, so that launchers can import it by name.
    from experiments.run import main as entry

    entry()
