"""The linear CDE of tokens, one matrix an entry of the vocabulary, against that of values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm import token_cde
from ssm.cde import Euler, ExactFlow
from ssm.mixers import LinearCDE
from ssm.model import SequenceModel

VOCABULARY, CHANNELS, D_HIDDEN = 7, 3, 4


def mixer(**options):
    return LinearCDE(D_HIDDEN, channels=CHANNELS, key=jr.key(0), **options)


# 1 or 2 sequences have fewer steps than there are entries, 5 have more.
@pytest.mark.parametrize(
    ("batch", "length", "rows"), [(1, 4, 32), (5, 6, 32), (5, 6, 2), (2, 1, 2)]
)
def test_values_and_gradients_of_a_batch(x64, monkeypatch, batch, length, rows):
    monkeypatch.setattr(token_cde, "ROWS", rows)  # 2: the entries are filled up
    table = jr.normal(jr.key(1), (VOCABULARY, CHANNELS))
    tokens = jr.randint(jr.key(2), (batch, length), 0, VOCABULARY)
    weights = jr.normal(jr.key(3), (batch, length, D_HIDDEN))

    def value_and_gradients(function):
        def loss(layer, table):
            return jnp.sum(weights * jax.vmap(lambda w: function(layer, table, w))(tokens))

        return eqx.filter_jit(jax.value_and_grad(loss, argnums=(0, 1)))(mixer(), table)

    got = value_and_gradients(lambda layer, table, w: layer.of_tokens(table, w))
    want = value_and_gradients(lambda layer, table, w: layer(table[w]))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_every_argument_alone_has_its_gradient(x64):
    """Without `jit`, with the others constant, and of tokens in a byte that has no room for 128."""
    keys = jr.split(jr.key(0), 5)
    arrays = {
        "a": 0.3 * jr.normal(keys[0], (CHANNELS + 1, D_HIDDEN, D_HIDDEN)),
        "b": jr.normal(keys[1], (D_HIDDEN, CHANNELS + 1)),
        "z0": jr.normal(keys[2], (D_HIDDEN,)),
        "table": jr.normal(keys[3], (128, CHANNELS)),
        "times": jnp.linspace(0.1, 1, 5),
    }
    tokens = jnp.array([127, 0, 3, 127, 7], jnp.int8)
    weights = jr.normal(keys[4], (5, D_HIDDEN))

    def alone(*arrays, w=tokens):
        return jnp.sum(weights * token_cde.euler_of_tokens(*arrays[:4], w, arrays[4], 0.5))

    def batch(*arrays):  # with more tokens in all than there are entries
        return jnp.mean(jax.vmap(lambda w: alone(*arrays, w=w))(jnp.stack([tokens] * 30)))

    def loop(a, b, z0, table, times):
        z, total = z0, 0.0
        for i, w in enumerate(tokens):
            u = jnp.concatenate([times[i, None], table[w]])
            z = z + 0.5 * (jnp.tensordot(u, a, 1) @ z + b @ u)
            total += jnp.sum(weights[i] * z)
        return total

    names, values = list(arrays), list(arrays.values())
    want = jax.jit(jax.value_and_grad(loop, argnums=range(5)))(*values)
    got = jax.jit(jax.value_and_grad(batch, argnums=range(5)))(*values)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    for i, name in enumerate(names):
        for gradient in (got[1][i], jax.grad(alone, argnums=i)(*values)):
            np.testing.assert_allclose(gradient, want[1][i], rtol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "diagonal"},
        {"gate_omega": "path"},
        {"solver": Euler(form="associative")},
        {"solver": ExactFlow()},
    ],
    ids=str,
)
def test_other_equations_are_solved_as_ever(options):
    table, tokens = jr.normal(jr.key(1), (VOCABULARY, CHANNELS)), jnp.array([3, 0, 3])
    layer = mixer(**options)
    np.testing.assert_array_equal(layer.of_tokens(table, tokens), layer(table[tokens]))


def test_a_model_of_tokens_uses_it(x64):
    """Of two blocks the first reads tokens; the model gives what its blocks give for values."""
    model = SequenceModel(
        LinearCDE, d_model=D_HIDDEN, depth=2, vocabulary=VOCABULARY, n_outputs=5, key=jr.key(0)
    )
    tokens = jnp.array([1, 6, 2, 2])

    @jax.jit
    def block_by_block(tokens):
        h = jax.vmap(model.encoder)(tokens)
        for block in model.blocks:
            h = block(h)
        return h

    np.testing.assert_allclose(
        eqx.filter_jit(model.features)(tokens), block_by_block(tokens), rtol=1e-12
    )
    names = {e.primitive.name for e in jax.make_jaxpr(model.features)(tokens).eqns}
    assert "batch_aware_of_batch" in names


def test_the_sums_over_tokens_are_the_same_in_both_forms(x64):
    d_matrices = jr.normal(jr.key(0), (VOCABULARY, D_HIDDEN, D_HIDDEN))
    index = jnp.array([3, 0, 3, 6, 1, 3])
    g, z = jr.normal(jr.key(1), (2, len(index), D_HIDDEN))
    expected = np.array(d_matrices)
    for w, g_r, z_r in zip(index, g, z, strict=True):
        expected[w] += np.outer(g_r, z_r)
    for form in (token_cde.sums_in_turn, token_cde.sums_as_product):
        np.testing.assert_allclose(form(d_matrices, index, g, z), expected, rtol=1e-12)
