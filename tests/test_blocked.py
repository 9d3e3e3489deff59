"""The selective scan in blocks, against a NumPy loop and the sequential form."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm.recurrence import Recurrence, stack
from ssm.scans import blocked as module
from ssm.scans import scan, sequential
from ssm.scans.blocked import blocked
from ssm.transition import Constant, Decay

NAMES = ("delta", "rate", "key", "value", "query", "h0")
SHARED = (0, None, 0, 0, 0, 0)


def make(length, n=4, m=6, dtype=jnp.float64):
    """Δ, A, k, v, q and h_0."""
    k = jr.split(jr.key(0), 6)
    return (
        jax.nn.softplus(jr.normal(k[0], (length, m), dtype)),
        -jnp.exp(jr.normal(k[1], (n, m), dtype)),
        jr.normal(k[2], (length, n), dtype),
        jr.normal(k[3], (length, m), dtype),
        jr.normal(k[4], (length, n), dtype),
        jr.normal(k[5], (n, m), dtype),
    )


def selective(delta, rate, key, value, query):
    """The recurrence of these arrays."""

    def element(delta, key, value, query):
        return Recurrence(Decay(delta, Constant(rate)), key, value, query)

    return stack(element, delta, key, value, query)


def solved(form, *arrays):
    """y and h_L by `form`; from zero without h_0."""
    h0 = arrays[5] if len(arrays) == 6 else jnp.zeros_like(arrays[1])
    return form(selective(*arrays[:5]), h0)


def loop(delta, rate, key, value, query, h0):
    delta, rate, key, value, query = (np.asarray(v) for v in (delta, rate, key, value, query))
    h, y = np.array(h0), []
    for t in range(len(delta)):
        for column in range(rate.shape[1]):
            h[:, column] *= np.exp(delta[t, column] * rate[:, column])
            h[:, column] += key[t] * value[t, column]
        y.append(query[t] @ h)
    return np.array(y), h


def values_and_gradients(form, arrays, axes=None):
    """y and h_L, and the gradients of a sum that both are in with respect to everything."""

    def both(*arrays):
        run = partial(solved, form)
        return (run if axes is None else jax.vmap(run, in_axes=axes))(*arrays)

    def loss(*arrays):
        y, last = both(*arrays)
        weights = jr.normal(jr.key(7), y.shape, y.dtype)
        return jnp.sum(weights * y) + jnp.sum(jnp.sin(last)), (y, last)

    every = tuple(range(len(arrays)))
    return jax.jit(jax.grad(loss, argnums=every, has_aux=True))(*arrays)


def assert_close(got, want, rtol=1e-9, atol=1e-11):
    (gradients, values), (expected, expected_values) = got, want
    for a, b in zip(values, expected_values, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    for name, a, b in zip(NAMES, gradients, expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("length", [1, 2, 7, 100])
@pytest.mark.parametrize("chunk", [None, 3, 200])
def test_values(x64, length, chunk):
    arrays = make(length)
    want = loop(*arrays)
    got = jax.jit(partial(solved, partial(blocked, chunk=chunk)))(*arrays)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    from_zero = jax.jit(partial(solved, partial(blocked, chunk=chunk)))(*arrays[:5])
    for a, b in zip(from_zero, loop(*arrays[:5], np.zeros((4, 6))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("length", [1, 33])
@pytest.mark.parametrize("state", [True, False])
def test_all_gradients(x64, length, state):
    arrays = make(length)[: 6 if state else 5]
    want = values_and_gradients(sequential, arrays)
    for chunk in (None, 3):
        assert_close(values_and_gradients(partial(blocked, chunk=chunk), arrays), want)


@pytest.mark.slow
def test_a_long_sequence_keeps_fewer_states(x64, monkeypatch):
    """And gives the same."""
    arrays = make(20)
    want = values_and_gradients(sequential, arrays)
    monkeypatch.setattr(module, "LONG", 10)
    assert_close(values_and_gradients(blocked, arrays), want)


def test_the_state_is_never_stored():
    """Temporary memory, forward and backward, is well below one copy of the states."""
    length, n, m = 400, 64, 32
    arrays = make(length, n, m, jnp.float32)

    def loss(*arrays):
        return jnp.sum(solved(blocked, *arrays)[0] ** 2)

    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * length * n * m / 2


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a batch of a few examples has many, in each direction, with filling."""
    monkeypatch.setattr(module, "STEP", 24)
    monkeypatch.setattr(module, "STATES", 3)
    monkeypatch.setattr(module, "WHOLE", 0)


