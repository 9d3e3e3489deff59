"""The selective scan, forward and backward, beside references."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from benchmarks.harness import (
    GPU_CALLS,
    Options,
    Row,
    check_agreement,
    kernel_milliseconds,
    on_gpu,
    rows,
    temporary_megabytes,
    time_in_turn,
)
from ssm.recurrence import Recurrence, stack
from ssm.scans import associative, chunked, scan, sequential
from ssm.scans.kernel import hardware_exp2
from ssm.transition import Constant, Decay, Diagonal

SHAPES = [(4, 100, 256, 256), (32, 100, 256, 16), (32, 20, 1024, 64), (64, 3, 128, 16)]
"""(batch, length, d_model, d_state): Figure 1's sizes, Figure 2's, and the quick preset's."""

GPU_SHAPES = [(32, 100, 256, 256), (32, 20, 1024, 64), (32, 3, 1024, 64), (8, 2048, 1536, 16)]
"""The same on a GPU: Figure 1's, Figure 2's longest and shortest, and a language model's."""

LENGTHS = [100, 316, 1000, 3162, 10_000]

PLAIN = "one associative scan"


def materialised(delta: jax.Array, rate: jax.Array) -> Diagonal:
    """exp(Δ A) as numbers."""
    return Diagonal(jnp.exp(delta[None] * rate))


def decay(delta: jax.Array, rate: jax.Array) -> Decay:
    """exp(Δ A) as Δ and A."""
    return Decay(delta, Constant(rate))


def selective(
    scan: Callable[..., Any], transition: Callable[..., Any] = decay
) -> Callable[..., jax.Array]:
    """The selective scan of one sequence in a form of `ssm.scans`, with Mamba's arguments."""

    def run(x, delta, a, b, c, d):
        def element(delta, b, value, c):
            return Recurrence(transition(delta, a.T), b, value, c)

        y, _ = scan(stack(element, delta, b, delta * x, c), jnp.zeros_like(a.T))
        return y + d[None] * x

    return run


OURS = "selective_scan"

FORMS: dict[str, Callable[..., jax.Array]] = {
    "sequential oracle": selective(sequential),
    PLAIN: selective(associative, materialised),
    "selective_scan, associative chunks": selective(chunked),
    OURS: selective(scan),
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
    """y, and all gradients of Σ y², compiled."""

    def run(*args):
        y, pull_back = jax.vjp(jax.vmap(form, in_axes=(0, 0, None, 0, 0, None)), *args)
        return y, *pull_back(2 * y)

    return jax.jit(run).lower(*arguments).compile()


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
        gradients = torch.autograd.grad(y, leaves, 2 * y.detach())
        return [y.detach().numpy(), *(g.numpy() for g in gradients)]

    return run


class _CudaTensor:
    """A tensor of PyTorch, as the harness takes results: it can be waited for, and be an array."""

    def __init__(self, tensor: Any):
        self.tensor = tensor

    def block_until_ready(self) -> "_CudaTensor":
        import torch

        torch.cuda.synchronize()
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.tensor.cpu().numpy(), dtype)


def mamba_ssm(arguments: tuple[jax.Array, ...]) -> Callable[[], list[_CudaTensor]] | None:
    """The same with the CUDA kernel of Mamba's authors; None if it is not installed.

    It has time last, so arguments and results are transposed, and this is not timed.
    """
    try:
        import torch
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    time_last = [np.swapaxes(v, 1, 2) if v.ndim == 3 else np.asarray(v) for v in arguments]
    leaves = [torch.tensor(np.ascontiguousarray(v), device="cuda") for v in time_last]
    for leaf in leaves:
        leaf.requires_grad_()

    def run() -> list[_CudaTensor]:
        y = selective_scan_fn(*leaves)
        gradients = torch.autograd.grad(y, leaves, 2 * y.detach())
        results = [y.detach(), *gradients]
        return [_CudaTensor(v.transpose(1, 2) if v.ndim == 3 else v) for v in results]

    return run


