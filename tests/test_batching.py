"""What `vmap` calls for a batch-aware function, and that every transformation gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssm.batching import batch_aware

calls: list[int] = []


@jax.custom_vjp
def product(matrix, z):
    """z M of a batch, with a derivative of its own, which sums over the batch in one product."""
    return z @ matrix


product.defvjp(
    lambda matrix, z: (z @ matrix, (matrix, z)), lambda kept, g: (kept[1].T @ g, g @ kept[0].T)
)


def scaled(power, matrix, z):
    """`product` also of the matrix alone, which does not move where only z does; and a norm."""
    calls.append(len(z))
    y = jnp.sin(product(matrix, z) + jnp.trace(product(matrix, jnp.eye(2)))) ** power
    return y, jnp.sum(z * z, axis=1)


two_results = batch_aware(scaled, static=1, shared=1)


def aware(power, matrix, z):
    y, norm = two_results(power, matrix, z)
    return y * norm


def plain(power, matrix, z):
    return jnp.sin(z @ matrix + jnp.trace(matrix)) ** power * jnp.sum(z * z)


MATRIX = jnp.linspace(-1, 1, 6).reshape(2, 3)
Z = jnp.linspace(-2, 1, 8).reshape(4, 2)


def batched(function):
    return lambda m: jnp.sum(jax.vmap(lambda z: function(2, m, z))(Z))


TRANSFORMATIONS = {
    "alone": lambda f: f(2, MATRIX, Z[0]),
    "vmap": lambda f: jax.vmap(lambda z: f(2, MATRIX, z))(Z),
    "vmap of the last axis": lambda f: jax.vmap(lambda z: f(2, MATRIX, z), in_axes=1)(Z.T),
    "grad alone": lambda f: jax.grad(lambda m: jnp.sum(f(2, m, Z[0])))(MATRIX),
    "grad of vmap": lambda f: jax.grad(batched(f))(MATRIX),
    "grad of jit of vmap": lambda f: jax.grad(jax.jit(batched(f)))(MATRIX),
    "grad of vmap of checkpoint": lambda f: jax.grad(batched(jax.checkpoint(f, static_argnums=0)))(
        MATRIX
    ),
    "vmap of grad": lambda f: jax.vmap(lambda z: jax.grad(lambda m: jnp.sum(f(2, m, z)))(MATRIX))(
        Z
    ),
    "vmap over the shared": lambda f: jax.vmap(lambda m: f(2, m, Z[0]))(jnp.stack([MATRIX] * 3)),
    "grad of two vmaps": lambda f: jax.grad(lambda m: jnp.sum(jax.vmap(batched(f))(m)))(
        jnp.stack([MATRIX, 2 * MATRIX])
    ),
    "grad of the batched alone": lambda f: jax.grad(lambda z: jnp.sum(f(2, MATRIX, z)))(Z[0]),
    "grad of the batched": lambda f: jax.grad(
        lambda z: jnp.sum(jax.vmap(lambda z: f(2, MATRIX, z))(z))
    )(Z),
    "grad of vmap of none": lambda f: jax.grad(
        lambda m: jnp.sum(jax.vmap(lambda z: f(2, m, z))(Z[:0]))
    )(MATRIX),
    "grad of map": lambda f: jax.grad(lambda m: jnp.sum(jax.lax.map(lambda z: f(2, m, z), Z)))(
        MATRIX
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_transformation_gives_the_same(name):
    transformation = TRANSFORMATIONS[name]
    np.testing.assert_allclose(transformation(aware), transformation(plain), rtol=1e-6, atol=1e-7)


def test_the_results_are_a_tuple():
    """Of one example without an axis of examples, of a batch with one."""
    assert [v.shape for v in two_results(2, MATRIX, Z[0])] == [(3,), ()]
    results = jax.jit(jax.vmap(lambda z: two_results(2, MATRIX, z)))(Z)
    assert isinstance(results, tuple)
    assert [v.shape for v in results] == [(4, 3), (4,)]
    only_norm = jax.grad(lambda z: two_results(2, MATRIX, z)[1])(Z[0])
    np.testing.assert_allclose(only_norm, 2 * Z[0], rtol=1e-6)


def test_a_vmap_is_one_call_on_the_batch():
    calls.clear()
    jax.grad(batched(aware))(MATRIX)
    assert calls[-1] == len(Z)
    calls.clear()
    jax.vmap(jax.grad(batched(aware)))(jnp.stack([MATRIX] * 3))
    assert set(calls) == {len(Z)}
