"""S4 and S5, one layer forward and backward, beside a plain form and discretax; and Figure 1's
training steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from benchmarks.harness import (
    GPU_CALLS,
    Options,
    Row,
    check_agreement,
    installed,
    on_gpu,
    rows,
    temporary_megabytes,
    time_in_turn,
)
from benchmarks.training import program_of
from ssm.mixers import S4, S5

S4_SHAPES = [(32, 100, 256, 256), (8, 1024, 128, 64), (32, 20, 1024, 64)]
S5_SHAPES = [(32, 100, 256, 128), (8, 1024, 128, 32)]
"""(batch, length, channels, modes): Figure 1's sizes, a long sequence's, and Figure 2's."""

S4_LONG = [(1, 5120, 1024, 64)]
"""Forward only: what is stored of the powers of A counts."""

OURS, PLAIN, DISCRETAX = "this code", "plain", "discretax"

FIGURE1 = {"S4": "figure1/s4", "S5": "figure1/s5"}
FIGURE1_DATA = ["task.n_paths=4000"]
STEPS = 5
"""Steps a dispatch, as a run has about a second's worth."""


class PlainS4(eqx.Module):
    """S4 as anyone would write it: the powers of A as an array, and a convolution by FFT."""

    of: S4

    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """The outputs of one sequence, without a state."""
        p, length = self.of, x.shape[0]
        dt = jnp.exp(p.log_dt)[:, None]
        log_a_bar = (p.rates() * dt.astype(jnp.complex64))[..., None]
        powers = jnp.exp(log_a_bar * jnp.arange(length).astype(log_a_bar.dtype)[None, None])
        cb = jax.lax.complex(*parts(p.c)) * jax.lax.complex(*parts(p.b * dt[..., None]))
        kernel = 2 * jnp.einsum("dn,dnl->ld", cb, powers).real
        product = jnp.fft.rfft(kernel, 2 * length, axis=0) * jnp.fft.rfft(x, 2 * length, axis=0)
        return jnp.fft.irfft(product, 2 * length, axis=0)[:length] + p.d[None] * x, None


class PlainS5(eqx.Module):
    """S5 as anyone would write it: an associative scan of pairs of complex numbers."""

    of: S5

    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """The outputs of one sequence, without a state."""
        p = self.of
        a = p.rates()
        z = a * jnp.exp(p.log_dt).astype(a.dtype)
        b_bar = (jnp.expm1(z) / a)[:, None] * jax.lax.complex(*parts(p.b))
        drive = x.astype(a.dtype) @ b_bar.T
        a_bar = jnp.broadcast_to(jnp.exp(z), drive.shape)
        states = jax.lax.associative_scan(_compose, (a_bar, drive))[1]
        return 2 * (states @ jax.lax.complex(*parts(p.c)).T).real + p.d[None] * x, None


def parts(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real and imaginary ones, of a last axis of two."""
    return z[..., 0], z[..., 1]


def _compose(first: Any, second: Any) -> Any:
    return first[0] * second[0], second[0] * first[1] + second[1]


def layers(name: str, channels: int, modes: int) -> dict[str, Any]:
    """The same layer in each form that is here."""
    ours: S4 | S5
    if name == "S4":
        ours = S4(channels, d_state=modes, key=jr.key(0))
        plain: PlainS4 | PlainS5 = PlainS4(ours)
    else:
        ours = S5(channels, d_state=2 * modes, key=jr.key(0))
        plain = PlainS5(ours)
    forms: dict[str, Any] = {OURS: ours, PLAIN: plain}
    if installed("discretax"):
        from benchmarks import discretax

        forms[DISCRETAX] = discretax.s4_like(ours) if name == "S4" else discretax.s5_like(ours)
    return forms


def compile_layer(layer: Any, x: jax.Array, backward: bool) -> Callable[[], Any]:
    """y of a batch, or y and the gradients of Σ y² with respect to x and parameters; compiled.

    The result has the compiled function as its `func`.
    """
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    def forward(x, parameters):
        layer = eqx.combine(parameters, static)
        return jax.vmap(lambda x: layer(x)[0])(x)

    def both(x, parameters):
        y, pull_back = jax.vjp(forward, x, parameters)
        return y, *pull_back(2 * y)

    function = jax.jit(both if backward else forward)
    return partial(function.lower(x, parameters).compile(), x, parameters)


def _compare(results: dict[str, Any], backward: bool) -> None:
    """discretax has other parameters: of it, the values and the derivative of x are compared."""
    if not backward:
        check_agreement(results, 1e-4)
        return
    for part in (0, 1):
        check_agreement({form: result[part] for form, result in results.items()}, 1e-4)
    same = {form: result[2] for form, result in results.items() if form != DISCRETAX}
    check_agreement(same, 1e-3)


def layer_times(
    name: str, shape: tuple[int, int, int, int], backward: bool, options: Options
) -> list[Row]:
    """One layer at one size. Forms that would need too much memory are compiled only."""
    batch, length, channels, modes = shape
    x = jr.normal(jr.key(1), (batch, length, channels))
    compiled: dict[str, Any] = {
        form: compile_layer(layer, x, backward)
        for form, layer in layers(name, channels, modes).items()
    }
    planned = {form: temporary_megabytes(run.func) for form, run in compiled.items()}
    runs = {form: run for form, run in compiled.items() if planned[form] <= options.limit}
    if runs:
        _compare({form: run() for form, run in runs.items()}, backward)
    seconds = time_in_turn(runs, options.repeats, calls=GPU_CALLS if on_gpu() else 1)
    extra: dict[str, Row] = {form: {"temporary MB": planned[form]} for form in planned}
    for form in seconds if DISCRETAX in seconds else ():
        extra[form][f"ratio to {DISCRETAX}"] = seconds[DISCRETAX] / seconds[form]
    passes = "forward and backward" if backward else "forward"
    case = f"{name} {passes}, (batch, length, channels, modes) = {shape}"
    found = rows("lti", case, seconds, PLAIN, extra)
    left = [form for form in planned if form not in runs]
    return found + [{"benchmark": "lti", "case": case, "form": f, **extra[f]} for f in left]


def lti(options: Options) -> list[Row]:
    """Each layer at each size, forward and with its gradients; and a training step of Figure 1."""
    found: list[Row] = []
    for name, shapes in (("S4", S4_SHAPES), ("S5", S5_SHAPES)):
        for shape in shapes:
            for backward in (False, True):
                found += layer_times(name, shape, backward, options)
    for shape in S4_LONG:
        found += layer_times("S4", shape, False, options)
    for name, experiment in FIGURE1.items():
        overrides = [f"+experiment={experiment}", "model.depth=1", *FIGURE1_DATA]
        program = program_of(overrides, [0])
        seconds = time_in_turn({name: partial(program.advance, STEPS)}, options.repeats)
        case = "training step of Figure 1, depth 1"
        found += rows("lti", case, {name: seconds[name] / STEPS}, PLAIN)
    return found
