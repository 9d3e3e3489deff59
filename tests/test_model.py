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
from ssm.mixers import RNN, S4, S5, LinearCDE, Mamba, TransformerLayer
from ssm.mixers.attention import sinusoidal_positions
from ssm.model import MixerReadout, SequenceModel
from ssm.scans.grouped import Ungrouped

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
    y = np.asarray(block.mixer(x)[0]) @ np.asarray(block.mix.weight).T + np.asarray(block.mix.bias)
    y = np.asarray(x) + ACTIVATIONS[activation](y)
    expected = layer_norm(y) if norm else y
    got, state = eqx.filter_jit(block)(x)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(state, block.mixer(x)[1], rtol=1e-5)


def test_dropout_comes_before_the_mix_and_before_the_residual():
    """With dropout 0.5 the kept entries are doubled; the residual is never dropped."""
    block = Block(RNN(400, key=KEY), 400, activation="identity", norm=False, dropout=0.5, key=KEY)
    x = jr.normal(jr.key(1), (3, 400))
    read = eqx.filter_jit(lambda block, x, key: block(x, key=key)[0])
    update = read(block, x, jr.key(2)) - x
    dropped = jnp.mean((update == 0).astype(jnp.float32))
    assert 0.4 < dropped < 0.6
    still = eqx.nn.inference_mode(block)
    np.testing.assert_allclose(read(still, x, None), read(still, x, jr.key(3)))
    # The expectation over masks is the map without dropout: both masks scale by 1/(1 − p).
    keys = jr.split(jr.key(4), 2000)
    mean = jnp.mean(jax.jit(jax.vmap(lambda k: read(block, x, k)))(keys), axis=0)
    np.testing.assert_allclose(mean, still(x)[0], atol=0.15)


def mixer_readout(mixer=LinearCDE, **sizes):
    return MixerReadout(mixer, **({"d_model": 8, "channels": 2, "n_outputs": 3} | sizes), key=KEY)


def test_a_mixer_and_a_readout():
    """The readout is of the mixer's last output; a sequence may be read in pieces."""
    model, x = mixer_readout(), jr.normal(KEY, (6, 2))
    last = model.mixer(x)[0][-1]
    np.testing.assert_allclose(model.features(x), last, rtol=1e-6)
    want = np.asarray(model.readout.weight) @ np.asarray(last) + np.asarray(model.readout.bias)
    np.testing.assert_allclose(model(x), want, rtol=1e-4)
    assert model.pooling == "last"
    state = model.init(6)
    for i, j in ((0, 1), (1, 4), (4, 6)):
        y, state = model.read(x[i:j], state)
    np.testing.assert_allclose(y, want, rtol=1e-4)
    state, outputs = jax.lax.scan(model.step, model.init(6), x)
    np.testing.assert_allclose(outputs[-1], want, rtol=1e-4)
    assert not np.allclose(model(x, dt=2.0), want)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"mixer": RNN}, "mixer: got one whose input is as wide as its output"),
        ({"channels": None, "vocabulary": 5}, "vocabulary: got 5; the mixer reads a path itself"),
        ({"d_model": 0}, "d_model: got 0"),
        ({"n_outputs": 0}, "n_outputs: got 0"),
        (
            {"mixer": functools.partial(LinearCDE, structure="sparse")},
            r"mixer\.structure: got 'sparse'",
        ),
    ],
)
def test_what_a_mixer_and_a_readout_refuse(sizes, message, own_errors):
    with pytest.raises(ValueError, match=message):
        mixer_readout(**sizes)


def test_only_a_linear_cde_is_solved_for_many_paths_at_once():
    class Sum(RNN):
        def __init__(self, d_model, *, channels, key):
            super().__init__(d_model, key=key)

    with pytest.raises(Ungrouped, match="expected a linear CDE"):
        mixer_readout(Sum).features_of_many(np.zeros((3, 4, 2), np.float32), 1.0)


