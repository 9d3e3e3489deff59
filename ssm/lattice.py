"""Linear CDEs over many paths whose increments take few values, such as walks on a lattice.

Over an interval with increment v the exact flow is Z ↦ E_v Z + f_v, with E_v = exp(M_v) and
f_v = φ₁(M_v) B v. Where 100,000 paths of 100 points have 100 different increments between them, as
the 2D paths of Figure 1 have, 100 matrix exponentials do for 10 million intervals; each step is
then one product for each different increment, with the states of all the paths that take it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssm.cde import Drive, ExactFlow, Matrices

TILE = 128
"""Paths in a product. A group of paths is cut into tiles, the last of which is filled up."""

TOLERANCE = 1e-5
"""Increments that differ by less, relative to the largest number in the paths, are one."""


class Steps(NamedTuple):
    """The increments of many paths: `values[which[n, s]]` is path n's over interval s."""

    values: Float[np.ndarray, "distinct channels"]
    which: Int[np.ndarray, "paths steps"]


def distinct_steps(x: Float[np.ndarray, "paths length channels"], most: int) -> Steps | None:
    """The different increments of paths, or None if there are more than `most`.

    Each channel's increments are put in order; a gap above the tolerance begins a new value. Where
    increments lie so close that a value would have instances further from it than the tolerance,
    they are on no lattice: None.
    """
    increments = np.diff(np.asarray(x, np.float64), axis=1)
    paths, steps, channels = increments.shape
    if paths * steps == 0:
        return None
    tolerance = TOLERANCE * float(np.max(np.abs(x))) + np.finfo(np.float64).tiny
    code = np.zeros(paths * steps, np.int64)
    for channel in range(channels):
        seen = np.sort(np.unique(increments[..., channel].astype(np.float32)))
        starts = np.concatenate([seen[:1], seen[1:][np.diff(seen) > tolerance]])
        if len(starts) > most:
            return None
        part = np.searchsorted(starts, increments[..., channel].ravel() + tolerance / 2, "right")
        code = code * (len(starts) + 1) + part
    seen, index = np.unique(code, return_inverse=True)
    if len(seen) > most:
        return None
    # The mean of a value's rounded instances.
    flat = increments.reshape(-1, channels)
    count = np.bincount(index)[:, None]
    values = np.stack([np.bincount(index, flat[:, c]) for c in range(channels)], axis=1) / count
    if np.max(np.abs(flat - values[index])) > tolerance:
        return None
    return Steps(values.astype(x.dtype), index.reshape(paths, steps).astype(np.int32))


def _sort(index: Int[np.ndarray, "paths"], distinct: int) -> tuple[np.ndarray, np.ndarray]:
    """The paths of one step, sorted by increment and cut into tiles.

    Returns:
        The row of each path, where tile i has rows TILE·i to TILE·(i + 1); and each tile's
        increment.
    """
    counts = np.bincount(index, minlength=distinct)
    tiles = -(-counts // TILE)
    first_row, first_path = (np.cumsum(tiles) - tiles) * TILE, np.cumsum(counts) - counts
    order = np.argsort(index.astype(np.uint16), kind="stable")
    row = np.empty(len(index), np.int32)
    row[order] = np.arange(len(index)) + (first_row - first_path)[index[order]]
    return row, np.repeat(np.arange(distinct, dtype=np.int32), tiles)


def final_states(
    solver: ExactFlow,
    a: Matrices,
    b: Drive,
    z0: Float[Array, "paths d_hidden"],
    steps: Steps,
    after_step: Callable[[int], None] = lambda step: None,
) -> Float[Array, "paths d_hidden"]:
    """The states at the end of all paths, for dense A and the gates ω = ξ = (t, X).

    Not for use under `jax.jit`: the paths are grouped on the host.

    Arguments:
        solver: how the exponentials are made.
        a, b: dense A_i, and B.
        z0: initial states.
        steps: from `distinct_steps`.
        after_step: called with the number of intervals done.
    """
    (paths, intervals), distinct = steps.which.shape, len(steps.values)
    dt = np.full((distinct, 1), 1 / intervals, steps.values.dtype)
    increments = jnp.asarray(np.concatenate([dt, steps.values], axis=1))
    flows, drives = _propagators(solver, a, b, increments)
    tiles = -(-paths // TILE) + distinct  # enough for any step
    z, row = jnp.asarray(z0), np.arange(paths, dtype=np.int32)
    for step in range(intervals):
        new_row, increment = _sort(steps.which[:, step], distinct)
        source = np.zeros(tiles * TILE, np.int32)
        source[new_row] = row
        used = np.int32(len(increment))
        increment = np.pad(increment, (0, tiles - used))
        z = _advance(flows, drives, z, source.reshape(tiles, TILE), increment, used)
        row = new_row
        after_step(step + 1)
    return z[row]


@jax.jit
def _propagators(solver, a, b, increments):
    """E_v transposed, and f_v, for each increment."""

    def propagator(v):
        flow, drive = solver.propagator(a, b, v, v)
        return flow.T, drive

    return jax.lax.map(propagator, increments)


@jax.jit
def _advance(flows, drives, z, source, increment, used):
    """Tile i of the result has the rows source[i] of z, after the increment of that tile."""

    def tile(i, new):
        part = z[source[i]] @ flows[increment[i]] + drives[increment[i]][None]
        return jax.lax.dynamic_update_slice(new, part, (i * source.shape[1], jnp.zeros_like(i)))

    new = jnp.zeros((source.size, z.shape[1]), z.dtype)
    return jax.lax.fori_loop(0, used, tile, new)
