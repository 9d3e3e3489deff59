"""Batches: a permutation each epoch, and a pure function of key and step."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.training.batches import (
    Examples,
    batch_indices,
    permutation_of,
    steps_per_epoch,
    take,
)

indices = jax.jit(batch_indices, static_argnums=(2, 3))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 60, 1000, 3600, 100_003])
def test_it_is_a_permutation(size):
    permuted = jax.jit(permutation_of, static_argnums=2)(
        jr.key(0), jnp.arange(size, dtype=jnp.uint32), size
    )
    np.testing.assert_array_equal(np.sort(permuted), np.arange(size))


def test_positions_look_uniform_and_uncorrelated():
    """χ² of where the first tenth of positions lands, over bins; and the rank correlation."""
    size = 20_000
    permuted = np.asarray(permutation_of(jr.key(3), jnp.arange(size, dtype=jnp.uint32), size))
    counts = np.histogram(permuted[: size // 10], bins=40, range=(0, size))[0]
    expected = size / 400
    chi2 = np.sum((counts - expected) ** 2 / expected)
    assert chi2 < 39 + 5 * np.sqrt(2 * 39)
    assert abs(np.corrcoef(permuted, np.arange(size))[0, 1]) < 5 / np.sqrt(size)
    assert abs(np.corrcoef(permuted[1:], permuted[:-1])[0, 1]) < 5 / np.sqrt(size)


def test_an_epoch_visits_every_example_once_and_the_next_in_another_order():
    key, size, batch = jr.key(1), 60, 12
    per_epoch = steps_per_epoch(size, batch)
    epochs = [
        np.concatenate([indices(key, jnp.int32(e * per_epoch + s), size, batch) for s in range(5)])
        for e in range(3)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    assert np.any(epochs[0] != epochs[1])
    assert np.any(epochs[1] != epochs[2])


def test_a_batch_depends_on_its_step_and_key_only():
    first = indices(jr.key(1), jnp.int32(7), 1000, 32)
    np.testing.assert_array_equal(first, indices(jr.key(1), jnp.int32(7), 1000, 32))
    assert np.any(first != indices(jr.key(2), jnp.int32(7), 1000, 32))
    mapped = jax.vmap(lambda k: batch_indices(k, jnp.int32(7), 1000, 32))(
        jnp.stack([jr.key(1), jr.key(2)])
    )
    np.testing.assert_array_equal(mapped[0], first)


def test_leftover_examples_wait_for_another_epoch():
    assert steps_per_epoch(10, 3) == 3
    seen = {int(i) for s in range(30) for i in indices(jr.key(0), jnp.int32(s), 10, 3)}
    assert seen == set(range(10))


def test_batch_size_must_fit():
    with pytest.raises(ValueError, match="batch_size: got 11; expected between 1 and the 10"):
        steps_per_epoch(10, 11)


def test_small_integers_are_widened_when_taken():
    examples = Examples(jnp.zeros((4, 3), jnp.uint8), jnp.zeros((4, 1), jnp.float32))
    batch = take(examples, jnp.array([2, 0]))
    assert batch.inputs.dtype == jnp.int32
    assert batch.targets.dtype == jnp.float32
