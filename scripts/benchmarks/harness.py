"""Timing alternatives in turn, checking that they agree, and printing what was found."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.profiler import ProfileData

Row = dict[str, Any]

GPU_CALLS = 20
"""Calls that wait in a GPU's queue while they are timed."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        repeats: times each alternative is run.
        official: a checkout of the paper's code, or None to leave it out.
        paths: paths of the Figure 1 benchmark.
        limit: alternatives that plan more temporary megabytes than this are not run.
    """

    repeats: int
    official: Path | None
    paths: int
    limit: float


def on_gpu() -> bool:
    """Whether JAX's default device is a GPU."""
    return jax.default_backend() == "gpu"


def installed(*packages: str) -> bool:
    """Whether all of a reference's packages are there; says so if not."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        print(f"not installed, so its rows are left out: {', '.join(missing)}")
    return not missing


def time_in_turn(
    runs: Mapping[str, Callable[[], Any]], repeats: int, *, warm: bool = False, calls: int = 1
) -> dict[str, float]:
    """Median seconds a call of each; `calls` of each in turn, `repeats` times, so that what else
    the machine does falls on all. A run to warm up comes first, unless they are warm. Where a
    device queues its work, several calls hide what the host adds to each."""
    for run in () if warm else runs.values():
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready([run() for _ in range(calls)])
            times[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(t) for name, t in times.items()}


def kernel_milliseconds(run: Callable[[], Any], calls: int = 5) -> float | None:
    """Milliseconds a GPU is at work in a call, by its own clock; None where it cannot be read.

    The profiler sees the kernels of the whole process, PyTorch's as well.
    """
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            jax.block_until_ready([run() for _ in range(calls)])
        (path,) = Path(directory).rglob("*.xplane.pb")
        planes = ProfileData.from_file(str(path)).planes
        nanoseconds = [
            event.duration_ns
            for plane in planes
            if plane.name.startswith("/device:GPU")
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        ]
    return 1e-6 * sum(nanoseconds) / calls if nanoseconds else None


def check_agreement(results: Mapping[str, Any], tolerance: float) -> None:
    """Raises AssertionError unless all results are the first one's, to `tolerance` of its size."""
    (_, first), *others = results.items()
    expected = jax.tree.leaves(first)
    for name, result in others:
        for got, want in zip(jax.tree.leaves(result), expected, strict=True):
            size = float(np.max(np.abs(want))) + 1e-12
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * size, err_msg=name)


@cache
def product_rate() -> float:
    """Floating-point operations a second of a large float32 matrix product here, measured."""
    n = 2048
    x = jr.normal(jr.key(0), (n, n))
    product = jax.jit(lambda x: x @ x)
    return 2 * n**3 / time_in_turn({"product": lambda: product(x)}, 5)["product"]


@cache
def memory_rate() -> float:
    """Bytes a second of a large update in place, numbers read and written; measured."""
    held = [jnp.zeros(2**26)]
    moved = 3 * held[0].nbytes  # two numbers read and one written
    ones = jnp.ones(2**26)
    add = jax.jit(lambda x, y: x + y, donate_argnums=0)

    def update() -> Any:
        held[0] = add(held[0], ones)
        return held[0]

    return moved / time_in_turn({"update": update}, 5)["update"]


def temporary_megabytes(compiled: Any) -> float:
    """What the compiler plans for beside arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def rows(
    benchmark: str,
    case: str,
    seconds: Mapping[str, float],
    reference: str,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """A row an alternative; "ratio" is how many times faster than the reference it is."""
    return [
        {
            "benchmark": benchmark,
            "case": case,
            "form": name,
            "milliseconds": 1e3 * s,
            "reference": reference,
            "ratio": seconds[reference] / s if reference in seconds else None,
            **((extra or {}).get(name, {})),
        }
        for name, s in seconds.items()
    ]


def show(found: Sequence[Row]) -> None:
    """Prints the rows of one benchmark, a table for each of its cases."""
    for case in dict.fromkeys(row["case"] for row in found):
        of_case = [row for row in found if row["case"] == case]
        print(f"\n{of_case[0]['benchmark']}: {case}")
        keys = [k for row in of_case for k in row if k not in ("benchmark", "case", "reference")]
        columns = list(dict.fromkeys(keys))
        table = [columns] + [[_text(row.get(column)) for column in columns] for row in of_case]
        widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
        for line in table:
            cells = [
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            ]
            print("  " + "  ".join(cells))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
