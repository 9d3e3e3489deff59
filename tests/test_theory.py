"""What the theory says each model can and cannot see (`Cirone et al., 2024`, §4)."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.readout import least_squares
from ssm.cde import ExactFlow
from ssm.mixers import S4, LinearCDE
from ssm.model import SequenceModel
from tasks.signature import SignatureTask


def path_from(increments):
    return jnp.concatenate([jnp.zeros_like(increments[:1]), jnp.cumsum(increments, axis=0)])


@pytest.mark.parametrize("depth", [1, 2])
def test_a_linear_s4_stack_is_a_linear_functional(depth):
    """Superposition: f(αX + βY) = α f(X) + β f(Y) once the constant term is taken off."""
    model = SequenceModel(
        functools.partial(S4, d_state=8),
        d_model=16,
        depth=depth,
        activation="identity",
        norm=False,
        pooling="mean",
        channels=2,
        n_outputs=1,
        key=jr.key(0),
    )
    x, y = jr.normal(jr.key(1), (2, 30, 2))
    constant = model(jnp.zeros_like(x))
    f = jax.jit(lambda v: model(v) - constant)
    np.testing.assert_allclose(f(2 * x - 3 * y), 2 * f(x) - 3 * f(y), rtol=1e-4, atol=1e-4)


def homogeneous(structure):
    """dZ = Σ A_i Z dω^i with ω = (t, X) and no drive, from a fixed Z_0."""
    layer = LinearCDE(
        6,
        channels=2,
        structure=structure,
        gate_omega="path",
        gate_xi="path",
        solver=ExactFlow(substeps=4),
        key=jr.key(0),
    )
    layer = jax.tree.map(lambda x: x.astype(jnp.float64), layer)

    def final_state(increments):
        solved = layer.solver.solve(
            layer.a,
            jnp.zeros_like(layer.b),
            jnp.ones(6, jnp.float64),
            jnp.pad(increments, ((0, 0), (1, 0)), constant_values=1 / len(increments)),
            jnp.zeros((len(increments), 3), jnp.float64),
        )
        return solved[-1]

    return layer, jax.jit(final_state)


def test_a_diagonal_cde_sees_the_multiset_of_increments_and_a_dense_one_their_order(x64):
    """§4.4: with diagonal A only ψ(ω_t) survives of the homogeneous part; with dense A the state
    separates a path from its reordering."""
    increments = jr.normal(jr.key(1), (8, 2), jnp.float64)
    reordered = increments[jnp.array([3, 1, 0, 2, 7, 5, 4, 6])]
    _, diagonal = homogeneous("diagonal")
    np.testing.assert_allclose(diagonal(increments), diagonal(reordered), rtol=1e-12)
    _, dense = homogeneous("dense")
    assert np.max(np.abs(dense(increments) - dense(reordered))) > 1e-2


def test_the_driven_diagonal_cde_is_the_sum_the_theory_gives(x64):
    """Z_1 = ψ(ω_1) Z_0 + Σ_s φ(ω_1 − ω_s) Δξ_s: it depends on each increment and the *sum* of the
    later ones, so that permuting the increments after s leaves the s-th term as it was."""
    layer, _ = homogeneous("diagonal")
    x = path_from(jr.normal(jr.key(1), (9, 2), jnp.float64))
    d_omega = jnp.concatenate([jnp.full((9, 1), 1 / 9, jnp.float64), jnp.diff(x, axis=0)], axis=1)
    m = np.asarray(d_omega @ layer.a)
    later = np.cumsum(m[::-1], axis=0)[::-1]  # Σ_{r ≥ s} a·Δω_r
    z0 = np.asarray(layer.initial_weight @ x[0] + layer.initial_bias)
    expected = np.exp(later[0]) * z0
    for s in range(9):
        rest = later[s + 1] if s + 1 < 9 else 0
        expected += np.exp(rest) * np.expm1(m[s]) / m[s] * np.asarray(layer.b @ d_omega[s])
    np.testing.assert_allclose(layer(x)[-1], expected, rtol=1e-10)


def frozen_features_rmse(task, structure, d_hidden):
    """Validation RMSE of the best linear readout of a random linear CDE's last state."""
    data = task.load()
    layer = LinearCDE(
        d_hidden,
        channels=task.channels,
        structure=structure,
        gate_omega="path",
        gate_xi="path",
        solver=ExactFlow(),
        key=jr.key(0),
    )
    features = jax.jit(jax.vmap(lambda x: layer(x)[-1]))
    train = np.asarray(features(jnp.asarray(data.train.inputs)))
    fit = least_squares(train, data.train.targets)
    predicted = np.asarray(features(jnp.asarray(data.validation.inputs)), np.float64)
    error = predicted @ fit.weights + fit.intercept - data.validation.targets
    return np.sqrt(np.mean(error**2)), task.baselines(data)


def test_random_dense_cde_features_beat_every_linear_predictor_on_area():
    rmse, baselines = frozen_features_rmse(SignatureTask(n_paths=2000, length=30), "dense", 64)
    assert rmse < 0.2 * min(baselines["rmse_linear"], baselines["rmse_zero"])


def test_one_diagonal_layer_gives_area_but_not_volume():
    """∫ φ(ω_1 − ω_s) dξ_s with linear φ is an area; three nested integrals are out of its reach,
    while a dense layer of the same width has them."""
    area = SignatureTask(n_paths=2000, length=30)
    rmse, baselines = frozen_features_rmse(area, "diagonal", 64)
    assert rmse < 0.1 * baselines["rmse_zero"]
    volume = SignatureTask(dimension=3, word=(1, 2, 3), n_paths=3000, length=20)
    diagonal, baselines = frozen_features_rmse(volume, "diagonal", 256)
    dense, _ = frozen_features_rmse(volume, "dense", 256)
    assert diagonal > 0.6 * baselines["rmse_zero"]
    assert dense < 0.4 * diagonal
