"""The scan of tokens, one matrix an entry of the vocabulary, against a loop and the other forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm.cde import Euler
from ssm.control import Embedded
from ssm.mixers import LinearCDE
from ssm.model import SequenceModel
from ssm.recurrence import Recurrence, stack
from ssm.scans import chosen, forms, scan, sequential
from ssm.scans import tokens as module
from ssm.transition import Constant, Generated, TokenIncrement

VOCABULARY, CHANNELS, D_HIDDEN = 7, 3, 4


def mixer(**options):
    return LinearCDE(D_HIDDEN, channels=CHANNELS, key=jr.key(0), **options)


# 1 or 2 sequences have fewer steps than there are entries, 5 have more.
@pytest.mark.parametrize(
    ("batch", "length", "rows"), [(1, 4, 32), (5, 6, 32), (5, 6, 2), (2, 1, 2)]
)
def test_a_batch_of_embedded_tokens(x64, monkeypatch, batch, length, rows):
    """Values and gradients are those of the embeddings' values."""
    monkeypatch.setattr(module, "ROWS", rows)  # 2: the entries are filled up
    table = jr.normal(jr.key(1), (VOCABULARY, CHANNELS))
    tokens = jr.randint(jr.key(2), (batch, length), 0, VOCABULARY)
    weights = jr.normal(jr.key(3), (batch, length, D_HIDDEN))

    def value_and_gradients(form, read):
        def loss(layer, table):
            return jnp.sum(weights * jax.vmap(lambda w: layer(read(table, w))[0])(tokens))

        layer = mixer(solver=Euler(form=form))
        return eqx.filter_jit(jax.value_and_grad(loss, argnums=(0, 1)))(layer, table)

    want = value_and_gradients("sequential", lambda table, w: table[w])
    for form in ("auto", "tokens", "associative"):
        got = value_and_gradients(form, Embedded)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def arrays():
    keys = jr.split(jr.key(0), 5)
    return {
        "a": 0.3 * jr.normal(keys[0], (1 + CHANNELS, D_HIDDEN, D_HIDDEN)),
        "table": jr.normal(keys[1], (128, CHANNELS)),
        "times": jnp.linspace(0.1, 1, 5),
        "key": jr.normal(keys[2], (5, D_HIDDEN)),
        "h0": jr.normal(keys[3], (D_HIDDEN,)),
    }


TOKENS = jnp.array([127, 0, 3, 127, 7], jnp.int8)
WEIGHTS = jr.normal(jr.key(4), (6, D_HIDDEN))


def recurrence(a, table, times, key, tokens=TOKENS):
    def element(time, token, key):
        increment = TokenIncrement(time, token, Constant(table))
        return Recurrence(Generated(increment, Constant(a)), key)

    return stack(element, times, tokens, key)


def weighed(y, last):
    return jnp.sum(WEIGHTS.astype(y.dtype) * jnp.concatenate([y, jnp.sin(last)[None]]))


def loop(a, table, times, key, h0):
    h, states = h0, []
    for i, w in enumerate(TOKENS):
        u = jnp.concatenate([times[i, None], table[w]])
        h = h + jnp.tensordot(u, a, 1) @ h + key[i]
        states.append(h)
    return weighed(jnp.stack(states), h)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tokens", "sequential", "associative", "chunked"])
def test_every_argument_alone_has_its_gradient(x64, form):
    """Without `jit`, with the others constant, and of tokens in a byte that has no room for 128."""
    named = arrays()

    def alone(a, table, times, key, h0):
        return weighed(*scan(recurrence(a, table, times, key), h0, form=form))

    def batch(a, table, times, key, h0):  # with more tokens in all than there are entries
        def one(tokens):
            return weighed(*scan(recurrence(a, table, times, key, tokens), h0, form=form))

        return jnp.mean(jax.vmap(one)(jnp.stack([TOKENS] * 30)))

    values = list(named.values())
    want = jax.jit(jax.value_and_grad(loop, argnums=range(5)))(*values)
    got = jax.jit(jax.value_and_grad(batch, argnums=range(5)))(*values)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    for i, name in enumerate(named):
        np.testing.assert_allclose(got[1][i], want[1][i], rtol=1e-10, err_msg=name)
        if form == "tokens":
            gradient = jax.grad(alone, argnums=i)(*values)
            np.testing.assert_allclose(gradient, want[1][i], rtol=1e-10, err_msg=name)


