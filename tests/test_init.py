"""Initialisations, by their moments and ranges, against `paper.md`'s description."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm.init import hippo_n_diagonal, inverse_softplus, named_key
from ssm.mixers import RNN, S4, S5, S6, LinearCDE, TransformerLayer
from ssm.model import SequenceModel

KEY = jr.key(0)


def is_normal(x, deviation):
    x = np.asarray(x).ravel()
    assert abs(x.mean()) < 5 * deviation / x.size**0.5
    assert abs(x.std() / deviation - 1) < 5 / x.size**0.5
    assert abs((x**4).mean() / deviation**4 - 3) < 5 * (96 / x.size) ** 0.5


def is_uniform(x, low, high):
    x = (np.asarray(x).ravel() - low) / (high - low)
    assert x.min() >= -1e-6
    assert x.max() <= 1 + 1e-6
    assert abs(x.mean() - 0.5) < 5 / (12 * x.size) ** 0.5
    assert abs(x.var() - 1 / 12) < 0.02


def test_linear_cde():
    layer = LinearCDE(64, key=KEY)
    assert layer.a.shape == (65, 64, 64)
    is_normal(layer.a, 64**-0.5)
    is_normal(layer.b, 1)
    is_normal(layer.initial_weight, 1)
    is_normal(LinearCDE(400, structure="diagonal", channels=9, key=KEY).a, 1)


def test_s4():
    layer = S4(200, d_state=50, key=KEY)
    np.testing.assert_allclose(-jnp.exp(layer.a_log), -0.5, rtol=1e-6)
    np.testing.assert_allclose(layer.a_imag[3], np.pi * np.arange(1, 51), rtol=1e-6)
    for part in (layer.b, layer.c):
        is_normal(part, (1 / 250) ** 0.5)
    np.testing.assert_array_equal(layer.d, 1)
    is_uniform(layer.log_dt, np.log(1e-3), np.log(1e-1))


def test_the_softplus_quirk_makes_large_steps():
    layer = S4(500, d_state=1, softplus_dt=True, key=KEY)
    dt = layer.discrete()[0].real / -jnp.exp(layer.a_log)
    assert dt.min() > 0.69
    assert dt.max() < 0.75


def test_s5():
    layer = S5(300, d_state=64, blocks=2, key=KEY)
    np.testing.assert_allclose(-jnp.exp(layer.a_log), -0.5, rtol=1e-5)
    assert np.all(layer.a_imag > 0)
    assert layer.b.shape == (32, 300, 2)
    # V* is an isometry onto half the modes: B keeps half the energy of the Lecun-normal matrix.
    np.testing.assert_allclose(jnp.sum(layer.b**2), 64 / 2, rtol=0.05)
    np.testing.assert_allclose(jnp.sum(layer.c**2), 300 / 2, rtol=0.05)
    is_normal(layer.d, 1)


def test_hippo_n_is_diagonalised_by_a_unitary_matrix():
    values, vectors = hippo_n_diagonal(8)
    n = np.arange(8)
    legs = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    normal = legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    np.testing.assert_allclose(normal @ vectors, vectors * values, atol=1e-12)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(4), atol=1e-12)
    with pytest.raises(ValueError, match="even size"):
        hippo_n_diagonal(5)


def test_mamba():
    layer = S6(512, d_state=16, key=KEY)
    assert layer.x_proj.weight.shape == (32 + 32, 512)
    assert layer.x_proj.bias is None
    is_uniform(layer.x_proj.weight, -(512**-0.5), 512**-0.5)
    is_uniform(layer.dt_proj.weight, -(32**-0.5), 32**-0.5)
    is_uniform(np.log(jax.nn.softplus(layer.dt_proj.bias)), np.log(1e-3), np.log(1e-1))
    np.testing.assert_allclose(-jnp.exp(layer.a_log)[7], -np.arange(1, 17), rtol=1e-5)
    np.testing.assert_array_equal(layer.d, 1)
    floored = S6(64, dt_min=1e-6, dt_max=1e-6, key=KEY)
    np.testing.assert_allclose(jax.nn.softplus(floored.dt_proj.bias), 1e-4, rtol=1e-3)


def test_rnn_and_transformer():
    is_uniform(RNN(64, key=KEY).state_weight, -1 / 8, 1 / 8)
    layer = TransformerLayer(96, num_heads=4, d_feedforward=64, key=KEY)
    bound = (6 / (4 * 96)) ** 0.5
    for projection in (layer.attention.query_proj, layer.attention.value_proj):
        is_uniform(projection.weight, -bound, bound)
        np.testing.assert_array_equal(projection.bias, 0)
    is_uniform(layer.attention.output_proj.weight, -(96**-0.5), 96**-0.5)
    assert layer.attention_norm.eps == 1e-5


def test_model_ends():
    model = SequenceModel(RNN, d_model=100, vocabulary=60, n_outputs=60, key=KEY)
    is_normal(model.encoder.weight, 1)
    is_uniform(model.readout.weight, -0.1, 0.1)
    is_uniform(model.blocks[0].mix.weight, -0.1, 0.1)
    assert model.blocks[0].mix.weight.shape == (200, 100)


def test_named_keys_differ_and_do_not_depend_on_each_other():
    first, second = (jr.key_data(named_key(KEY, name)) for name in ("a", "b"))
    assert np.any(np.asarray(first) != np.asarray(second))


def test_inverse_softplus(x64):
    y = jnp.array([1e-6, 1e-3, 0.1, 3.0], jnp.float64)
    np.testing.assert_allclose(jax.nn.softplus(inverse_softplus(y)), y, rtol=1e-9)
