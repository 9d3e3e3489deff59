"""A time-invariant diagonal recurrence as a causal convolution, by real products of matrices.

With one transition, key and query for all positions, y_t = Re Σ_{s ≤ t} K_{t−s} v_s for
K_l = Σ_n q_n k_n a_n^l. Up to `WHOLE` positions this is one product with the Toeplitz matrix of K;
longer sequences are cut into chunks of `CHUNK`, which hand on their state:

    y = T(K) v + Re Σ_n q_n a_n^j (a h)_n      within a chunk, from the state h before it,
    h ← a^CHUNK h + Σ_j a_n^{CHUNK−1−j} k_n v_j.

Powers are made as products, not as exponentials of large phases, and K by factors a^{ri} a^j, so
that no array has a position, a channel and a mode. An FFT would be less work for long sequences,
but what comes later would change what comes earlier, by rounding or, if it is NaN, altogether.

All is done on real and imaginary parts, since XLA's complex arithmetic on a CPU is slow.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ssm.causal import guarded
from ssm.recurrence import Recurrence
from ssm.transition import plain

WHOLE = 128
"""Up to this length, the convolution is one Toeplitz product."""

CHUNK = 64
"""Positions in a chunk of a longer sequence."""

UNROLLED = 16
"""Up to this many chunks, the scan over them is compiled without a loop."""

Pair = tuple[Float[Array, "..."], ...]
"""Real and imaginary parts."""


def convolution(
    r: Recurrence, h0: Inexact[Array, "n"] | None
) -> tuple[Float[Array, "length"], Inexact[Array, "n"]]:
    """y_1 … y_L and h_L of a recurrence with one diagonal transition, key and query, and real y.

    Under a `vmap` over examples, in which only v and h0 have a batch axis, what depends on the
    others is computed once.

    Arguments:
        h0: the state before; None for zero, which is less work.
    """
    a, k, q = (_pair(x) for x in map(plain, (plain(r.transition).d, r.key, r.query)))
    assert r.value is not None
    v, poison = guarded(r.value)
    length = len(v)
    state = None if h0 is None else _times(a, _pair(h0))  # a h, which is what is carried
    if length <= WHOLE:
        y = _causal_product(_kernel(_times(q, k), a, length), v)
        if state is not None:
            y = y + _read(_powers(q, a, length), state)
        rest = length
    else:
        chunks = -(-length // CHUNK)
        rest = length - (chunks - 1) * CHUNK
        v_chunks = jnp.pad(v, (0, CHUNK - rest)).reshape(chunks, CHUNK)
        fed = jnp.concatenate([x[::-1] for x in _powers(_times(k, a), a, CHUNK)], axis=1)
        states, state = _between_chunks(_power(a, CHUNK), v_chunks @ fed, state)
        kernel = _kernel(_times(q, k), a, CHUNK)
        y = v_chunks @ _toeplitz(kernel, CHUNK).T + _read(_powers(q, a, CHUNK), states)
        y = y.reshape(-1)[:length]
    last = tuple(v[-rest:] @ x[::-1] for x in _powers(k, a, rest))
    if state is not None:
        last = tuple(x + y for x, y in zip(last, _times(_power(a, rest - 1), state), strict=True))
    # Without the barrier, XLA computes the cotangent of y anew for each of its uses.
    y = jax.lax.optimization_barrier(y) + poison
    last = tuple(x + poison[-1] for x in last)
    return y, jax.lax.complex(*last) if jnp.iscomplexobj(plain(r.query)) else last[0]


def _between_chunks(
    decay: Pair, drive: Float[Array, "chunks twice_n"], start: Pair | None
) -> tuple[Pair, Pair]:
    """a h before each chunk, and before the last."""

    def step(state, drive):
        real, imag = _times(decay, state)
        return (real + drive[0], imag + drive[1]), state

    drives = tuple(jnp.split(drive, 2, axis=1))
    first = tuple(map(jnp.zeros_like, decay)) if start is None else start
    states = jax.lax.scan(step, first, drives, unroll=len(drive) <= UNROLLED or 1)[1]
    return states, tuple(x[-1] for x in states)


def _pair(z: Inexact[Array, "*shape"]) -> Pair:
    return z.real, z.imag


def _times(x: Pair, y: Pair) -> Pair:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _power(a: Pair, exponent: int) -> Pair:
    """a^exponent, by repeated squaring."""
    result: Pair = (jnp.ones_like(a[0]), jnp.zeros_like(a[0]))
    while exponent:
        if exponent % 2:
            result = _times(result, a)
        a, exponent = _times(a, a), exponent // 2
    return result


def _geometric(w: Pair, a: Pair, count: int) -> Pair:
    """w a^l for l = 0 … count − 1, one after the other: (count, n)."""
    terms = [w]
    for _ in range(count - 1):
        terms.append(_times(terms[-1], a))
    real, imag = zip(*terms, strict=True)
    return jnp.stack(real), jnp.stack(imag)


def _factors(w: Pair, a: Pair, count: int) -> tuple[Pair, Pair]:
    """w a^{ri} for all i, and a^j for j < r, with r ≈ √count: w a^{ri + j} is their product."""
    radix = math.isqrt(count - 1) + 1
    one = jnp.ones_like(a[0]), jnp.zeros_like(a[0])
    return _geometric(w, _power(a, radix), -(-count // radix)), _geometric(one, a, radix)


def _powers(w: Pair, a: Pair, count: int) -> Pair:
    """w a^l for l = 0 … count − 1: (count, n)."""
    coarse, fine = _factors(w, a, count)
    product = _times(tuple(x[:, None] for x in coarse), tuple(x[None] for x in fine))
    return tuple(x.reshape(-1, x.shape[-1])[:count] for x in product)


def _kernel(w: Pair, a: Pair, count: int) -> Float[Array, "count"]:
    """Re Σ_n w_n a_n^l for l = 0 … count − 1."""
    coarse, fine = _factors(w, a, count)
    return (coarse[0] @ fine[0].T - coarse[1] @ fine[1].T).reshape(-1)[:count]


def _read(w: Pair, h: Pair) -> Float[Array, "... count"]:
    """Re Σ_n h_n w_{j,n}, for h of shape (n,) or (m, n)."""
    return jnp.concatenate(h, axis=-1) @ jnp.concatenate([w[0], -w[1]], axis=-1).T


def _toeplitz(kernel: Float[Array, "size"], rows: int) -> Float[Array, "rows size"]:
    """The last `rows` rows of (K_{t−s}), zero for s > t, made without gather or scatter."""
    matrix = kernel[None, ::-1]
    while (size := len(matrix)) < rows:
        above = jnp.pad(matrix, ((0, 0), (0, size)))[max(0, 2 * size - rows) :, size:]
        matrix = jnp.concatenate([above, matrix])
    return matrix


def _causal_product(
    kernel: Float[Array, "length"], v: Float[Array, "length"]
) -> Float[Array, "length"]:
    """Σ_{s ≤ t} K_{t−s} v_s: the first half of the positions, then the second, from one matrix."""
    late = -(-len(v) // 2)
    early = len(v) - late
    matrix = _toeplitz(kernel, late)
    return jnp.concatenate([v[:early] @ matrix[late - early :, late:].T, v @ matrix.T])
