"""The three forms of a linear recurrence, against a NumPy loop and each other."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm import recurrence

sequential = jax.jit(recurrence.sequential, static_argnames="unroll")
associative = jax.jit(recurrence.associative)
chunked = jax.jit(recurrence.chunked, static_argnames="chunk")
KINDS = ["diagonal", "dense", "complex"]


def make(kind, length, size=4, key=0):
    ka, kb, kh = jr.split(jr.key(key), 3)
    dtype = jnp.complex128 if kind == "complex" else jnp.float64
    shape = (length, size, size) if kind == "dense" else (length, size)
    a = 0.5 * jr.normal(ka, shape, dtype)
    return a, jr.normal(kb, (length, size), dtype), jr.normal(kh, (size,), dtype)


def loop(a, b, h):
    states = []
    for a_t, b_t in zip(np.asarray(a), np.asarray(b), strict=True):
        h = (a_t @ h if a_t.ndim == 2 else a_t * h) + b_t
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 7, 33])
def test_all_forms_give_the_loop(x64, kind, length):
    a, b, h0 = make(kind, length)
    expected = loop(a, b, np.asarray(h0))
    np.testing.assert_allclose(sequential(a, b, h0), expected, rtol=1e-12)
    np.testing.assert_allclose(sequential(a, b, h0, unroll=True), expected, rtol=1e-12)
    np.testing.assert_allclose(associative(a, b, h0), expected, rtol=1e-10)
    for chunk in (3, 8):
        np.testing.assert_allclose(chunked(a, b, h0, chunk=chunk), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_all_forms_agree(x64, kind):
    arguments = make(kind, 13)
    weights = jr.normal(jr.key(9), arguments[1].shape, jnp.float64)

    def gradients(form):
        def loss(a, b, h0):
            return jnp.sum(weights * jnp.real(form(a, b, h0)) ** 2)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)

    expected = gradients(sequential)
    for form in (associative, lambda *x: chunked(*x, chunk=4)):
        for got, want in zip(gradients(form), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected b"):
        recurrence.sequential(jnp.zeros((3, 2)), jnp.zeros((3, 4)), jnp.zeros(4))
    with pytest.raises(ValueError, match="chunk: got 0"):
        recurrence.chunked(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.zeros(2), chunk=0)
