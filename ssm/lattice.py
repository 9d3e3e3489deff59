"""Linear CDEs over many paths whose increments take few values, such as walks on a lattice.

Over an interval with increment v a step of a solver is Z ↦ E_v Z + f_v, for every path alike: for
the exact flow E_v = exp(M_v) and f_v = φ₁(M_v) B v, for a Runge–Kutta method their approximations
(`ssm.cde.AbstractPropagatingSolver`). Where 100,000 paths of 100 points have 100 different
increments between them, as the 2D paths of Figure 1 have, 100 matrices do for 10 million intervals;
each step is then one product for each different increment, with the states of all the paths that
take it.

An adaptive solver takes the same steps for every path where the paths' errors are small enough.
That is checked by a bound that costs nothing; where it does not hold there is no result, and the
paths have to be solved one by one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssm.cde import AbstractPropagatingSolver, Drive, Matrices, Part

ROUNDINGS = 8
"""Increments that differ by less than so many roundings of a channel's largest number are one."""


class Steps(NamedTuple):
    """The increments of many paths: `values[which[n, s]]` is path n's over interval s."""

    values: Float[np.ndarray, "distinct channels"]
    which: Int[np.ndarray, "paths steps"]


def distinct_steps(x: Float[np.ndarray, "paths length channels"], most: int) -> Steps | None:
    """The different increments of paths, or None if there are more than `most`.

    Each channel's increments are put in order; a gap above the tolerance begins a new value. Where
    increments lie so close that a value would have instances further from it than the tolerance, or
    the tolerance is not small beside them, they are on no lattice: None.
    """
    paths, steps, channels = x.shape[0], x.shape[1] - 1, x.shape[2]
    if paths * steps == 0:
        return None
    code, codes, flat, tolerances = np.zeros(paths * steps, np.int64), 1, [], []
    for channel in range(channels):
        increments = np.diff(x[..., channel].astype(np.float64), axis=1).ravel()
        tolerance = ROUNDINGS * float(np.finfo(x.dtype).eps * np.max(np.abs(x[..., channel])))
        largest = float(np.max(np.abs(increments)))
        if not (largest == 0 or tolerance < 1e-3 * largest):
            return None
        seen = np.unique(increments.astype(x.dtype))
        starts = np.concatenate([seen[:1], seen[1:][np.diff(seen) > tolerance]])
        if len(starts) > most:
            return None
        part = np.searchsorted(starts, increments + tolerance / 2, "right")
        code, codes = code * (len(starts) + 1) + part, codes * (len(starts) + 1)
        flat.append(increments)
        tolerances.append(tolerance)
    if codes <= len(code):  # few possible codes: counted, else sorted
        count = np.bincount(code, minlength=codes)
        used = np.flatnonzero(count)
        index, count = (np.cumsum(count > 0) - 1)[code], count[used]
    else:
        used, index, count = np.unique(code, return_inverse=True, return_counts=True)
    if len(used) > most:
        return None
    # The mean of a value's rounded instances.
    values = np.stack([np.bincount(index, c) / count for c in flat], axis=1)
    errors = (np.max(np.abs(c - values[index, i])) for i, c in enumerate(flat))
    if not all(error <= tolerance for error, tolerance in zip(errors, tolerances, strict=True)):
        return None
    return Steps(values.astype(x.dtype), index.reshape(paths, steps).astype(np.int32))


def final_states(
    solver: AbstractPropagatingSolver,
    a: Matrices,
    b: Drive,
    z0: Float[Array, "paths d_hidden"],
    steps: Steps,
    after_step: Callable[[int], None] = lambda step: None,
) -> Float[np.ndarray, "paths d_hidden"] | None:
    """The states at the end of all paths, for dense A and the gates ω = ξ = (t, X).

    The products are the host's: a group of paths is of any size, its states are a slice of an
    array, and each matrix is read where it lies.

    Arguments:
        solver: how a step is made.
        a, b: dense A_i, and B.
        z0: initial states.
        steps: from `distinct_steps`.
        after_step: called with the number of intervals done.

    Returns:
        The states, or None if an adaptive solver might take other steps for some path.
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
                return None
            z, moved = moved, z
        after_step(step + 1)
    return z[row]


@jax.jit
def _propagators(solver, a, b, increments):
    """E_v transposed, and f_v, for each increment."""
    flows, drives = jax.lax.map(lambda v: solver.propagator(a, b, v, v), increments)
    return jnp.swapaxes(flows, 1, 2), drives


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