def test_what_admits_the_form_and_what_does_not():
    named = arrays()
    h0 = named.pop("h0")
    r = recurrence(**named)
    assert "tokens" in forms(r)
    assert chosen(r) == "tokens"
    d_omega = jax.vmap(lambda w: jnp.append(0.1, named["table"][w]))(TOKENS)
    plain = stack(lambda u: Recurrence(Generated(u, Constant(named["a"])), h0), d_omega)
    with pytest.raises(ValueError, match="form: got 'tokens' for Generated; expected one of"):
        scan(plain, h0, form="tokens")


@pytest.mark.parametrize("parts", ["query", "value and query", "constant key", "no key"])
def test_tokens_of_another_recurrence_are_scanned_by_another_form(x64, parts):
    """The form knows a vector state with a drive of its own at each position, read as a whole."""
    named = arrays()
    value, query = jr.normal(jr.key(5), (5, 2)), jr.normal(jr.key(6), (5, D_HIDDEN))
    h0 = jnp.stack([named["h0"]] * 2, axis=1) if parts == "value and query" else named["h0"]

    def element(time, token, key, value, query):
        increment = TokenIncrement(time, token, Constant(named["table"]))
        transition = Generated(increment, Constant(named["a"]))
        return {
            "query": Recurrence(transition, key, query=query),
            "value and query": Recurrence(transition, key, value, query),
            "constant key": Recurrence(transition, Constant(named["key"][0])),
            "no key": Recurrence(transition),
        }[parts]

    r = stack(element, named["times"], TOKENS, named["key"], value, query)
    for got, want in zip(scan(r, h0), sequential(r, h0), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-10)
    assert "tokens" not in forms(r)


def test_forward_mode_is_refused_with_the_form_that_has_it():
    named = arrays()

    def of(h0, form):
        others = {n: x for n, x in named.items() if n != "h0"}
        return scan(recurrence(**others), h0, form=form)[1]

    h0 = named["h0"]
    with pytest.raises(TypeError, match=r"'tokens' has derivatives by reverse mode.*'sequential'"):
        jax.jvp(lambda h: of(h, "tokens"), (h0,), (h0,))
    _, tangent = jax.jvp(lambda h: of(h, "sequential"), (h0,), (h0,))
    np.testing.assert_allclose(tangent, of(h0, "tokens") - of(0 * h0, "tokens"), rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"structure": "diagonal"}, {"gate_omega": "path"}, {"gate_xi": "path"}], ids=str
)
def test_other_equations_are_solved_as_those_of_values(options):
    table, tokens = jr.normal(jr.key(1), (VOCABULARY, CHANNELS)), jnp.array([3, 0, 3])
    layer = mixer(**options)
    np.testing.assert_allclose(
        layer(Embedded(table, tokens))[0], layer(table[tokens])[0], rtol=1e-6
    )


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
            h, _ = block(h)
        return h

    np.testing.assert_allclose(
        eqx.filter_jit(model.features)(tokens), block_by_block(tokens), rtol=1e-12
    )
    assert "batch_aware_of_batch" in str(jax.make_jaxpr(model.features)(tokens))
    assert "batch_aware_of_batch" not in str(jax.make_jaxpr(block_by_block)(tokens))


def test_the_sums_over_tokens_are_the_same_in_both_forms(x64):
    d_matrices = jr.normal(jr.key(0), (VOCABULARY, D_HIDDEN, D_HIDDEN))
    index = jnp.array([3, 0, 3, 6, 1, 3])
    g, z = jr.normal(jr.key(1), (2, len(index), D_HIDDEN))
    expected = np.array(d_matrices)
    for w, g_r, z_r in zip(index, g, z, strict=True):
        expected[w] += np.outer(g_r, z_r)
    for form in (module.sums_in_turn, module.sums_as_product):
        np.testing.assert_allclose(form(d_matrices, index, g, z), expected, rtol=1e-12)
