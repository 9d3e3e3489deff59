"""Initialisations: pure functions of a key, a shape, and nothing else.

A parameter's key is folded from its layer's key and its own name (`named_key`), so that adding a
parameter to a layer moves no other parameter's draw.
"""

import math
import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def named_key(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """The key of the parameter or layer called `name` under `key`."""
    return jr.fold_in(key, zlib.crc32(name.encode()))


def fan_in_uniform(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """Entries U(−1/√fan_in, 1/√fan_in): PyTorch's default for linear and recurrent layers."""
    bound = 1 / math.sqrt(fan_in)
    return jr.uniform(key, shape, minval=-bound, maxval=bound)


def xavier_uniform(
    key: PRNGKeyArray, shape: tuple[int, int], fan_sum: int | None = None
) -> Float[Array, "rows columns"]:
    """Entries U(±√(6/fan_sum)), with fan_sum = rows + columns unless given (Glorot and Bengio,
    2010). Attention gives it: PyTorch draws the query, key and value matrices as one."""
    bound = math.sqrt(6 / (sum(shape) if fan_sum is None else fan_sum))
    return jr.uniform(key, shape, minval=-bound, maxval=bound)


def complex_xavier_normal(key: PRNGKeyArray, shape: tuple[int, int]) -> Float[Array, "rows cols 2"]:
    """Complex entries with E|z|² = 2/(rows + columns), as real and imaginary parts on a last axis.

    This is what PyTorch's `xavier_normal_` does to a complex tensor: each part has variance
    1/(rows + columns).
    """
    return jr.normal(key, (*shape, 2)) * math.sqrt(1 / sum(shape))


def log_uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], low: float, high: float
) -> Float[Array, "..."]:
    """Logarithms of values log-uniform in [low, high].

    Raises:
        ValueError: unless 0 < low <= high.
    """
    if not 0 < low <= high:
        raise ValueError(f"dt_min, dt_max: got {low}, {high}; expected 0 < dt_min <= dt_max")
    return jr.uniform(key, shape, minval=math.log(low), maxval=math.log(high))


def inverse_softplus(y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x with softplus(x) = y, for y > 0, in the form that keeps its digits for small y."""
    return y + jnp.log(-jnp.expm1(-y))


def linear(
    in_features: int, out_features: int, *, key: PRNGKeyArray, use_bias: bool = True
) -> eqx.nn.Linear:
    """A linear layer, weights and bias U(±1/√in_features): the default of Equinox and PyTorch."""
    return eqx.nn.Linear(in_features, out_features, use_bias=use_bias, key=key)


def hippo_n_diagonal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS (HiPPO-N), of even `size`.

    HiPPO-LegS is A = N − P Pᵀ with N + ½I skew-symmetric, so that N is diagonalised by a unitary V
    and its eigenvalues −½ ± iλ come in conjugate pairs (Gu et al., 2022, *On the Parameterization
    and Initialization of Diagonal State Space Models*; Smith et al., 2023, *S5*, §B.1).

    Returns:
        (size/2,) eigenvalues with positive imaginary part, ascending; (size, size/2) eigenvectors.

    Raises:
        ValueError: if `size` is not a positive even number: the pairs could not be halved.
    """
    if size <= 0 or size % 2:
        raise ValueError(f"d_state: got blocks of size {size}; conjugate pairs need an even size")
    n = np.arange(size)
    p = np.sqrt(n + 0.5)
    q = np.sqrt(2 * n + 1.0)
    legs = -np.tril(np.outer(q, q), -1) - np.diag(n + 1.0)
    normal = legs + np.outer(p, p)
    skew = normal + 0.5 * np.eye(size)
    imaginary, vectors = np.linalg.eigh(-1j * skew)
    keep = imaginary > 0
    return -0.5 + 1j * imaginary[keep], vectors[:, keep]


def count_parameters(module: eqx.Module) -> int:
    """Number of real trainable numbers in a module or its shapes (`equinox.filter_eval_shape`)."""
    arrays = [x for x in jax.tree.leaves(module) if hasattr(x, "dtype")]
    return sum(x.size for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact))
