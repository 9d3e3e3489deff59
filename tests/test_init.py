"""Initialisations, by their moments and ranges, against `paper.md`'s description."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm.init import hippo_n_diagonal, inverse_softplus, named_key
from ssm.mixers import RNN, S4, S5, S6, LinearCDE, TransformerLayer
from ssm.mixers.short_convolution import ShortConvolution
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
    dt = layer.step_size()
    assert dt.min() > 0.69
    assert dt.max() < 0.75


def test_s5():
    """Of lindermanlab/S5, with C_init = "trunc_standard_normal": B₀ has variance 1/d_state, C₀
    complex entries with E|C₀|² = 2/d_state."""
    layer = S5(300, d_state=64, blocks=2, key=KEY)
    np.testing.assert_allclose(layer.a_real, -0.5, rtol=1e-5)
    assert np.all(layer.a_imag > 0)
    np.testing.assert_array_equal(layer.a_imag[:16], layer.a_imag[16:])
    np.testing.assert_allclose(layer.a_imag[:16], hippo_n_diagonal(32)[0].imag, rtol=1e-5)
    assert layer.b.shape == (32, 300, 2)
    assert layer.c.shape == (300, 32, 2)
    # V* is an isometry onto half the modes, so that an entry of V* B₀ has B₀'s E|·|², and C₀'s too.
    assert_mean(layer.b**2, 0.5 / 64)
    assert_mean(layer.c**2, 1 / 64)
    is_normal(layer.d, 1)
    assert layer.log_dt.shape == (32,)
    is_uniform(S5(2, d_state=1000, blocks=10, key=KEY).log_dt, np.log(1e-3), np.log(1e-1))


def assert_mean(x, expected):
    np.testing.assert_allclose(np.mean(x), expected, rtol=0.05)


def test_s5_s_matrices_are_truncated_at_two_deviations():
    """With two modes, of which the second is the conjugate of the first, B₀ = 2 Re(V V* B₀)."""
    layer = S5(3000, d_state=2, key=KEY)
    _, vectors = hippo_n_diagonal(2)
    b = (np.asarray(layer.b[..., 0]) + 1j * np.asarray(layer.b[..., 1]))[0]
    entries = 2 * np.real(np.outer(vectors[:, 0], b))
    assert_mean(entries**2, 1 / 2)
    most = 2 / 0.87962566103423978 / 2**0.5  # of a normal of variance 1/2 after truncation
    assert 0.98 * most < np.max(np.abs(entries)) <= most * (1 + 1e-5)


def test_s5_s_options():
    """A logarithm of the real part; and real normal matrices, which draw from other variances."""
    layer = S5(300, d_state=64, blocks=2, log_real=True, key=KEY)
    np.testing.assert_allclose(layer.a_real, np.log(0.5), rtol=1e-5)
    np.testing.assert_allclose(layer.rates().real, -0.5, rtol=1e-5)
    layer = S5(300, d_state=64, blocks=2, real_normal=True, key=KEY)
    assert_mean(layer.b**2, 0.5 / 300)
    assert_mean(layer.c**2, 0.5 / 64)
    one = S5(3000, d_state=2, real_normal=True, key=KEY)
    _, vectors = hippo_n_diagonal(2)
    for parts, axis, variance in ((one.b, 0, 1 / 3000), (one.c, 1, 1 / 2)):
        z = np.take(np.asarray(parts[..., 0]) + 1j * np.asarray(parts[..., 1]), 0, axis)
        v = vectors[:, 0] if axis == 0 else vectors[:, 0].conj()
        is_normal(2 * np.real(np.outer(v, z)), variance**0.5)


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


def test_the_short_convolution():
    layer = ShortConvolution(2000, taps=4, key=KEY)
    for part in (layer.weight, layer.bias):
        is_uniform(part, -1 / 2, 1 / 2)


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
