"""Time and memory of the selective scan, ours beside references, in one process.

    python scripts/benchmark.py                       every benchmark
    python scripts/benchmark.py --only selective_scan --shape 32,100,256,256 --json out.json

Each case runs forward and backward, each form in turn, `--repeats` times; the table gives the
median, how many times faster than one associative scan over the stored states it is, and the peak
of temporary device memory that the compiler plans for (`memory_analysis`). Values and gradients are
compared with the sequential oracle first.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from experiments.provenance import provenance
from ssm import recurrence
from ssm.selective_scan import selective_scan, selective_scan_sequential

SHAPES = ["32,100,256,256", "32,100,256,16", "4,100,256,256", "64,3,64,16"]


def materialised(x, delta, a, b, c, d) -> jax.Array:  # type: ignore[no-untyped-def]
    """The plain reference: one associative scan over the stored states."""
    a_bar = jnp.exp(delta[:, :, None] * a[None])
    drive = (delta * x)[:, :, None] * b[:, None, :]
    states = recurrence.associative(a_bar, drive, jnp.zeros_like(a))
    return jnp.einsum("ldn,ln->ld", states, c) + d[None] * x


REFERENCE = "one associative scan"
FORMS: dict[str, Callable[..., jax.Array]] = {
    "sequential oracle": selective_scan_sequential,
    REFERENCE: materialised,
    "selective_scan, associative chunks": lambda *v: selective_scan(*v, form="associative"),
    "selective_scan, sequential chunks": lambda *v: selective_scan(*v, form="sequential"),
    "selective_scan": selective_scan,
}


def problem(batch: int, length: int, d_model: int, d_state: int) -> tuple[jax.Array, ...]:
    """Random arguments with Mamba's initial A and small steps."""
    k = jr.split(jr.key(0), 4)
    return (
        jr.normal(k[0], (batch, length, d_model)),
        jax.nn.softplus(jr.normal(k[1], (batch, length, d_model)) - 4),
        -jnp.broadcast_to(jnp.arange(1.0, d_state + 1), (d_model, d_state)),
        jr.normal(k[2], (batch, length, d_state)),
        jr.normal(k[3], (batch, length, d_state)),
        jnp.ones(d_model),
    )


def compile_form(form: Callable[..., jax.Array], arguments: tuple[jax.Array, ...]) -> Any:
    """Value and all gradients of a scalar of the output, compiled."""

    def loss(*args):
        y = jax.vmap(form, in_axes=(0, 0, None, 0, 0, None))(*args)
        return jnp.mean(y**2)

    gradient = jax.value_and_grad(loss, argnums=tuple(range(6)))
    return jax.jit(gradient).lower(*arguments).compile()


def measure(
    shape: tuple[int, int, int, int], repeats: int, limit_megabytes: float
) -> list[dict[str, Any]]:
    """One row a form; a form that plans more temporary memory than the limit is not run."""
    arguments = problem(*shape)
    compiled = {name: compile_form(form, arguments) for name, form in FORMS.items()}
    temporary = {n: c.memory_analysis().temp_size_in_bytes / 1e6 for n, c in compiled.items()}
    runs = {n: c for n, c in compiled.items() if temporary[n] <= limit_megabytes}
    check_agreement(runs, arguments)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(t) for name, t in times.items()}
    reference = medians.get(REFERENCE)
    return [
        {
            "benchmark": "selective_scan",
            "shape": list(shape),
            "form": name,
            "milliseconds": 1e3 * medians[name] if name in medians else None,
            "ratio": reference / medians[name] if reference and name in medians else None,
            "temporary_megabytes": temporary[name],
            "states_megabytes": 4e-6 * float(np.prod(shape)),
        }
        for name in compiled
    ]


def check_agreement(runs: dict[str, Any], arguments: tuple[jax.Array, ...]) -> None:
    """Values and gradients of every form against those of the first, to 1e-4 of their size."""
    first, *others = runs
    expected = jax.tree.leaves(runs[first](*arguments))
    for name in others:
        for got, want in zip(jax.tree.leaves(runs[name](*arguments)), expected, strict=True):
            size = float(jnp.max(jnp.abs(want))) + 1e-12
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * size, err_msg=name)


def show(text: str, rows: list[dict[str, Any]]) -> None:
    """Prints one shape's table."""
    print(f"\n(batch, length, d_model, d_state) = ({text}), states ", end="")
    print(f"{rows[0]['states_megabytes']:.0f} MB, forward and backward")
    print(f"  {'form':36}{'ms':>9}{'ratio':>8}{'temporary MB':>14}")
    for row in rows:
        milliseconds = "not run" if row["milliseconds"] is None else f"{row['milliseconds']:.1f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"  {row['form']:36}{milliseconds:>9}{ratio:>8}{row['temporary_megabytes']:14.1f}")


def main() -> int:
    """Parses the command line, runs, prints a table, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description="Times the selective scan.")
    parser.add_argument("--only", nargs="+", choices=["selective_scan"], default=["selective_scan"])
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="batch,length,d_model,d_state")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=4000, help="most temporary megabytes")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    machine = provenance()
    device = machine["device"]
    print(f"{device['kind']}, {device['backend']}, jax {machine['versions']['jax']}")
    rows: list[dict[str, Any]] = []
    for text in options.shape:
        try:
            batch, length, d_model, d_state = (int(n) for n in text.split(","))
        except ValueError:
            parser.error(f"--shape: got {text!r}; expected batch,length,d_model,d_state")
        new = measure((batch, length, d_model, d_state), options.repeats, options.limit)
        show(text, new)
        rows += new
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
