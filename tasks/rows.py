"""Rows of tokens: every sequence, distinct random sequences, and the search for a repeated one."""

import numpy as np
from jaxtyping import Integer, UInt64


def token_dtype(order: int) -> np.dtype:
    """Returns the smallest unsigned integer type that holds the tokens 0, …, order − 1."""
    return np.min_scalar_type(order - 1)


def decode(
    codes: Integer[np.ndarray, " rows"], order: int, length: int
) -> Integer[np.ndarray, "rows length"]:
    """Returns each code's `length` digits in base `order`, most significant first, as a row."""
    rows = np.empty((len(codes), length), token_dtype(order))
    for position in reversed(range(length)):
        codes, rows[:, position] = np.divmod(codes, order)
    return rows


def distinct_rows(
    order: int, length: int, samples: int, rng: np.random.Generator
) -> Integer[np.ndarray, "rows length"]:
    """Returns min(samples, order**length) distinct sequences, uniform without replacement.

    If that is at least half of all sequences they are the decoded head of a permutation; otherwise
    rows are drawn and those whose hash was seen before are dropped (equal rows have equal hashes,
    so what remains is distinct; the chance that 1,000,000 rows lose even one to a false collision
    is below 1e-7).
    """
    population = order ** min(length, 63)  # an order of at least 2: enough to exceed any `samples`
    if population <= 2 * samples:
        return decode(rng.permutation(population)[:samples], order, length)
    weights = _hash_weights(length, rng)
    rows = np.empty((0, length), token_dtype(order))
    while len(rows) < samples:
        missing = samples - len(rows)
        drawn = rng.integers(order, size=(missing + missing // 8 + 16, length), dtype=rows.dtype)
        rows = np.concatenate([rows, drawn])
        _, first = np.unique(_row_hashes(rows, weights), return_index=True)
        rows = rows[np.sort(first)[:samples]]
    return rows


def find_repeat(rows: Integer[np.ndarray, "rows length"]) -> tuple[int, int] | None:
    """Returns the indices of two equal rows, or None if all are distinct; exact."""
    hashes = _row_hashes(rows, _hash_weights(rows.shape[1], np.random.default_rng(0)))
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    _, inverse, counts = np.unique(rows[suspects], axis=0, return_inverse=True, return_counts=True)
    if not (counts > 1).any():
        return None
    first, second = suspects[inverse == np.argmax(counts > 1)][:2]
    return int(first), int(second)


def _hash_weights(length: int, rng: np.random.Generator) -> UInt64[np.ndarray, " length"]:
    """Random odd multipliers."""
    return rng.integers(2**63, size=length, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _row_hashes(
    rows: Integer[np.ndarray, "rows length"], weights: UInt64[np.ndarray, " length"]
) -> UInt64[np.ndarray, " rows"]:
    """Σ_j rows[:, j] · weights[j] modulo 2⁶⁴."""
    hashes = np.zeros(len(rows), np.uint64)
    for position, weight in enumerate(weights):
        hashes += rows[:, position].astype(np.uint64) * weight
    return hashes
