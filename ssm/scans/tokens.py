"""Euler's scheme for a dense linear CDE whose input is a sequence of tokens.

Where a gate is ∫ (s, X) ds and X is an embedding, X_i = e_w with w one of V tokens, the scheme

    Z_i = Z_{i−1} + τ_i A_0 Z_{i−1} + T_w Z_{i−1} + b_i,      T_w = Σ_j A_j e_w^j,

needs only V transition matrices, whatever the batch and the length: for A5 at the paper's size, 60
in place of 608 in a step on 32 sequences of length 20. They are one matrix product, as are the
derivatives with respect to all A_j, which are by reverse mode.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssm.batching import batch_aware
from ssm.recurrence import Recurrence

ROWS = 32
"""More matrices than this are made in multiples of so many, for which XLA's products on a CPU are
faster."""


def tokens(
    r: Recurrence, h0: Float[Array, "n"]
) -> tuple[Float[Array, "length n"], Float[Array, "n"]]:
    """y_1 … y_L and h_L of a recurrence with `Generated` transitions of a `TokenIncrement`."""
    d = r.transition.d_omega
    h = _of_example(r.transition.a.value, d.table.value, h0, d.time, d.token, r.key)[0]
    return h, h[-1]


def _of_batch(a, table, z0, times, tokens, forcing):
    """Z_1 … Z_steps of a batch: z0 (batch, n), times and tokens (batch, steps), forcing
    (batch, steps, n)."""
    batch, steps = tokens.shape
    vocabulary, tokens = len(table), tokens.astype(jnp.int32)  # of int8, 127 + 1 would be −128
    if batch * steps < vocabulary:  # fewer tokens than entries: a matrix for each token
        table = table[tokens.T.reshape(-1)]
        index = jnp.arange(batch * steps).reshape(steps, batch)
    else:
        index = tokens.T
    # Row 0 of `entries` is time's, so that A is used whole: to slice it would be to copy it.
    entries = jnp.pad(table, ((1, 0), (1, 0))).at[0, 0].set(1)
    if len(entries) > ROWS:
        entries = jnp.pad(entries, ((0, -len(entries) % ROWS), (0, 0)))
    matrices = _combine(entries, a)
    z = _recur(matrices, times.T, index + 1, jnp.swapaxes(forcing, 0, 1), z0)
    return (jnp.swapaxes(z, 0, 1),)


_of_example = batch_aware(_of_batch, static=0, shared=2)


@jax.custom_vjp
def _combine(entries, a):
    """Σ_j entries_rj A_j. Its derivatives are written out for the layouts of their results: left
    to XLA, that of A comes out transposed, and the optimiser's pass over it is far slower."""
    return (entries @ a.reshape(len(a), -1)).reshape(-1, *a.shape[1:])


def _combine_fwd(entries, a):
    return _combine(entries, a), (entries, a)


def _combine_bwd(kept, d_matrices):
    entries, a = kept
    flat = d_matrices.reshape(len(entries), -1)
    return flat @ a.reshape(len(a), -1).T, (entries.T @ flat).reshape(a.shape)


_combine.defvjp(_combine_fwd, _combine_bwd)


@jax.custom_vjp
def _recur(matrices, times, index, forcing, z0):
    """Z_i = Z_{i−1} + t_i M_0 Z_{i−1} + M_{index_i} Z_{i−1} + forcing_i for a batch, time first."""

    def step(z, inputs):
        t, w, f = inputs
        z = z + t[:, None] * (z @ matrices[0].T) + jnp.einsum("bij,bj->bi", matrices[w], z) + f
        return z, z

    return jax.lax.scan(step, z0, (times, index, forcing))[1]


def _recur_fwd(matrices, times, index, forcing, z0):
    z = _recur(matrices, times, index, forcing, z0)
    return z, (matrices, times, index, z0, z)


def _recur_bwd(kept, dz):
    matrices, times, index, z0, z = kept

    def step(g, inputs):
        t, w, dz = inputs
        g = g + dz
        back = g + t[:, None] * (g @ matrices[0]) + jnp.einsum("bij,bi->bj", matrices[w], g)
        return back, g

    dz0, g = jax.lax.scan(step, jnp.zeros_like(z0), (times, index, dz), reverse=True)
    before = jnp.concatenate([z0[None], z])[:-1]
    d_time = jnp.einsum("sbi,sbj->ij", times[..., None] * g, before)
    rows = tuple(x.reshape(-1, *x.shape[2:]) for x in (index, g, before))
    form = sums_in_turn if jax.default_backend() == "cpu" else sums_as_product
    d_matrices = form(jnp.zeros_like(matrices).at[0].set(d_time), *rows)
    d_times = jnp.einsum("sbi,sbi->sb", g, before @ matrices[0].T)
    return d_matrices, d_times, None, g, dz0


_recur.defvjp(_recur_fwd, _recur_bwd)


def sums_in_turn(
    matrices: Float[Array, "entries d_hidden d_hidden"],
    index: Int[Array, "rows"],
    g: Float[Array, "rows d_hidden"],
    z: Float[Array, "rows d_hidden"],
) -> Float[Array, "entries d_hidden d_hidden"]:
    """The matrices with g_r z_rᵀ added to entry index_r, for each r, in place, in turn."""

    def add(matrices, row):
        w, g, z = row
        return matrices.at[w].add(g[:, None] * z[None, :]), None

    return jax.lax.scan(add, matrices, (index, g, z))[0]


def sums_as_product(
    matrices: Float[Array, "entries d_hidden d_hidden"],
    index: Int[Array, "rows"],
    g: Float[Array, "rows d_hidden"],
    z: Float[Array, "rows d_hidden"],
) -> Float[Array, "entries d_hidden d_hidden"]:
    """`sums_in_turn` as one matrix product, with zeros where a row is another entry's: more
    arithmetic, but one operation of a GPU in place of one for each row."""
    is_entry = jax.nn.one_hot(index, len(matrices), dtype=g.dtype)
    spread = jnp.einsum("rv,ri->vir", is_entry, g).reshape(-1, len(index))
    return matrices + (spread @ z).reshape(matrices.shape)
