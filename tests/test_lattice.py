"""Solvers on a lattice against the same of each path by itself, and finding the lattice."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssm import lattice
from ssm.cde import Euler, ExactFlow, Tsit5
from ssm.lattice import distinct_steps
from ssm.mixers import LinearCDE
from ssm.model import SequenceModel


def walks(paths, length, channels, scale=1.0, dtype=np.float32):
    steps = np.random.default_rng(0).integers(-1, 2, (paths, length, channels))
    return (np.cumsum(steps, axis=1) / scale).astype(dtype)


def test_steps_are_found_through_rounding():
    x = walks(200, 50, 2, scale=37.0)
    assert len(np.unique(np.diff(x, axis=1))) > 3  # rounded, so not equal to the last bit
    steps = distinct_steps(x, most=9)
    assert sorted(map(tuple, np.round(steps.values * 37))) == [
        (i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)
    ]
    error = np.abs(steps.values[steps.which] - np.diff(x, axis=1))
    assert error.max() < 1e-6
    assert distinct_steps(x, most=8) is None


@given(arrays(np.int8, (4, 5, 2), elements=st.integers(-3, 3)))
def test_steps_are_the_increments(x):
    x = x.astype(np.float32)
    steps = distinct_steps(x, most=100)
    np.testing.assert_allclose(steps.values[steps.which], np.diff(x, axis=1), atol=1e-6)
    assert len(np.unique(steps.values, axis=0)) == len(steps.values)


def test_paths_off_any_lattice_and_paths_of_a_point_have_no_steps():
    x = np.random.default_rng(0).normal(size=(100, 20, 2)).astype(np.float32)
    assert distinct_steps(x, most=500) is None
    assert distinct_steps(x[:, :1], most=500) is None


def test_many_paths_with_close_increments_are_on_no_lattice():
    """Increments that fill an interval, each nearer to the next than the tolerance."""
    x = 100 + np.cumsum(np.random.default_rng(0).uniform(-1, 1, (200_000, 10, 1)), axis=1)
    seen = np.sort(np.diff(x, axis=1), axis=None)
    assert np.diff(seen).max() < lattice.ROUNDINGS * np.finfo(np.float32).eps * np.abs(x).max()
    assert distinct_steps(x.astype(np.float32), most=2048) is None


def test_a_channel_has_its_own_scale():
    """A small channel beside a large one is no rounding of it; a constant one has one increment."""
    x = walks(100, 20, 3) * np.array([1, 1e-6, 0], np.float32) + np.array([0, 0, 7], np.float32)
    steps = distinct_steps(x, most=9)
    assert len(steps.values) == 9
    np.testing.assert_allclose(np.unique(steps.values[:, 1]), [-1e-6, 0, 1e-6], atol=1e-11)
    np.testing.assert_array_equal(steps.values[:, 2], 0)


def test_what_cannot_be_told_from_rounding_is_on_no_lattice(x64):
    far = walks(100, 20, 2) + np.float32(3e5)
    assert distinct_steps(far, most=9) is None
    jitter = walks(100, 20, 2, dtype=np.float64)
    jitter += 1e-6 * np.random.default_rng(0).normal(size=jitter.shape)
    assert distinct_steps(jitter, most=9) is None
    assert distinct_steps(np.full((3, 4, 1), np.nan), most=9) is None


def model(**mixer):
    options = {"gate_omega": "path", "gate_xi": "path", "solver": ExactFlow()} | mixer

    def make(d_model, *, channels, key):
        return LinearCDE(d_model, channels=channels, key=key, **options)

    return SequenceModel(
        make,
        d_model=6,
        activation="identity",
        norm=False,
        pooling="last",
        encode=False,
        bare=True,
        channels=2,
        n_outputs=1,
        key=jr.key(0),
    )


@pytest.mark.parametrize("solver", [ExactFlow(), Tsit5(), Tsit5(first_step=0.2)], ids=str)
def test_features_of_many_are_the_features_of_each(solver, x64):
    x = walks(37, 30, 2, scale=30.0, dtype=np.float64)
    done = []
    net = model(solver=solver)
    got = net.features_of_many(x, done.append)
    want = jax.jit(jax.vmap(net.features))(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    assert done == sorted(done)
    assert done[-1] == 37


def test_in_float32_as_well():
    """Diffrax leaves out three units in the last place of the time at each of 100 samples, which is
    2e-5 of the whole."""
    x = walks(50, 100, 2, scale=30.0)
    net = model(solver=Tsit5())
    want = np.asarray(jax.jit(jax.vmap(net.features))(jnp.asarray(x)))
    got = net.features_of_many(x)
    assert np.max(np.abs(got - want)) < 1e-4 * np.max(np.abs(want))


def test_paths_whose_steps_may_differ_are_left_to_diffrax():
    """Longer increments need more steps; what is then wrong with the one-step map is not small."""
    x = 10 * walks(37, 30, 2, scale=30.0)
    done = []
    assert model(solver=Tsit5()).features_of_many(x, done.append) is None
    assert done[-1] < 37


def test_a_series_that_has_not_converged_is_an_error():
    x = 1000 * walks(37, 30, 2)
    with pytest.raises(Exception, match="substeps"):
        model().features_of_many(x)


@pytest.mark.parametrize(
    "mixer",
    [{"solver": Euler()}, {"gate_xi": "integral"}, {"structure": "diagonal"}],
    ids=str,
)
def test_other_models_have_no_faster_way(mixer):
    assert model(**mixer).features_of_many(walks(37, 30, 2, scale=30.0)) is None
