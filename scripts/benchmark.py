"""Time and memory of the selective scan, ours beside references, in one process.

    python scripts/benchmark.py                       every benchmark
    python scripts/benchmark.py --only selective_scan --shape 32,100,256,256 --json out.json

Each case runs forward and backward, each form in turn, `--repeats` times; the table gives the
median and the ratio to the reference, and the peak of temporary device memory that the compiler
plans for (`memory_analysis`). Values and gradients are compared with the sequential oracle first.
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


FORMS: dict[str, Callable[..., jax.Array]] = {
    "sequential oracle": selective_scan_sequential,
    "one associative scan": materialised,
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


def measure(shape: tuple[int, int, int, int], repeats: int) -> list[dict[str, Any]]:
    """One row a form."""
    arguments = problem(*shape)
    compiled = {name: compile_form(form, arguments) for name, form in FORMS.items()}
    expected = jax.tree.leaves(compiled["sequential oracle"](*arguments))
    for name, run in compiled.items():
        for got, want in zip(jax.tree.leaves(run(*arguments)), expected, strict=True):
            size = float(jnp.max(jnp.abs(want))) + 1e-12
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * size, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(repeats):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            times[name].append(time.perf_counter() - start)
    reference = statistics.median(times["one associative scan"])
    return [
        {
            "benchmark": "selective_scan",
            "shape": list(shape),
            "form": name,
            "milliseconds": 1e3 * statistics.median(times[name]),
            "times_faster_than_one_associative_scan": reference / statistics.median(times[name]),
            "temporary_megabytes": run.memory_analysis().temp_size_in_bytes / 1e6,
            "states_megabytes": 4e-6 * float(np.prod(shape)),
        }
        for name, run in compiled.items()
    ]


def main() -> int:
    """Parses the command line, runs, prints a table, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description="Times the selective scan.")
    parser.add_argument("--only", nargs="+", choices=["selective_scan"], default=["selective_scan"])
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="batch,length,d_model,d_state")
    parser.add_argument("--repeats", type=int, default=5)
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
        new = measure((batch, length, d_model, d_state), options.repeats)
        rows += new
        print(
            f"\nselective_scan, (batch, length, d_model, d_state) = ({text}), states "
            f"{new[0]['states_megabytes']:.0f} MB"
        )
        print(f"  {'form':36}{'ms':>9}{'ratio':>8}{'temporary MB':>14}")
        for row in new:
            print(
                f"  {row['form']:36}{row['milliseconds']:9.1f}"
                f"{row['times_faster_than_one_associative_scan']:8.2f}"
                f"{row['temporary_megabytes']:14.1f}"
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
