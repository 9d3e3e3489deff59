"""Many paths on a lattice at once, against each path by itself; and finding the increments."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssm.cde import Euler, ExactFlow, Tsit5
from ssm.mixers import LinearCDE
from ssm.model import MixerReadout
from ssm.scans.grouped import MOST_MATRICES, Ungrouped, distinct_steps, final_states


def walks(paths, length, channels, scale=1.0, dtype=np.float32):
    steps = np.random.default_rng(0).integers(-1, 2, (paths, length, channels))
    return (np.cumsum(steps, axis=1) / scale).astype(dtype)


def test_steps_are_found_through_rounding():
    x = walks(200, 50, 2, scale=37.0)
    assert len(np.unique(np.diff(x, axis=1))) > 3  # rounded, so not equal to the last bit
    steps = distinct_steps(x, 1 / 37, most=9)
    assert steps.values.dtype == x.dtype
    assert sorted(map(tuple, np.round(steps.values * 37))) == [
        (i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)
    ]
    error = np.abs(steps.values[steps.which] - np.diff(x, axis=1))
    assert error.max() < 1e-6
    with pytest.raises(Ungrouped, match="9 different increments, more than 8"):
        distinct_steps(x, 1 / 37, most=8)


@given(arrays(np.int8, (4, 5, 2), elements=st.integers(-3, 3)), st.sampled_from([1.0, 0.1, 3.0]))
def test_steps_are_the_increments(x, unit):
    x = (unit * x).astype(np.float32)
    steps = distinct_steps(x, unit, most=100)
    np.testing.assert_allclose(steps.values[steps.which], np.diff(x, axis=1), atol=1e-5)
    assert len(np.unique(steps.values, axis=0)) == len(steps.values)


def test_few_paths_with_long_increments():
    """More codes than there are intervals, so that they are sorted and not counted."""
    x = np.array([[[0, 0], [1000, -7], [1000, 20_000]], [[5, 5], [1005, -2], [0, 0]]], np.float32)
    steps = distinct_steps(x, 1.0, most=3)
    np.testing.assert_array_equal(steps.values[steps.which], np.diff(x, axis=1))
    assert len(steps.values) == 3


def test_a_unit_of_which_coordinates_are_no_multiples_is_refused():
    x = np.random.default_rng(0).normal(size=(100, 20, 2)).astype(np.float32)
    with pytest.raises(ValueError, match=r"unit: got 0\.5; expected one that every"):
        distinct_steps(x, 0.5, most=500)
    with pytest.raises(ValueError, match="unit: got 1"):
        distinct_steps(walks(10, 5, 1, scale=37.0), 1.0, most=500)


def test_a_point_has_no_intervals():
    for x in (walks(10, 1, 2), walks(0, 5, 2)):
        with pytest.raises(Ungrouped, match="no interval"):
            distinct_steps(x, 1.0, most=500)


def test_more_increments_than_can_be_counted():
    x = np.random.default_rng(0).integers(-(2**20), 2**20, (3, 4, 3)).astype(np.float64)
    with pytest.raises(Ungrouped, match="there may be"):
        distinct_steps(x, 1.0, most=500)


def model(**mixer):
    options = {"gate_omega": "path", "gate_xi": "path", "solver": ExactFlow()} | mixer

    def make(d_model, *, channels, key):
        return LinearCDE(d_model, channels=channels, key=key, **options)

    return MixerReadout(make, d_model=6, channels=2, n_outputs=1, key=jr.key(0))


def one_by_one(net, x):
    return jax.jit(jax.vmap(net.features))(jnp.asarray(x))


@pytest.mark.parametrize("solver", [ExactFlow(), Euler(), Tsit5(), Tsit5(first_step=0.2)], ids=str)
def test_features_of_many_are_the_features_of_each(solver, x64):
    x = walks(37, 30, 2, scale=30.0, dtype=np.float64)
    done = []
    net = model(solver=solver)
    got = net.features_of_many(x, 1 / 30, done.append)
    np.testing.assert_allclose(got, one_by_one(net, x), rtol=1e-10, atol=1e-10)
    assert done == sorted(done)
    assert done[-1] == 37


@pytest.mark.slow
def test_in_float32_as_well():
    """Diffrax leaves out three units in the last place of the time at each of 100 samples, which is
    2e-5 of the whole."""
    x = walks(50, 100, 2, scale=30.0)
    net = model(solver=Tsit5())
    want = np.asarray(one_by_one(net, x))
    got = net.features_of_many(x, 1 / 30)
    assert got.dtype == np.float32
    assert np.max(np.abs(got - want)) < 1e-4 * np.max(np.abs(want))


def test_paths_whose_steps_may_differ_are_left_to_diffrax():
    """Longer increments need more steps; what is then wrong with the one-step map is not small."""
    x = 20 * walks(37, 30, 2, scale=30.0)
    done = []
    with pytest.raises(Ungrouped, match="other steps for some paths"):
        model(solver=Tsit5()).features_of_many(x, 20 / 30, done.append)
    assert not done or done[-1] < 37


def test_grouped_or_refused_but_never_wrong(x64):
    """From increments that take one step each to those that take more."""
    net, refused = model(solver=Tsit5()), []
    each = jax.jit(jax.vmap(net.features))
    for size in (0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0):
        x = size * walks(37, 12, 2, scale=30.0, dtype=np.float64)
        try:
            got = net.features_of_many(x, size / 30)
        except Ungrouped:
            refused.append(size)
            continue
        np.testing.assert_allclose(got, each(jnp.asarray(x)), rtol=1e-9, atol=1e-9)
    assert refused
    assert refused[0] > 0.5


def test_a_series_that_has_not_converged_is_an_error():
    x = 1000 * walks(37, 30, 2)
    with pytest.raises(Exception, match="substeps"):
        model().features_of_many(x, 1000.0)


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ({"gate_xi": "integral"}, "gates 'path'"),
        ({"structure": "diagonal"}, "dense matrices"),
        ({"dt": 0.1}, "dt = '1/length'"),
    ],
    ids=str,
)
def test_other_equations_have_no_faster_way(mixer, message):
    with pytest.raises(Ungrouped, match=message):
        model(**mixer).features_of_many(walks(37, 30, 2, scale=30.0), 1 / 30)


def test_few_paths_have_no_faster_way():
    """A matrix for each increment costs d_hidden states."""
    with pytest.raises(Ungrouped, match="more than 4"):
        model().features_of_many(walks(1, 30, 2, scale=30.0), 1 / 30)


def test_final_states_of_the_equation_are_those_of_a_loop(x64):
    """With Euler's scheme, in NumPy; each interval takes 1/intervals of time."""
    x = walks(20, 6, 2, scale=5.0, dtype=np.float64)
    layer = model(solver=Euler()).mixer
    a, b = np.asarray(layer.a), np.asarray(layer.b)
    z0 = np.random.default_rng(1).normal(size=(20, 6))
    want = []
    for path, z in zip(x, z0, strict=True):
        for step in np.diff(path, axis=0):
            u = np.append(1 / 5, step)
            z = z + np.tensordot(u, a, axes=1) @ z + b @ u
        want.append(z)
    seen = []
    steps = distinct_steps(x, 1 / 5, MOST_MATRICES)
    got = final_states(layer.solver, layer.a, layer.b, jnp.asarray(z0), steps, seen.append)
    np.testing.assert_allclose(got, want, rtol=1e-11)
    assert seen == [1, 2, 3, 4, 5]
