"""The selective scan, forward and backward, beside references."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.harness import (
    Options,
    Row,
    check_agreement,
    rows,
    temporary_megabytes,
    time_in_turn,
)
from ssm import recurrence
from ssm.selective_scan import selective_scan, selective_scan_sequential

SHAPES = [(4, 100, 256, 256), (32, 100, 256, 16), (32, 20, 1024, 64), (64, 3, 128, 16)]
"""(batch, length, d_model, d_state): Figure 1's sizes, Figure 2's, and the quick preset's."""

LENGTHS = [100, 316, 1000, 3162, 10_000]

PLAIN = "one associative scan"


def materialised(x, delta, a, b, c, d) -> jax.Array:  # type: ignore[no-untyped-def]
    """The plain reference: one associative scan over the stored states."""
    a_bar = jnp.exp(delta[:, :, None] * a[None])
    drive = (delta * x)[:, :, None] * b[:, None, :]
    states = recurrence.associative(a_bar, drive, jnp.zeros_like(a))
    return jnp.einsum("ldn,ln->ld", states, c) + d[None] * x


FORMS: dict[str, Callable[..., jax.Array]] = {
    "sequential oracle": selective_scan_sequential,
    PLAIN: materialised,
    "selective_scan, associative chunks": lambda *v: selective_scan(*v, form="associative"),
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


def mambapy(arguments: tuple[jax.Array, ...]) -> Callable[[], list[np.ndarray]] | None:
    """The same with mambapy's parallel scan in PyTorch; None if they are not installed."""
    try:
        import torch
        from mambapy.pscan import pscan
    except ImportError:
        return None
    leaves = [torch.tensor(np.asarray(v), requires_grad=True) for v in arguments]

    def run() -> list[np.ndarray]:
        x, delta, a, b, c, d = leaves
        a_bar = torch.exp(delta[..., None] * a)
        drive = (delta * x)[..., None] * b[:, :, None, :]
        y = (pscan(a_bar, drive) @ c[..., None])[..., 0] + d * x
        loss = (y**2).mean()
        gradients = torch.autograd.grad(loss, leaves)
        return [loss.detach().numpy(), *(g.numpy() for g in gradients)]

    return run


def selective_scan_times(options: Options) -> list[Row]:
    """Ours, by every form that runs here, beside the plain scan and mambapy."""
    found: list[Row] = []
    for shape in SHAPES:
        arguments = problem(*shape)
        compiled = {name: compile_form(form, arguments) for name, form in FORMS.items()}
        planned = {name: temporary_megabytes(c) for name, c in compiled.items()}
        runs: dict[str, Callable[[], Any]] = {
            name: partial(c, *arguments)
            for name, c in compiled.items()
            if planned[name] <= options.limit
        }
        torch_run = mambapy(arguments)
        if torch_run is not None:
            runs["mambapy"] = torch_run
        check_agreement({name: run() for name, run in runs.items()}, 1e-4)
        seconds = time_in_turn(runs, options.repeats)
        states = 4e-6 * float(np.prod(shape))
        extra: dict[str, dict[str, Any]] = {
            name: {"temporary MB": planned[name], "of the states": planned[name] / states}
            for name in runs
            if name in planned
        }
        if "mambapy" in seconds:
            for name in seconds:
                extra.setdefault(name, {})["ratio to mambapy"] = seconds["mambapy"] / seconds[name]
        case = f"(batch, length, d_model, d_state) = {shape}, states {states:.0f} MB"
        found += rows("selective_scan", case, seconds, PLAIN, extra)
    return found


def selective_scan_lengths(options: Options) -> list[Row]:
    """Time and memory of one sequence, d_model = d_state = 256, against its length."""
    found: list[Row] = []
    for length in LENGTHS:
        arguments = problem(1, length, 256, 256)
        compiled = compile_form(selective_scan, arguments)
        seconds = time_in_turn({"selective_scan": partial(compiled, *arguments)}, 3)
        states = 4e-6 * length * 256 * 256
        planned = temporary_megabytes(compiled)
        found.append(
            {
                "benchmark": "selective_scan_lengths",
                "case": "(1, length, 256, 256)",
                "form": f"length {length}",
                "milliseconds": 1e3 * seconds["selective_scan"],
                "temporary MB": planned,
                "of the states": planned / states,
            }
        )
    slope = np.polyfit(np.log(LENGTHS), np.log([row["milliseconds"] for row in found]), 1)[0]
    for row in found:
        row["slope of log time"] = float(slope)
    return found
