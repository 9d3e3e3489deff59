"""The block and the sequence model, against the paper's description written out in NumPy."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special

from ssm.block import Block
from ssm.init import count_parameters
from ssm.mixers import RNN, S4, LinearCDE, Mamba, TransformerLayer
from ssm.mixers.attention import sinusoidal_positions
from ssm.model import SequenceModel

KEY = jr.key(0)


def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def glu(x):
    value, gate = np.split(x, 2, axis=-1)
    return value / (1 + np.exp(-gate))


ACTIVATIONS = {
    "glu": glu,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2))),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_block_is_mixer_mix_activation_residual_norm(activation, norm):
    block = Block(RNN(6, key=KEY), 6, activation=activation, norm=norm, key=KEY)
    x = jr.normal(jr.key(1), (5, 6))
    y = np.asarray(block.mixer(x)) @ np.asarray(block.mix.weight).T + np.asarray(block.mix.bias)
    y = np.asarray(x) + ACTIVATIONS[activation](y)
    expected = layer_norm(y) if norm else y
    np.testing.assert_allclose(eqx.filter_jit(block)(x), expected, rtol=2e-4, atol=1e-5)


def test_dropout_comes_before_the_mix_and_before_the_residual():
    """With dropout 0.5 the kept entries are doubled; the residual is never dropped."""
    block = Block(RNN(400, key=KEY), 400, activation="identity", norm=False, dropout=0.5, key=KEY)
    x = jr.normal(jr.key(1), (3, 400))
    update = eqx.filter_jit(block)(x, key=jr.key(2)) - x
    dropped = jnp.mean((update == 0).astype(jnp.float32))
    assert 0.4 < dropped < 0.6
    still = eqx.nn.inference_mode(block)
    np.testing.assert_allclose(eqx.filter_jit(still)(x), eqx.filter_jit(still)(x, key=jr.key(3)))
    # The expectation over masks is the map without dropout: both masks scale by 1/(1 − p).
    keys = jr.split(jr.key(4), 2000)
    mean = jnp.mean(eqx.filter_jit(jax.vmap(lambda k: block(x, key=k)))(keys), axis=0)
    np.testing.assert_allclose(mean, still(x), atol=0.15)


def test_a_bare_block_is_its_mixer():
    mixer = LinearCDE(8, channels=2, key=KEY)
    block = Block(mixer, 8, activation="identity", norm=False, bare=True, key=KEY)
    x = jr.normal(KEY, (4, 2))
    np.testing.assert_array_equal(block(x), mixer(x))
    with pytest.raises(ValueError, match="bare"):
        Block(mixer, 8, activation="relu", norm=False, bare=True, key=KEY)


def test_pooling_and_readout():
    make = functools.partial(SequenceModel, RNN, d_model=4, channels=2, n_outputs=3, key=KEY)
    x = jr.normal(KEY, (7, 2))
    everywhere = make(pooling="none")(x)
    assert everywhere.shape == (7, 3)
    np.testing.assert_allclose(make(pooling="last")(x), everywhere[-1], rtol=1e-5)
    np.testing.assert_allclose(make(pooling="mean")(x), everywhere.mean(axis=0), atol=1e-6)
    model = make(pooling="mean")
    np.testing.assert_allclose(model.readout(model.features(x)), model(x), rtol=1e-6)


def test_sinusoidal_positions():
    table = sinusoidal_positions(5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(table[t, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(table[t, 2 * i + 1], np.cos(angle), atol=1e-6)
    with pytest.raises(ValueError, match="even width"):
        sinusoidal_positions(5, 3)


def test_attention_is_softmax_over_the_past():
    layer = eqx.nn.inference_mode(TransformerLayer(6, num_heads=2, d_feedforward=8, key=KEY))
    x = np.asarray(jr.normal(jr.key(1), (5, 6)))
    q, k, v = (
        (x @ np.asarray(p.weight).T).reshape(5, 2, 3)
        for p in (layer.attention.query_proj, layer.attention.key_proj, layer.attention.value_proj)
    )
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(3)
    scores[:, np.triu(np.ones((5, 5), bool), 1)] = -np.inf
    heads = np.einsum("hts,shd->thd", scipy.special.softmax(scores, -1), v).reshape(5, 6)
    h = layer_norm(x + heads @ np.asarray(layer.attention.output_proj.weight).T)
    up = np.maximum(h @ np.asarray(layer.expand.weight).T + np.asarray(layer.expand.bias), 0)
    down = up @ np.asarray(layer.contract.weight).T + np.asarray(layer.contract.bias)
    np.testing.assert_allclose(layer(jnp.asarray(x)), layer_norm(h + down), rtol=1e-4, atol=1e-5)


def parameters(
    mixer, d, *, vocabulary=None, channels=None, outputs=60, depth=1, glu=True, norm=True
):
    """The formula: encoder + depth·(mixer + mix + norm) + readout."""
    encoder = vocabulary * d if vocabulary else channels * d + d
    width = 2 * d if glu else d
    block = mixer + d * width + width + (2 * d if norm else 0)
    return encoder + depth * block + d * outputs + outputs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {
                "mixer": functools.partial(Mamba, d_state=64),
                "d_model": 1024,
                "vocabulary": 60,
                "n_outputs": 60,
                "depth": 3,
            },
            parameters(
                1024 * (64 + 128) + 64 * 1024 + 1024 + 1024 * 64 + 1024,
                1024,
                vocabulary=60,
                depth=3,
            ),
        ),
        (
            {
                "mixer": functools.partial(S4, d_state=256),
                "d_model": 256,
                "channels": 2,
                "n_outputs": 1,
                "depth": 2,
                "activation": "gelu",
                "norm": False,
            },
            parameters(
                6 * 256 * 256 + 2 * 256, 256, channels=2, outputs=1, depth=2, glu=False, norm=False
            ),
        ),
        (
            {
                "mixer": LinearCDE,
                "d_model": 256,
                "vocabulary": 60,
                "n_outputs": 60,
                "activation": "relu",
            },
            parameters(257 * 256**2 + 256 * 257 + 256**2 + 256, 256, vocabulary=60, glu=False),
        ),
    ],
)
def test_parameter_counts_at_paper_size(settings, expected):
    model = eqx.filter_eval_shape(lambda k: SequenceModel(**settings, key=k), KEY)
    assert count_parameters(model) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth: got 0"),
        ({"d_model": 0}, "d_model: got 0"),
        ({"pooling": "max"}, "pooling: got 'max'"),
        ({"activation": "tanh"}, "activation: got 'tanh'"),
        ({"dropout": 1.5}, "dropout: got 1.5"),
        ({"vocabulary": 5}, "exactly one"),
        ({"encode": False}, "cannot read the path"),
        ({"channels": None, "vocabulary": 5, "encode": False}, "tokens need an encoder"),
        ({"positions": True, "d_model": 3}, "even width"),
    ],
)
def test_bad_settings_are_refused(settings, message, own_errors):
    valid = {"d_model": 4, "channels": 2, "n_outputs": 1}
    with pytest.raises(ValueError, match=message):
        SequenceModel(RNN, **(valid | settings), key=KEY)
