"""The selective scan against its sequential oracle and a NumPy loop; values and all gradients."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm import selective_scan_blocked
from ssm.selective_scan import selective_scan, selective_scan_sequential

scan = jax.jit(selective_scan, static_argnames=("chunk", "form"))
oracle = jax.jit(selective_scan_sequential)
NAMES = ("x", "delta", "a", "b", "c", "d")


def make(length, d_model=6, d_state=4, dtype=jnp.float64):
    k = jr.split(jr.key(0), 5)
    return (
        jr.normal(k[0], (length, d_model), dtype),
        jax.nn.softplus(jr.normal(k[1], (length, d_model), dtype)),
        -jnp.exp(jr.normal(k[2], (d_model, d_state), dtype)),
        jr.normal(k[3], (length, d_state), dtype),
        jr.normal(k[4], (length, d_state), dtype),
        jnp.linspace(-1, 1, d_model, dtype=dtype),
    )


def loop(x, delta, a, b, c, d):
    x, delta, a, b, c, d = (np.asarray(v) for v in (x, delta, a, b, c, d))
    h, y = np.zeros_like(a), np.zeros_like(x)
    for t in range(len(x)):
        for channel in range(x.shape[1]):
            h[channel] = np.exp(delta[t, channel] * a[channel]) * h[channel]
            h[channel] += delta[t, channel] * b[t] * x[t, channel]
            y[t, channel] = c[t] @ h[channel] + d[channel] * x[t, channel]
    return y


FORMS = [
    {},
    {"chunk": 3, "form": "blocked"},
    {"chunk": 3, "form": "associative"},
    {"chunk": 200, "form": "associative"},
]


@pytest.mark.parametrize("length", [1, 2, 7, 100])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values(x64, length, form):
    arguments = make(length)
    expected = loop(*arguments)
    np.testing.assert_allclose(oracle(*arguments), expected, rtol=1e-11)
    np.testing.assert_allclose(scan(*arguments, **form), expected, rtol=1e-10)


@pytest.mark.parametrize("length", [1, 33])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_all_gradients(x64, length, form):
    arguments = make(length)
    weights = jr.normal(jr.key(5), arguments[0].shape, jnp.float64)

    def gradients(function):
        def loss(*args):
            return jnp.sum(weights * function(*args))

        return jax.jit(jax.grad(loss, argnums=tuple(range(6))))(*arguments)

    expected = gradients(selective_scan_sequential)
    for name, got, want in zip(
        NAMES, gradients(lambda *args: selective_scan(*args, **form)), expected, strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11, err_msg=name)


def test_the_state_is_never_stored():
    """Temporary memory, forward and backward, is well below one copy of the states."""
    length, d_model, d_state = 400, 32, 64
    arguments = make(length, d_model, d_state, jnp.float32)

    def loss(*args):
        return jnp.sum(selective_scan(*args) ** 2)

    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    states = 4 * length * d_model * d_state
    assert analysis.temp_size_in_bytes < states / 2


def test_it_is_causal():
    arguments = make(20, dtype=jnp.float32)

    def output_at(x, t):
        return jnp.sum(selective_scan(x, *arguments[1:], chunk=6)[t])

    gradient = jax.jit(jax.grad(output_at), static_argnums=1)(arguments[0], 9)
    assert not np.any(gradient[10:])
    assert np.all(np.any(np.asarray(gradient[:10]) != 0, axis=1))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a batch of a few examples has many, in each direction, with filling."""
    monkeypatch.setattr(selective_scan_blocked, "STEP", 24)
    monkeypatch.setattr(selective_scan_blocked, "STATES", 3)
    monkeypatch.setattr(selective_scan_blocked, "WHOLE", 0)


@pytest.mark.parametrize("shared", ["abcd", "ad", ""])
def test_a_batch_in_many_blocks(x64, small_blocks, shared):
    """Batches, whatever the examples share: values and all gradients."""
    keys = jr.split(jr.key(1), 5)
    arguments = make(7, d_model=4, d_state=7)
    axes = [None if name in shared else 0 for name in "xlabcd"]
    batch = [
        v
        if axis is None
        else jnp.stack([v * (1 + 0.1 * jr.uniform(k, v.shape, jnp.float64)) for k in keys])
        for v, axis in zip(arguments, axes, strict=True)
    ]

    def value_and_gradients(function):
        def loss(*args):
            y = jax.vmap(function, in_axes=axes)(*args)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(6)), has_aux=True))(*batch)

    got = value_and_gradients(lambda *args: selective_scan(*args, chunk=2, form="blocked"))
    want = value_and_gradients(selective_scan_sequential)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", ["blocked", "associative"])
@pytest.mark.parametrize("sizes", [(0, 6, 4), (5, 0, 4), (5, 6, 0)], ids=str)
def test_nothing_is_a_size_too(sizes, form):
    arguments = make(*sizes, dtype=jnp.float32)
    got = selective_scan(*arguments, form=form)
    np.testing.assert_array_equal(got, selective_scan_sequential(*arguments))
    none = jax.vmap(lambda x: selective_scan(x, *arguments[1:], form=form))(arguments[0][None][:0])
    assert none.shape == (0, *sizes[:2])


def test_the_kernel_is_refused_where_it_cannot_run():
    with pytest.raises(ValueError, match=r"form: got 'kernel' for float\d\d\[3, 6\], .* on "):
        selective_scan(
            *make(3, dtype=jnp.float64 if jax.config.jax_enable_x64 else jnp.float32), form="kernel"
        )


@pytest.mark.parametrize("bad", [{"chunk": 0}, {"form": "fast"}])
def test_bad_choices_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        selective_scan(*make(3, dtype=jnp.float32), **bad)