@cache
def gpu_peaks() -> tuple[float, float]:
    """Bytes a second of a large copy, read and written, and exponentials a second; measured."""
    ones = jnp.ones(2**28)
    milliseconds = kernel_milliseconds(partial(jax.jit(lambda x: x + 1), ones))
    bandwidth = 2 * ones.nbytes / (1e-3 * milliseconds) if milliseconds else float("nan")
    rounds, block = 512, 1024

    def kernel(x_ref, y_ref):
        y_ref[:] = jax.lax.fori_loop(0, rounds, lambda _, v: hardware_exp2(-v), x_ref[:])

    few = jnp.ones(2**22)
    exponentials = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(few.shape, few.dtype),
        grid=(few.size // block,),
        in_specs=[pl.BlockSpec((block,), lambda i: (i,))],
        out_specs=pl.BlockSpec((block,), lambda i: (i,)),
        compiler_params=plgpu.CompilerParams(num_warps=2),
    )
    milliseconds = kernel_milliseconds(partial(jax.jit(exponentials), few))
    rate = rounds * few.size / (1e-3 * milliseconds) if milliseconds else float("nan")
    return bandwidth, rate


def gpu_limits(shape: tuple[int, ...]) -> tuple[float, float]:
    """Least milliseconds of a scan and its gradients: to move each argument and result once a pass,
    and to compute exp(Δ A) once a pass."""
    batch, length, d_model, d_state = shape
    channels, states = batch * length * d_model, batch * length * d_state
    arguments = 2 * channels + d_model * d_state + 2 * states + d_model
    numbers = (arguments + channels) + (arguments + channels) + arguments
    bandwidth, rate = gpu_peaks()
    return 1e3 * 4 * numbers / bandwidth, 1e3 * 2 * channels * d_state / rate


def _gpu_columns(runs: dict[str, Callable[[], Any]], shape: tuple[int, ...]) -> dict[str, Row]:
    """Times of the kernels alone, and the limits as shares of them."""
    if not on_gpu():
        return {}
    columns: dict[str, Row] = {}
    memory, exponential = gpu_limits(shape)
    for name, run in runs.items():
        milliseconds = kernel_milliseconds(run)
        if milliseconds is not None:
            columns[name] = {
                "kernel ms": milliseconds,
                "of the bandwidth": memory / milliseconds,
                "of the exponentials": exponential / milliseconds,
            }
    return columns


def selective_scan_times(options: Options) -> list[Row]:
    """Ours, by every form that runs here, beside the plain scan, mambapy and mamba_ssm."""
    found: list[Row] = []
    for shape in GPU_SHAPES if on_gpu() else SHAPES:
        arguments = problem(*shape)
        compiled = {name: compile_form(form, arguments) for name, form in FORMS.items()}
        planned = {name: temporary_megabytes(c) for name, c in compiled.items()}
        runs: dict[str, Callable[[], Any]] = {
            name: partial(c, *arguments)
            for name, c in compiled.items()
            if planned[name] <= options.limit
        }
        others = {"mamba_ssm": mamba_ssm} if on_gpu() else {"mambapy": mambapy}
        for name, build in others.items():
            run = build(arguments)
            if run is not None:
                runs[name] = run
        check_agreement({name: run() for name, run in runs.items()}, 1e-4)
        seconds = time_in_turn(runs, options.repeats, calls=GPU_CALLS if on_gpu() else 1)
        kernels = _gpu_columns(runs, shape)
        states = 4e-6 * float(np.prod(shape))
        extra: dict[str, dict[str, Any]] = {
            name: {"temporary MB": planned[name], "of the states": planned[name] / states}
            for name in runs
            if name in planned
        }
        for other in others:
            for name in seconds if other in seconds else ():
                extra.setdefault(name, {})[f"ratio to {other}"] = seconds[other] / seconds[name]
        for name, columns in kernels.items():
            extra.setdefault(name, {}).update(columns)
        case = f"(batch, length, d_model, d_state) = {shape}, states {states:.0f} MB"
        found += rows("selective_scan", case, seconds, PLAIN, extra)
    return found


def selective_scan_lengths(options: Options) -> list[Row]:
    """Time and memory of one sequence, d_model = d_state = 256, against its length."""
    found: list[Row] = []
    for length in LENGTHS:
        arguments = problem(1, length, 256, 256)
        compiled = compile_form(FORMS[OURS], arguments)
        seconds = time_in_turn({OURS: partial(compiled, *arguments)}, 3)
        states = 4e-6 * length * 256 * 256
        planned = temporary_megabytes(compiled)
        found.append(
            {
                "benchmark": "selective_scan_lengths",
                "case": "(1, length, 256, 256)",
                "form": f"length {length}",
                "milliseconds": 1e3 * seconds[OURS],
                "temporary MB": planned,
                "of the states": planned / states,
            }
        )
    slope = np.polyfit(np.log(LENGTHS), np.log([row["milliseconds"] for row in found]), 1)[0]
    for row in found:
        row["slope of log time"] = float(slope)
    return found