def test_pooling_and_readout():
    make = functools.partial(SequenceModel, RNN, d_model=4, channels=2, n_outputs=3, key=KEY)
    x = jr.normal(KEY, (7, 2))
    everywhere = make(pooling="none")(x)
    assert everywhere.shape == (7, 3)
    np.testing.assert_allclose(make(pooling="last")(x), everywhere[-1], rtol=1e-5)
    np.testing.assert_allclose(make(pooling="mean")(x), everywhere.mean(axis=0), atol=1e-6)
    model = make(pooling="mean")
    np.testing.assert_allclose(model.readout(model.features(x)), model(x), rtol=1e-6)


def test_the_model_is_encoder_blocks_readout():
    """Block after block, with positions; the time is every mixer's."""
    model = SequenceModel(
        functools.partial(S4, d_state=3),
        d_model=4, channels=2, n_outputs=3, depth=2, positions=True, key=KEY,
    )  # fmt: skip
    x, dt = jr.normal(KEY, (7, 2)), jnp.linspace(0.5, 2, 7)
    h = jax.vmap(model.encoder)(x) + sinusoidal_positions(7, 4)
    for block in model.blocks:
        h, _ = block(h, dt=dt)
    np.testing.assert_allclose(model(x, dt=dt), jax.vmap(model.readout)(h), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model(x, dt=dt), model(x))


@pytest.mark.slow
def test_a_model_reads_in_pieces_with_unequal_times():
    model = SequenceModel(
        functools.partial(S5, d_state=4), d_model=4, channels=2, n_outputs=3, depth=2,
        pooling="mean", key=KEY,
    )  # fmt: skip
    x, dt = jr.normal(KEY, (7, 2)), jnp.linspace(0.5, 2, 7)
    state = model.init()
    for i, j in ((0, 3), (3, 3), (3, 7)):
        y, state = model.read(x[i:j], state, dt=dt[i:j])
    np.testing.assert_allclose(y, model(x, dt=dt), rtol=1e-5, atol=1e-6)
    assert state.read == 7


def test_sinusoidal_positions():
    table = sinusoidal_positions(5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(table[t, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(table[t, 2 * i + 1], np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(sinusoidal_positions(2, 6, start=3), table[3:], atol=1e-6)
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
    got, cache = layer(jnp.asarray(x))
    np.testing.assert_allclose(got, layer_norm(h + down), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cache.keys, k, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cache.values, v, rtol=1e-4, atol=1e-5)
    assert cache.read == 5


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
    ("make", "count"),
    [
        (functools.partial(LinearCDE, structure="diagonal"), 7 * 6 + 6 * 7 + 36 + 6),
        (functools.partial(S5, d_state=8, blocks=2), 4 * 3 + 4 * 6 * 2 * 2 + 6),
        (
            functools.partial(Mamba, d_state=4, variant="full"),
            6 * 24 + 4 * 12 + 12 + 12 * (1 + 8) + 12 + 12 + 12 * 4 + 12 + 12 * 6,
        ),
        (RNN, 2 * 36 + 2 * 6),
        (
            functools.partial(TransformerLayer, num_heads=2, d_feedforward=8),
            4 * (36 + 6) + 6 * 8 + 8 + 8 * 6 + 6 + 4 * 6,
        ),
    ],
    ids=str,
)
def test_parameter_counts_of_the_other_mixers(make, count):
    mixer = eqx.filter_eval_shape(lambda k: make(6, key=k), KEY)
    assert count_parameters(mixer) == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth: got 0"),
        ({"d_model": 0}, "d_model: got 0"),
        ({"pooling": "max"}, "pooling: got 'max'"),
        ({"activation": "tanh"}, "activation: got 'tanh'"),
        ({"dropout": 1.5}, "dropout: got 1.5"),
        ({"vocabulary": 5}, "exactly one"),
        ({"channels": None}, "exactly one"),
        ({"n_outputs": 0}, "n_outputs: got 0"),
        ({"mixer": functools.partial(S4, d_state=0)}, r"mixer\.d_state: got 0"),
        ({"positions": True, "d_model": 3}, "even width"),
    ],
)
def test_bad_settings_are_refused(settings, message, own_errors):
    valid = {"mixer": RNN, "d_model": 4, "channels": 2, "n_outputs": 1}
    with pytest.raises(ValueError, match=message):
        SequenceModel(**(valid | settings), key=KEY)
