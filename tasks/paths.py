"""Random paths: the rounded Gaussian walks of the published experiment."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float32

from tasks import arguments


class Walks(NamedTuple):
    """Paths on a lattice: every coordinate is a whole number of units."""

    paths: Float32[np.ndarray, "n_paths length dimension"]
    unit: float


def rounded_random_walks(n_paths: int, length: int, dimension: int, seed: int = 1234) -> Walks:
    """Returns walks X_t = c · Σ_{s ≤ t} round(g_s), g_s ~ N(0, I), with max|X| = 1 over all, and c.

    The normal numbers are JAX's for `PRNGKey(seed)` and the shape (n_paths, length, dimension), in
    the bit order that was JAX's default before version 0.5 (`jax_threefry_partitionable=False`),
    whatever the settings around the call. With 100,000 paths of length 100 and seed 1234 they are
    the data set published with Cirone et al. (2024), *Theoretical Foundations of Deep Selective
    State-Space Models*.

    Raises:
        TypeError, ValueError: if a count is not a positive integer, `seed` is not in [0, 2³²), or
            every increment that was drawn is zero, so that there is nothing to scale by.
    """
    arguments.integer("n_paths", n_paths, 1)
    arguments.integer("length", length, 1)
    arguments.integer("dimension", dimension, 1)
    arguments.integer("seed", seed, 0, 2**32 - 1)
    key = jr.key(seed, impl="threefry2x32")
    with jax.threefry_partitionable(False):
        normals = jr.normal(key, (n_paths, length, dimension), jnp.float32)
    paths = np.cumsum(np.asarray(jnp.round(normals)), axis=1)
    largest = max(paths.max(), -paths.min())
    if largest == 0:
        raise ValueError(
            f"n_paths must be large enough for one step that is not zero, got {n_paths} paths of "
            f"length {length} in dimension {dimension} that never move with seed {seed}."
        )
    return Walks(paths / largest, 1 / float(largest))
