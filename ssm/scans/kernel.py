"""The selective scan as one fused GPU kernel, forward and backward (Pallas, Triton backend).

The recurrence is h_t = exp(Δ_t A) ⊙ h_{t−1} + k_t v_tᵀ, y_t = q_tᵀ h_t. A program, which is one
warp, owns a tile of (channels, state numbers), keeps its part of h in registers and walks through
time: it reads v, Δ, k and q and writes y, nothing of the size of the states. When a gradient is
wanted it also writes the state between chunks of at most `CHUNK` steps. The backward pass visits
the chunks from last to first, recomputes the states of a chunk in registers, and runs the adjoint

    g_t = q_t ∂y_tᵀ + exp(Δ_{t+1} A) ⊙ g_{t+1}.

Sums over state numbers (y, ∂v, ∂Δ) are per tile of state numbers, sums over channels (∂k, ∂q) per
tile of channels. These partial sums are added outside the kernel, not by atomic operations, so a
result is the same at every run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from ssm.recurrence import Recurrence

CHUNK = 8
"""Most steps a chunk: so many states the backward pass holds in registers at a time."""

TILE = 512
"""Numbers of state a program, 16 a thread."""

TILE_STATES = 16
"""Most state numbers of a channel in a tile: with `TILE`, up to 32 channels a program."""

COMPUTE_CAPABILITY = 8.0
"""The least that the kernel is meant for: Ampere."""

_LOG2_E = math.log2(math.e)


def kernel_runs(*arguments: Array) -> bool:
    """Whether `kernel` can run these arguments on the default backend.

    It can on a CUDA GPU of compute capability 8.0 (Ampere) or later, if all arguments are float32
    and none is empty. Only shapes and dtypes are looked at, so the arguments may be traced.
    """
    if any(v.dtype != jnp.float32 or v.size == 0 for v in arguments):
        return False
    if jax.default_backend() != "gpu":
        return False
    try:  # of a ROCm device it is a name, such as gfx90a
        return float(jax.devices()[0].compute_capability) >= COMPUTE_CAPABILITY
    except (AttributeError, ValueError):
        return False


def kernel(
    r: Recurrence, h0: Float[Array, "n m"], *, interpret: bool = False
) -> tuple[Float[Array, "length m"], Float[Array, "n m"]]:
    """y_1 … y_L and h_L of a recurrence with `Decay` transitions, key, value and query.

    Under `vmap` the batch is an axis of the kernel's grid, and an argument without a batch axis is
    not copied. There are gradients with respect to all arguments, by reverse mode only.

    Arguments:
        interpret: run the kernel as plain JAX on any device, slowly: for tests.
    """
    rate = r.transition.rate.value
    return _scan(interpret, rate.T, h0.T, r.value, r.transition.delta, r.key, r.query)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(interpret, a, h0, v, delta, k, q):
    y, last, *_ = _forward(interpret, False, a, h0, v, delta, k, q)
    return y, last


def _scan_forward(interpret, *arguments):
    y, last, *boundaries = _forward(interpret, True, *arguments)
    return (y, last), (arguments, boundaries)


def _scan_backward(interpret, residuals, derivatives):
    (a, h0, v, delta, k, q), boundaries = residuals
    dy, dlast = derivatives
    plan = _Plan(v.shape[0], a.shape[0], a.shape[1])
    da, dh0, dv, ddelta, dk, dq = plan.call(
        _backward_kernel,
        (a, h0, v, delta, k, q, dy, dlast.T, *boundaries),
        ("c s", "c s", "t c", "t c", "t s", "t s", "t c", "c s", *["k c s"] * len(boundaries)),
        ("c s", "c s", "j t c", "j t c", "i t s", "i t s"),
        interpret,
    )
    return da, dh0, jnp.sum(dv, 0), jnp.sum(ddelta, 0), jnp.sum(dk, 0), jnp.sum(dq, 0)


_scan.defvjp(_scan_forward, _scan_backward)


def _forward(interpret, keep, a, h0, v, delta, k, q):
    """y, the last state and, if they are to be kept, the states between chunks where there are."""
    plan = _Plan(v.shape[0], a.shape[0], a.shape[1])
    y, last, *boundaries = plan.call(
        _forward_kernel,
        (a, h0, v, delta, k, q),
        ("c s", "c s", "t c", "t c", "t s", "t s"),
        ("j t c", "c s", "k c s") if keep and plan.chunks > 1 else ("j t c", "c s"),
        interpret,
    )
    return jnp.sum(y, 0), last.T, *boundaries


@dataclass(frozen=True)
class _Plan:
    """How (length, d_model, d_state) is cut: tiles of powers of two, chunks of equal steps."""

    length: int
    d_model: int
    d_state: int

    @property
    def states(self) -> int:
        return min(pl.next_power_of_2(self.d_state), TILE_STATES)

    @property
    def channels(self) -> int:
        return min(pl.next_power_of_2(self.d_model), TILE // self.states)

    @property
    def grid(self) -> tuple[int, int]:
        return pl.cdiv(self.d_model, self.channels), pl.cdiv(self.d_state, self.states)

    @property
    def chunks(self) -> int:
        return pl.cdiv(self.length, CHUNK)

    @property
    def steps(self) -> int:
        return pl.cdiv(self.length, self.chunks)

    def array(self, axes: str) -> tuple[tuple[int, ...], pl.BlockSpec]:
        """The shape of an array and what a program sees of it.

        Axes: time t, boundaries k, channels c, state numbers s; tiles of channels i, of states j.
        """
        sizes = {
            "t": (self.length, self.length),
            "k": (self.chunks - 1, self.chunks - 1),
            "c": (self.d_model, self.channels),
            "s": (self.d_state, self.states),
            "i": (self.grid[0], None),
            "j": (self.grid[1], None),
        }
        shape, block = zip(*(sizes[axis] for axis in axes.split()), strict=True)

        def index(i, j):
            return tuple({"c": i, "i": i, "s": j, "j": j}.get(axis, 0) for axis in axes.split())

        return shape, pl.BlockSpec(block, index)

    def call(
        self,
        kernel: Any,
        arguments: Sequence[Array],
        inputs: Sequence[str],
        outputs: Sequence[str],
        interpret: bool,
    ) -> Sequence[Array]:
        """Runs a kernel on arrays whose axes are `inputs`; returns arrays with axes `outputs`."""
        shapes, blocks = zip(*(self.array(axes) for axes in outputs), strict=True)
        return pl.pallas_call(
            partial(kernel, self, jnp.exp2 if interpret else hardware_exp2),
            out_shape=[jax.ShapeDtypeStruct(shape, arguments[0].dtype) for shape in shapes],
            grid=self.grid,
            in_specs=[self.array(axes)[1] for axes in inputs],
            out_specs=list(blocks),
            compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
            interpret=interpret,
        )(*arguments)


class _Tile:
    """Loads and stores of one program. What lies outside an array reads as 0 and is not written."""

    def __init__(self, plan: _Plan):
        self.length = None if plan.length % plan.steps == 0 else plan.length
        self.sizes = {"c": plan.channels, "s": plan.states}
        self.inside = {}
        for k, (axis, size) in enumerate([("c", plan.d_model), ("s", plan.d_state)]):
            block = self.sizes[axis]
            if size % block:
                index = pl.program_id(k) * block + jnp.arange(block, dtype=jnp.int32)
                self.inside[axis] = index < size

    def _at(self, ref, axes, t, when):
        """The part of a reference, and its mask, if it needs one."""
        conditions = [] if when is None else [when]
        if t is not None and self.length is not None:
            conditions.append(t < self.length)
        for axis in axes:
            if axis in self.inside:
                inside = self.inside[axis]
                conditions.append(
                    inside if len(axes) == 1 else jnp.expand_dims(inside, 1 - axes.index(axis))
                )
        shape = tuple(self.sizes[axis] for axis in axes)
        masks = [jnp.broadcast_to(condition, shape) for condition in conditions]
        return ref if t is None else ref.at[t], reduce(jnp.logical_and, masks) if masks else None

    def load(self, ref, axes, t=None, *, when=None):
        part, mask = self._at(ref, axes, t, when)
        return plgpu.load(part, mask=mask, other=None if mask is None else 0.0)

    def rows(self, t, *, c, s):
        """Rows t of arrays over channels and of arrays over state numbers."""
        return [self.load(ref, "c", t) for ref in c] + [self.load(ref, "s", t) for ref in s]

    def store(self, ref, value, axes, t=None, *, when=None):
        part, mask = self._at(ref, axes, t, when)
        plgpu.store(part, value, mask=mask)


def hardware_exp2(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """2^v in one GPU instruction, the one in `jnp.exp2`, which spends three more on subnormals."""
    if v.dtype != jnp.float32:
        return jnp.exp2(v)
    (result,) = plgpu.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[v],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(v.shape, v.dtype)],
    )
    return result


# In both kernels the loads of a chunk stand before its stores, over which the compiler does not
# move them, and before the arithmetic that they would hold up.


def _forward_kernel(plan, exp2, a_ref, h0_ref, v_ref, delta_ref, k_ref, q_ref, *refs):
    y_ref, last_ref, *boundary_ref = refs
    tile = _Tile(plan)
    a = _LOG2_E * tile.load(a_ref, "cs")

    def chunk(n, h):
        times = [n * plan.steps + step for step in range(plan.steps)]
        rows = [tile.rows(t, c=(v_ref, delta_ref), s=(k_ref, q_ref)) for t in times]
        y = []
        for v, delta, k, q in rows:
            h = exp2(delta[:, None] * a) * h + v[:, None] * k[None, :]
            y.append(jnp.sum(h * q[None, :], axis=1))
        for t, y_t in zip(times, y, strict=True):
            tile.store(y_ref, y_t, "c", t)
        for ref in boundary_ref:  # the state after the last chunk is no boundary
            tile.store(ref.at[jnp.minimum(n, plan.chunks - 2)], h, "cs", when=n < plan.chunks - 1)
        return h

    last = jax.lax.fori_loop(0, plan.chunks, chunk, tile.load(h0_ref, "cs"))
    tile.store(last_ref, last, "cs")


def _backward_kernel(plan, exp2, a_ref, h0_ref, v_ref, delta_ref, k_ref, q_ref, *refs):
    dy_ref, dlast_ref, *boundary_ref, da_ref, dh0_ref, dv_ref, ddelta_ref, dk_ref, dq_ref = refs
    tile = _Tile(plan)
    a = _LOG2_E * tile.load(a_ref, "cs")
    h0 = tile.load(h0_ref, "cs")

    def recompute(times, h):
        """exp(Δ_t A) h_{t−1} for each t; writes ∂q, which needs no adjoint."""
        rows = [tile.rows(t, c=(v_ref, delta_ref, dy_ref), s=(k_ref,)) for t in times]
        decayed, dq = [], []
        for v, delta, dy, k in rows:
            decayed.append(exp2(delta[:, None] * a) * h)
            h = decayed[-1] + v[:, None] * k[None, :]
            dq.append(jnp.sum(h * dy[:, None], axis=0))
        for t, dq_t in zip(times, dq, strict=True):
            tile.store(dq_ref, dq_t, "s", t)
        return decayed

    def chunk(back, carry):
        g, da = carry  # g: what later steps pass back, exp(Δ_{t+1} A) g_{t+1}
        n = plan.chunks - 1 - back
        times = [n * plan.steps + step for step in range(plan.steps)]
        h = h0
        for ref in boundary_ref:
            before = tile.load(ref.at[jnp.maximum(n - 1, 0)], "cs", when=n > 0)
            h = jnp.where(n > 0, before, h0)
        decayed = recompute(times, h)

        def rows(step):  # again: to keep them would take more registers than there are
            return tile.rows(times[step], c=(v_ref, delta_ref, dy_ref), s=(k_ref, q_ref))

        sums = []
        ahead = rows(plan.steps - 1)
        for step in reversed(range(plan.steps)):
            v, delta, dy, k, q = ahead
            ahead = rows(step - 1) if step else None
            g = g + dy[:, None] * q[None, :]
            rate = g * decayed[step]
            sums.append(
                (
                    jnp.sum(g * k[None, :], axis=1),
                    jnp.sum(rate * a, axis=1) / _LOG2_E,
                    jnp.sum(g * v[:, None], axis=0),
                )
            )
            da += rate * delta[:, None]
            g = g * exp2(delta[:, None] * a)
        for t, (dv, ddelta, dk) in zip(reversed(times), sums, strict=True):
            tile.store(dv_ref, dv, "c", t)
            tile.store(ddelta_ref, ddelta, "c", t)
            tile.store(dk_ref, dk, "s", t)
        return g, da

    start = (tile.load(dlast_ref, "cs"), jnp.zeros_like(a))
    dh0, da = jax.lax.fori_loop(0, plan.chunks, chunk, start)
    tile.store(da_ref, da, "cs")
    tile.store(dh0_ref, dh0, "cs")
