"""Parallel prefix scans, for transitions whose products keep their structure.

The elements (A, b) of h ↦ A h + b compose as (A₂, b₂)∘(A₁, b₁) = (A₂A₁, A₂b₁ + b₂), which is
associative: hence a scan of logarithmic depth (Blelloch, 1990). It holds the states of a whole
sequence; in chunks, only those of one chunk and those between chunks, also for the derivative.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ssm.recurrence import Recurrence, at, closed, join, length_of, split

CHUNK = 64
"""Positions scanned at once by `chunked`."""


def associative(
    r: Recurrence, h0: Inexact[Array, "n *m"]
) -> tuple[Inexact[Array, "length ..."], Inexact[Array, "n *m"]]:
    """y_1 … y_L and h_L of a recurrence, by one parallel scan."""
    r = closed(r)
    varying, constant = split(r)
    moving, kept = split(r.transition)

    def drive(position):
        b = join(position, constant).drive()
        return jnp.zeros_like(h0) if b is None else b.astype(h0.dtype)

    def compose(first, second):
        (t1, b1), (t2, b2) = first, second
        earlier, later = join(t1, kept), join(t2, kept)
        return split(later.after(earlier))[0], later.apply(b1) + b2

    elements = (moving, jax.vmap(drive)(varying))
    products, sums = jax.lax.associative_scan(jax.vmap(compose), elements)
    h = jax.vmap(lambda product, b: join(product, kept).apply(h0) + b)(products, sums)
    return jax.vmap(lambda position, h: join(position, constant).read(h))(varying, h), h[-1]


def chunked(
    r: Recurrence, h0: Inexact[Array, "n *m"], *, chunk: int = CHUNK
) -> tuple[Inexact[Array, "length ..."], Inexact[Array, "n *m"]]:
    """y_1 … y_L and h_L of a recurrence, by parallel scans of chunks, one chunk after the other.

    The backward pass keeps the states between chunks and computes those within a chunk again.

    Arguments:
        chunk: positions in a chunk.

    Raises:
        ValueError: unless chunk is positive.
    """
    check_chunk(chunk)
    length = length_of(r)
    if length <= chunk:
        return associative(r, h0)
    whole = length - length % chunk
    varying, constant = split(at(r, slice(whole)))
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), varying)

    @jax.checkpoint
    def step(h, positions):
        y, h = associative(join(positions, constant), h)
        return h, y

    last, y = jax.lax.scan(step, h0, chunks)
    y = y.reshape(whole, *y.shape[2:])
    if whole == length:
        return y, last
    rest, last = associative(at(r, slice(whole, None)), last)
    return jnp.concatenate([y, rest]), last


def check_chunk(chunk: int) -> None:
    """Raises ValueError unless a chunk has a position."""
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}; expected a positive number of positions")
