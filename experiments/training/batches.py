"""Batches as a pure function of (key, step): shuffled anew each epoch, without replacement.

No shuffled order is stored. Position p of epoch e is sent to example π_e(p), where π_e is a
pseudo-random permutation computed for that position alone, so that a run resumed at any step sees
the batches it would have seen, seeds can be mapped over, and a data set of any size costs nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray, Shaped, UInt32

ROUNDS = 8


class Examples(NamedTuple):
    """Inputs and targets on the device; the leading axis counts examples."""

    inputs: Shaped[Array, "examples ..."]
    targets: Shaped[Array, "examples ..."]


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Whole batches in an epoch; examples left over are left out of that epoch.

    Raises:
        ValueError: unless 1 <= batch_size <= size.
    """
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size: got {batch_size}; expected between 1 and the {size} training examples"
        )
    return size // batch_size


def batch_indices(
    key: PRNGKeyArray, step: Int[Array, ""], size: int, batch_size: int
) -> Int[Array, "batch"]:
    """Which of `size` examples make up the batch of a step.

    Arguments:
        key: of the run and the stream of data.
        step: 0, 1, 2, …
        size, batch_size: static.
    """
    per_epoch = steps_per_epoch(size, batch_size)
    epoch, position = step // per_epoch, step % per_epoch
    positions = position * batch_size + jnp.arange(batch_size, dtype=step.dtype)
    return permutation_of(jr.fold_in(key, epoch), positions.astype(jnp.uint32), size)


def permutation_of(key: PRNGKeyArray, index: UInt32[Array, "n"], size: int) -> Int[Array, "n"]:
    """π(index) for a pseudo-random permutation π of 0 … size − 1 chosen by the key.

    An alternating Feistel network on pairs (l, r), l < a and r < b with a·b just above `size`,
    repeated until the result is below `size` (cycle walking), which keeps it a bijection.
    Source: Black and Rogaway, 2002, *Ciphers with Arbitrary Finite Domains*.
    """
    a = max(1, int(size**0.5))
    b = -(-size // a)
    round_keys = jr.bits(key, (ROUNDS,), jnp.uint32)
    u = jnp.uint32

    def encrypt(x):
        left, right = x // u(b), x % u(b)
        for i in range(0, ROUNDS, 2):
            left = (left + _mix(right ^ round_keys[i]) % u(a)) % u(a)
            right = (right + _mix(left ^ round_keys[i + 1]) % u(b)) % u(b)
        return left * u(b) + right

    def walk(carry):
        x, outside = carry
        x = jnp.where(outside, encrypt(x), x)
        return x, x >= u(size)

    start = (index, jnp.ones(index.shape, bool))
    x, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), walk, start)
    return x.astype(jnp.int32)


def _mix(x: UInt32[Array, "n"]) -> UInt32[Array, "n"]:
    """A bijection of 32-bit words that scatters every bit (MurmurHash3's finaliser)."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


def take(examples: Examples, indices: Int[Array, "batch"]) -> Examples:
    """The examples at the given indices; token indices are widened to int32."""

    def rows(x):
        x = x[indices]
        return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x

    return Examples(rows(examples.inputs), rows(examples.targets))
