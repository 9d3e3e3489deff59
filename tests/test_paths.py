"""The rounded random walks: their definition, and what the draw leaves untouched."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tasks.paths import rounded_random_walks


def test_walks_are_scaled_cumulative_sums_of_integers():
    paths, unit = rounded_random_walks(200, 30, 3)
    np.testing.assert_allclose(paths / unit, np.rint(paths / unit), atol=1e-4)
    assert paths.dtype == np.float32
    assert np.abs(paths).max() == 1
    steps = np.diff(paths, axis=1, prepend=0)
    scale = np.abs(steps[np.abs(steps) > 1e-6]).min()
    integers = np.round(steps / scale)
    np.testing.assert_allclose(steps / scale, integers, atol=1e-3)
    assert abs(integers.mean()) < 0.05
    assert integers.var() == pytest.approx(1 + 1 / 12, rel=0.03)  # a rounded N(0, 1)


def test_draw_is_the_legacy_one_whatever_the_setting():
    for partitionable in (True, False):
        with jax.threefry_partitionable(partitionable):
            assert np.array_equal(
                rounded_random_walks(50, 10, 2).paths, rounded_random_walks(50, 10, 2).paths
            )
    with jax.threefry_partitionable(True):
        today = rounded_random_walks(50, 10, 2).paths
        modern = np.asarray(jr.normal(jr.PRNGKey(1234), (50, 10, 2)))
    with jax.threefry_partitionable(False):
        before = rounded_random_walks(50, 10, 2).paths
        legacy = np.asarray(jr.normal(jr.PRNGKey(1234), (50, 10, 2)))
    assert np.array_equal(today, before)
    walks = np.cumsum(np.round(legacy), axis=1)
    assert np.array_equal(today, walks / np.abs(walks).max())
    assert not np.array_equal(legacy, modern)


@pytest.mark.parametrize("partitionable", [True, False])
def test_draw_leaves_the_callers_configuration_alone(partitionable):
    with jax.threefry_partitionable(partitionable):
        before = jr.normal(jr.key(0), (64,))
        rounded_random_walks(10, 5, 2)
        assert jax.config.jax_threefry_partitionable is partitionable
        assert jnp.array_equal(before, jr.normal(jr.key(0), (64,)))


def test_double_precision_and_another_generator_do_not_change_the_walks():
    expected = rounded_random_walks(20, 10, 2).paths
    with jax.enable_x64(True), jax.default_prng_impl("rbg"):
        assert np.array_equal(rounded_random_walks(20, 10, 2).paths, expected)


def test_seeds_differ():
    assert not np.array_equal(
        rounded_random_walks(5, 5, 2, 1).paths, rounded_random_walks(5, 5, 2, 2).paths
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 2), "n_paths must be an integer of at least 1, got 0"),
        ((5, 0, 2), "length must be an integer of at least 1, got 0"),
        ((5, 5, -1), "dimension must be an integer of at least 1, got -1"),
        ((5, 5, 2, 2**32), "seed must be an integer of at least 0 and at most 4,294,967,295"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rounded_random_walks(*arguments)


def test_a_data_set_that_never_moves_is_refused():
    seed = next(s for s in range(50) if _first_step(s) == 0)
    with pytest.raises(ValueError, match=r"n_paths must be large enough .* got 1 paths"):
        rounded_random_walks(1, 1, 1, seed)


def _first_step(seed):
    with jax.threefry_partitionable(False):
        return round(float(jr.normal(jr.PRNGKey(seed), (1, 1, 1))[0, 0, 0]))