def batch_of(arrays, axes, size=5):
    keys = jr.split(jr.key(1), size)
    return [
        v
        if axis is None
        else jnp.stack([v * (1 + 0.1 * jr.uniform(k, v.shape, v.dtype)) for k in keys])
        for v, axis in zip(arrays, axes, strict=True)
    ]


@pytest.mark.parametrize(
    "axes",
    [SHARED, (0, 0, 0, 0, 0, 0), (None, None, None, 0, None, None), (0, None, 0, 0, 0, None)],
    ids=str,
)
def test_a_batch_in_many_blocks(x64, small_blocks, axes):
    """Batches, whatever the examples share: values and all gradients."""
    batch = batch_of(make(7, n=7, m=4), axes)
    want = values_and_gradients(sequential, batch, axes)
    assert_close(values_and_gradients(partial(blocked, chunk=2), batch, axes), want)


def test_an_example_alone_in_many_blocks(x64, small_blocks):
    """One example has no axis of examples inside."""
    arrays = make(7, n=7, m=20)
    want = values_and_gradients(sequential, arrays)
    assert_close(values_and_gradients(partial(blocked, chunk=2), arrays), want)


@pytest.mark.parametrize("blocks", ["large", "small"])
def test_a_rate_of_minus_infinity_forgets_at_once(x64, blocks, request):
    """Also where steps, states or examples are filled up: there Δ is 0, and 0·∞ is NaN."""
    if blocks == "small":
        request.getfixturevalue("small_blocks")
    delta, rate, *others = make(7, n=7, m=4)
    rate = rate.at[1].set(-jnp.inf).at[3, 2].set(-jnp.inf)
    run = partial(solved, partial(blocked, chunk=2))
    y, last = jax.jit(run)(delta, rate, *others)
    want, want_last = loop(delta, rate, *others)
    np.testing.assert_allclose(y, want, rtol=1e-10)
    np.testing.assert_allclose(last, want_last, rtol=1e-10)
    np.testing.assert_allclose(last[1], others[0][-1][1] * others[1][-1], rtol=1e-10)

    def loss(value, h0):
        return jnp.sum(run(delta, rate, others[0], value, others[2], h0)[0] ** 2)

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(others[1], others[3]):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("form", [pytest.param("chunked", marks=pytest.mark.slow), "auto"])
@pytest.mark.parametrize("sizes", [(0, 4, 6), (5, 0, 6), (5, 4, 0)], ids=str)
def test_nothing_is_a_size_too(sizes, form):
    arrays = make(*sizes, dtype=jnp.float32)
    y, last = scan(selective(*arrays[:5]), arrays[5], form=form)
    want, want_last = sequential(selective(*arrays[:5]), arrays[5])
    np.testing.assert_allclose(y, want)
    np.testing.assert_allclose(last, want_last)
    none = jax.vmap(lambda v: scan(selective(*arrays[:3], v, arrays[4]), form=form)[0])(
        arrays[3][None][:0]
    )
    assert none.shape == (0, sizes[0], sizes[2])


def test_forward_mode_is_refused_with_the_form_that_has_it():
    arrays = make(5, dtype=jnp.float32)

    def y_of(value, form):
        return scan(selective(*arrays[:3], value, arrays[4]), arrays[5], form=form)[0]

    value = arrays[3]
    with pytest.raises(TypeError, match=r"'blocked' has derivatives by reverse mode.*'chunked'"):
        jax.jvp(partial(y_of, form="blocked"), (value,), (value,))
    _, tangent = jax.jvp(partial(y_of, form="chunked"), (value,), (value,))
    y = y_of(value, "blocked") - y_of(0 * value, "blocked")  # linear in the values
    np.testing.assert_allclose(tangent, y, rtol=1e-4, atol=1e-5)


def test_a_whole_block_of_one_step_is_unrolled():
    """At small sizes the plan is one block; `WHOLE` decides."""
    assert module._plan(8, 2, 5, 4, 6).unroll
    assert not module._plan(8, 2, 50, 4, 6).unroll
    large = module._plan(8, 32, 8, 64, 1024)
    assert (large.blocks, large.groups) == (4, 32)
