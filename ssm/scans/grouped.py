"""Linear CDEs over many paths on a lattice, whose increments therefore take few values.

Over an interval with increment v a step of a solver is Z ↦ E_v Z + f_v, for every path alike. Where
100,000 paths of 100 points have 100 different increments between them, as the 2D paths of Figure 1
have, 100 matrices do for 10 million intervals; each step is then one product for each different
increment, with the states of all the paths that take it.

An adaptive solver takes the same steps for every path where the paths' errors are small enough.
That is checked by a bound that costs nothing; where it does not hold, `Ungrouped` is raised, and
the paths have to be solved one by one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssm.cde.base import AbstractSolver, Part
from ssm.cde.generator import DenseGenerator, Flow

MOST_MATRICES = 2048
"""Most matrices that are kept: 0.5 GB for d_hidden = 256."""


class Ungrouped(Exception):
    """Many paths have to be solved one by one; the message says why."""


class Steps(NamedTuple):
    """The increments of many paths: `values[which[n, s]]` is path n's over interval s."""

    values: Float[np.ndarray, "distinct channels"]
    which: Int[np.ndarray, "paths steps"]


def distinct_steps(x: Float[np.ndarray, "paths length channels"], unit: float, most: int) -> Steps:
    """The different increments of paths whose coordinates are whole numbers of `unit`.

    Raises:
        Ungrouped: if there are more than `most`, or none.
        ValueError: if a coordinate is not finite, or no whole number of units.
    """
    paths, steps, channels = x.shape[0], x.shape[1] - 1, x.shape[2]
    if paths * steps == 0:
        raise Ungrouped("there is no interval")
    if not np.isfinite(x).all():
        raise ValueError("paths: got a coordinate that is not finite")
    points = np.rint(x / unit).astype(np.int64)
    if not np.allclose(points * unit, x, rtol=0, atol=0.01 * unit):
        raise ValueError(f"unit: got {unit}; expected one that every coordinate is a multiple of")
    increments = np.diff(points, axis=1).reshape(-1, channels)
    least = increments.min(axis=0)
    sizes = increments.max(axis=0) - least + 1
    if (codes := int(np.prod(sizes, dtype=object))) > 2**40:
        raise Ungrouped(f"there may be {codes:,} different increments")
    code = np.ravel_multi_index(tuple((increments - least).T), tuple(sizes))
    if codes <= len(code):  # few possible codes: counted, else sorted
        used = np.flatnonzero(np.bincount(code, minlength=codes))
        index = np.searchsorted(used, np.arange(codes))[code]
    else:
        used, index = np.unique(code, return_inverse=True)
    if len(used) > most:
        raise Ungrouped(f"there are {len(used):,} different increments, more than {most:,}")
    values = np.stack(np.unravel_index(used, tuple(sizes)), axis=1) + least
    return Steps((values * unit).astype(x.dtype), index.reshape(paths, steps).astype(np.int32))


def final_states(
    solver: AbstractSolver,
    a: Float[Array, "omega d_hidden d_hidden"],
    b: Float[Array, "d_hidden xi"],
    z0: Float[Array, "paths d_hidden"],
    steps: Steps,
    after_step: Callable[[int], None] = lambda step: None,
) -> Float[np.ndarray, "paths d_hidden"]:
    """The states at the end of all paths, for dense A and the gates ω = ξ = (t, X).

    The products are the host's: a group of paths is of any size, its states are a slice of an
    array, and each matrix is read where it lies.

    Arguments:
        solver: how a step is made.
        a, b: dense A_i, and B.
        z0: initial states.
        steps: from `distinct_steps`.
        after_step: called with the number of intervals done.

    Raises:
        Ungrouped: if an adaptive solver might take other steps for some path.
    """
    (paths, intervals), distinct = steps.which.shape, len(steps.values)
    dt = np.full((distinct, 1), 1 / intervals, steps.values.dtype)
    increments = np.concatenate([dt, steps.values], axis=1)
    m = np.abs(increments) @ np.linalg.norm(np.asarray(a), ord=2, axis=(1, 2))
    c = np.linalg.norm(increments @ np.asarray(b).T, axis=1)
    z, moved = np.array(z0), np.empty_like(z0)
    row, last = np.arange(paths), None
    short = np.uint16 if distinct <= 2**16 else np.int32  # NumPy sorts 16 bits by radix
    for step, parts in enumerate(solver.schedule(intervals)):
        order = np.argsort(steps.which[:, step].astype(short), kind="stable")
        ends = np.cumsum(np.bincount(steps.which[:, step], minlength=distinct))
        np.take(z, row[order], axis=0, out=moved, mode="clip")  # "raise" would make a copy
        z, moved = moved, z
        row[order] = np.arange(paths)
        for part in parts:
            if part.fraction != last:
                some = jnp.asarray(increments * part.fraction)
                flows, drives = jax.device_get(_propagators(solver, a, b, some))
                p, q = solver.error_bounds(m * part.fraction, c * part.fraction, z.shape[1])
                last = part.fraction
            if not _advance(z, moved, ends, flows, drives, p, q, part):
                raise Ungrouped("the solver may take other steps for some paths than for others")
            z, moved = moved, z
        after_step(step + 1)
    return z[row]


@jax.jit
def _propagators(solver, a, b, increments):
    """E_v transposed, and f_v, for each increment."""

    def one(v):
        r = solver.element(DenseGenerator(a), v, b @ v)
        flow = r.transition.matrix()
        if isinstance(r.transition, Flow):
            return flow[:-1, :-1].T, flow[:-1, -1]
        return flow.T, r.drive()

    return jax.lax.map(one, increments)


def _advance(
    z: np.ndarray,
    new: np.ndarray,
    ends: np.ndarray,
    flows: np.ndarray,
    drives: np.ndarray,
    p: np.ndarray,
    q: np.ndarray,
    part: Part,
) -> bool:
    """Writes to `new` the states after a step from `z`, whose rows ends[v − 1] to ends[v] take the
    increment v. Returns False if an error estimate may be too large."""
    start = 0
    for v, end in enumerate(ends):
        if start == end:
            continue
        before, after = z[start:end], new[start:end]
        np.matmul(before, flows[v], out=after)
        after += drives[v]
        if part.most_error < np.inf:
            norm = np.sqrt(np.max(np.einsum("ni,ni->n", before, before)))
            if not p[v] * norm + q[v] < part.most_error:
                return False
        start = end
    return True
