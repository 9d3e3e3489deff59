"""Times and memory, ours beside references, in one process.

    python scripts/benchmark.py                                        all that take minutes
    python scripts/benchmark.py --only selective_scan --json out.json
    python scripts/benchmark.py --only a5_step figure1_features --official DIR

Alternatives are run in turn and the table gives medians, ratios to a reference, and the peak of
temporary device memory that the compiler plans for. Where forms compute the same, their results are
compared first.
PyTorch, mambapy and discretax are references if they are installed
(`pip install -e '.[benchmark]'`), on a GPU mamba_ssm is; the paper's own code, if --official names
a checkout of it. docs/performance.md has the results, and says what they mean.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
from benchmarks import dense, dispatch, linear_cde, lti, quick, scan, training, training_step
from benchmarks.harness import Options, Row, show

from experiments.provenance import provenance

BENCHMARKS: dict[str, Callable[[Options], list[Row]]] = {
    "selective_scan": scan.selective_scan_times,
    "selective_scan_lengths": scan.selective_scan_lengths,
    "dense_recurrence": dense.dense_recurrence,
    "dispatch": dispatch.dispatch,
    "a5_step": linear_cde.a5_step,
    "figure1_features": linear_cde.figure1_features,
    "lti": lti.lti,
    "training_step": training_step.training_step,
    "loop": training.loop,
    "compilation": training.compilation,
    "seeds": training.seeds,
    "precision": training.precision,
    "quick": quick.quick,
    "quick_mamba": quick.quick_mamba,
}

REFERENCES = ("torch", "mambapy", "discretax")
"""Packages whose versions are recorded too, where they are installed."""


def main() -> int:
    """Parses the command line, runs, prints tables, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description="Times and memory, beside references.")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of each alternative")
    parser.add_argument("--official", type=Path, metavar="DIR", help="checkout of the paper's code")
    parser.add_argument("--paths", type=int, default=4000, help="paths of figure1_features")
    parser.add_argument("--limit", type=float, default=4000, help="most temporary megabytes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.official is not None and not (arguments.official / "linear_cde.py").exists():
        parser.error(f"--official: got {arguments.official}, which has no linear_cde.py")
    if arguments.repeats < 1 or arguments.paths < 1000:
        parser.error("--repeats, --paths: expected at least 1 and at least 1000")
    options = Options(arguments.repeats, arguments.official, arguments.paths, arguments.limit)
    jax.config.update("jax_default_matmul_precision", "highest")
    machine = provenance()
    for package in REFERENCES:
        with contextlib.suppress(PackageNotFoundError):
            machine["versions"][package] = version(package)
    device = machine["device"]
    print(f"{device['kind']}, {device['cores']} cores, jax {machine['versions']['jax']}")
    found: list[Row] = []
    for name in arguments.only:
        new = BENCHMARKS[name](options)
        show(new)
        found += new
        if arguments.json is not None:
            arguments.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
