"""Coordinates of path signatures and log-signatures, and the words that name them."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
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
    """Returns the coordinate at `word` of each path's signature, or of its tensor log-signature.

    Letters count from 1. signax computes levels 1, …, len(word), in batches of about 32 MiB. The
    tensor log-signature, for `target="antisymmetric"`, is the Lie series
    log S = Σ_k (−1)^{k+1} (S − 1)^{⊗k} / k; it vanishes on every shuffle product of shorter words.
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
    if target == "antisymmetric":
        levels = jax.vmap(log)(levels)
    return levels[-1][:, *letters]


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


def check_antisymmetric(word: tuple[int, ...], length: int) -> None:
    """Checks that the log-signature at `word` says something new of paths with `length` points.

    Raises:
        ValueError: for a word of one letter, one where every log-signature vanishes, or two points.
    """
    if len(word) == 1:
        raise ValueError(
            f"word must have at least two letters for target='antisymmetric', got {word}, whose "
            f"log-signature coordinate is the increment that target='coordinate' gives."
        )
    if not _bracket_dual(word):
        raise ValueError(
            f"word must not be one whose log-signature coordinate vanishes on every path for "
            f"target='antisymmetric', got {word}."
        )
    if length < 3:
        raise ValueError(
            f"length must be at least 3 for target='antisymmetric', got {length}: a straight line "
            f"has no log-signature above its increment."
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
