"""Coordinates of path signatures and what is made of them, and the words that name them."""

import functools
import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int
from signax import signature
from signax.tensor_ops import log

MAX_LETTERS = 12
MAX_SIGNATURE_SIZE = 100_000
BATCH_NUMBERS = 2**23  # of path and signature, held at a time: about 32 MiB


def signature_coordinates(
    paths: Float32[np.ndarray, "paths length dimension"],
    word: tuple[int, ...],
    target: str = "coordinate",
) -> Float32[np.ndarray, " paths"]:
    """The `target` at a word i_1 … i_n of each path's signature S.

        coordinate:     S^{i_1 … i_n}
        log_signature:  (log S)^{i_1 … i_n},  log S = Σ_k (−1)^{k+1} (S − 1)^{⊗k} / k
        alternating:    (1/n!) Σ_σ sgn(σ) S^{i_σ(1) … i_σ(n)},  σ the permutations of 1 … n

    At level 2 the last two are both the Lévy area (S^{ij} − S^{ji})/2. Above it they differ: log S
    is a Lie series, which vanishes on shuffle products of shorter words, while the alternating sum
    is the signed volume, which changes sign when two letters are exchanged.

    Letters count from 1. signax computes levels 1, …, n, in batches of about 32 MiB.
    """
    dimension = paths.shape[2]
    size = sum(dimension**level for level in range(1, len(word) + 1))
    letters = tuple(letter - 1 for letter in word)
    step = max(1, BATCH_NUMBERS // (size + paths[0].size))
    batches = (paths[i : i + step] for i in range(0, len(paths), step))
    labels = [np.asarray(_coordinates(jnp.asarray(b), letters, target)) for b in batches]
    return np.concatenate(labels)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _coordinates(
    batch: Float[Array, "batch length dimension"], letters: tuple[int, ...], target: str
) -> Float[Array, " batch"]:
    """The coordinate at `letters`, here from 0, of a batch of paths."""
    levels = signature(batch, depth=len(letters), flatten=False)
    if target == "log_signature":
        levels = jax.vmap(log)(levels)
    if target == "alternating":
        permutations, signs = _signed_permutations(letters, batch.dtype)
        return levels[-1][:, *permutations.T] @ signs / math.factorial(len(letters))
    return levels[-1][:, *letters]


def _signed_permutations(
    letters: tuple[int, ...], dtype: DTypeLike
) -> tuple[Int[np.ndarray, "permutations letters"], Float[np.ndarray, " permutations"]]:
    """The permutations of `letters`, and their signs: 1 if even, −1 if odd."""
    orders = list(itertools.permutations(range(len(letters))))
    inversions = [sum(a > b for a, b in itertools.combinations(order, 2)) for order in orders]
    signs = np.array([(-1) ** n for n in inversions], dtype)
    return np.array(letters)[np.array(orders)], signs


def check_word(word: object, dimension: int) -> tuple[int, ...]:
    """Returns the word as a tuple of letters in 1, …, dimension.

    Raises:
        TypeError: if it is not a list or a tuple.
        ValueError: for another letter, none or more than 12, or a signature of more than 100,000
            coefficients.
    """
    if not isinstance(word, list | tuple):
        raise TypeError(f"word must be a list or tuple of letters, got {word!r}.")
    letters = all(type(letter) is int and 1 <= letter <= dimension for letter in word)
    if not (word and letters):
        raise ValueError(
            f"word must hold one or more letters, integers from 1 to dimension={dimension}, "
            f"got {word!r}."
        )
    if len(word) > MAX_LETTERS:
        raise ValueError(f"word must have at most {MAX_LETTERS} letters, got {len(word)}.")
    size = sum(dimension**level for level in range(1, len(word) + 1))
    if size > MAX_SIGNATURE_SIZE:
        raise ValueError(
            f"word must need a signature of at most {MAX_SIGNATURE_SIZE:,} coefficients, got "
            f"{len(word)} letters in dimension {dimension}, which need {size:,}."
        )
    return tuple(word)


def check_target(target: str, word: tuple[int, ...], length: int) -> None:
    """Checks that `target` at `word` is not the increment, and not zero on all paths of a length.

    Raises:
        ValueError: for a word of one letter, one where every log-signature or alternating sum
            vanishes, or paths of too few points; never for the plain coordinate.
    """
    if target == "coordinate":
        return
    if len(word) == 1:
        raise ValueError(
            f"word must have at least two letters for target={target!r}, got {word}, where it is "
            f"the increment that target='coordinate' gives."
        )
    if target == "log_signature" and not _bracket_dual(word):
        raise ValueError(
            f"word must not be one whose log-signature coordinate vanishes on every path for "
            f"target='log_signature', got {word}."
        )
    if target == "alternating" and len(set(word)) < len(word):
        raise ValueError(
            f"word must not have a letter twice for target='alternating', got {word}: its "
            f"alternating sum vanishes on every path."
        )
    fewest = 3 if target == "log_signature" else len(word) + 1
    if length < fewest:
        raise ValueError(
            f"length must be at least {fewest} for target={target!r} and word {word}, got "
            f"{length}: on a path of fewer points the target vanishes."
        )


def _bracket_dual(word: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """The words u, with multiplicities, for which [u_1, [u_2, … u_n]] has a term at `word`.

    Such brackets span the Lie polynomials, so the answer is empty exactly if every log-signature
    vanishes at `word`. The coefficient of w in [a, P] = aP − Pa gives the recursion
    dual(w) = w_1·dual(w_2…w_n) − w_n·dual(w_1…w_{n−1}).
    """
    if len(word) == 1:
        return {word: 1}
    terms: Counter[tuple[int, ...]] = Counter()
    for letter, rest, sign in ((word[0], word[1:], 1), (word[-1], word[:-1], -1)):
        for tail, count in _bracket_dual(rest).items():
            terms[letter, *tail] += sign * count
    return {tail: count for tail, count in terms.items() if count}
