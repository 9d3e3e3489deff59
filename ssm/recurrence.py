"""Linear recurrences h_t = A_t h_{t−1} + b_t, for diagonal and dense A_t, in three forms.

`sequential` is the oracle to read; `associative` and `chunked` compute the same with less depth or
less memory. All take (A, b, h_0) and return every state h_1 … h_L. The elements (A, b) compose as
(A₂, b₂)∘(A₁, b₁) = (A₂A₁, A₂b₁ + b₂), which is associative: hence the parallel scan
(Blelloch, 1990).

Whether A is diagonal or dense is told by its rank: A of the shape of b is diagonal, A with one axis
more than b holds square matrices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact


def _apply(a: Inexact[Array, "..."], h: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """A h for one step or a stack of steps."""
    return a * h if a.ndim == h.ndim else jnp.einsum("...ij,...j->...i", a, h)


def _compose(first, second):
    """The element of applying `first`, then `second`."""
    (a1, b1), (a2, b2) = first, second
    a21 = a2 * a1 if a1.ndim == b1.ndim else a2 @ a1
    return a21, _apply(a2, b1) + b2


def check(a: Inexact[Array, "..."], b: Inexact[Array, "..."], h0: Inexact[Array, "..."]) -> None:
    """Shapes of a recurrence.

    Raises:
        ValueError: unless b is (length, *state), h_0 is (*state) and A is (length, *state) or, for
            dense matrices, (length, *state, state).
    """
    dense = (*b.shape, b.shape[-1])
    if a.shape not in (b.shape, dense) or h0.shape != b.shape[1:]:
        raise ValueError(
            f"recurrence: got A {a.shape}, b {b.shape}, h_0 {h0.shape}; expected b (length, *state)"
            f", h_0 {b.shape[1:]}, and A {b.shape} (diagonal) or {dense} (dense)"
        )


def sequential(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "..."],
    h0: Inexact[Array, "..."],
    *,
    unroll: bool = False,
) -> Inexact[Array, "..."]:
    """h_t = A_t h_{t−1} + b_t, one step after the other: the readable oracle.

    Arguments:
        a: (length, *state) diagonals or (length, *state, state) matrices.
        b: (length, *state).
        h0: (*state).
        unroll: compile without a loop, which is faster for a few steps.

    Returns:
        (length, *state), the states h_1 … h_length.
    """
    check(a, b, h0)

    def step(h, element):
        a_t, b_t = element
        h = _apply(a_t, h) + b_t
        return h, h

    return jax.lax.scan(step, h0, (a, b), unroll=unroll)[1]


def associative(
    a: Inexact[Array, "..."], b: Inexact[Array, "..."], h0: Inexact[Array, "..."]
) -> Inexact[Array, "..."]:
    """`sequential`, as a parallel prefix scan of logarithmic depth. Arguments as there."""
    check(a, b, h0)
    products, sums = jax.lax.associative_scan(_compose, (a, b))
    return _apply(products, jnp.broadcast_to(h0, b.shape)) + sums


def chunked(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "..."],
    h0: Inexact[Array, "..."],
    *,
    chunk: int = 64,
) -> Inexact[Array, "..."]:
    """`sequential`, as parallel scans over chunks, one chunk after the other.

    The backward pass keeps the state at chunk boundaries only and recomputes within a chunk.

    Arguments:
        chunk: steps a chunk; any length is allowed (the last chunk is padded).
        (others as in `sequential`)
    """
    check(a, b, h0)
    length = b.shape[0]
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}; expected a positive number of steps")
    if length <= chunk:
        return associative(a, b, h0)
    chunks = -(-length // chunk)
    padding = chunks * chunk - length

    def split(x):
        # The filling is cut off again below, so its values need not be identities.
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(chunks, chunk, *x.shape[1:])

    @jax.checkpoint
    def step(h, element):
        a_chunk, b_chunk = element
        states = associative(a_chunk, b_chunk, h)
        return states[-1], states

    states = jax.lax.scan(step, h0, (split(a), split(b)))[1]
    return states.reshape(chunks * chunk, *b.shape[1:])[:length]
