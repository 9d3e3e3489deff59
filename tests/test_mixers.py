"""Every mixer: streaming, causality, oracles in NumPy, and what it must refuse."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm.cde import ExactFlow, Tsit5
from ssm.init import count_parameters
from ssm.mixers import RNN, S4, S5, S6, LinearCDE, Mamba, TransformerLayer
from ssm.mixers.s4 import causal_fft, causal_toeplitz

WIDTH = 6
LINEAR = {
    "cde": LinearCDE,
    "cde_path": functools.partial(LinearCDE, gate_omega="path", gate_xi="path"),
    "cde_exact": functools.partial(
        LinearCDE, gate_omega="path", gate_xi="integral", solver=ExactFlow(substeps=4)
    ),
    "cde_diagonal": functools.partial(LinearCDE, structure="diagonal"),
    "cde_diagonal_exact": functools.partial(LinearCDE, structure="diagonal", solver=ExactFlow()),
    "s4": functools.partial(S4, d_state=8),
    "s4_quirk": functools.partial(S4, d_state=8, softplus_dt=True),
    "s5": functools.partial(S5, d_state=8, blocks=2),
    "mamba": functools.partial(Mamba, d_state=4),
    "mamba_full": functools.partial(Mamba, d_state=4, variant="full"),
}
STREAMING = LINEAR | {"rnn": RNN}
ALL = STREAMING | {"transformer": functools.partial(TransformerLayer, num_heads=2, d_feedforward=8)}


def build(name):
    return ALL[name](WIDTH, key=jr.key(0))


def stream(mixer, x):
    """Reads a sequence one position at a time."""

    def step(state, x_t):
        return mixer.step(state, x_t)

    return jax.lax.scan(step, mixer.init_state(len(x)), x)[1]


def loss(form, params, static, x):
    """Linear in the output, so that it does not amplify the rounding of a growing state."""
    y = form(eqx.combine(params, static), x)
    return jnp.mean(y * jr.normal(jr.key(2), y.shape))


value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(1, 3)), static_argnums=(0, 2))


VARIANTS = ("cde_path", "cde_exact", "cde_diagonal_exact", "s4_quirk", "rnn")


@pytest.mark.parametrize(
    ("name", "length"),
    [(n, k) for n in STREAMING for k in (1, 2, 7, 100) if n not in VARIANTS or k == 7],
)
def test_streaming_gives_the_parallel_form(name, length):
    """Values and gradients, to 1e-5 of their size in float32."""
    x = 0.1 * jr.normal(jr.key(1), (length, WIDTH))
    params, static = eqx.partition(build(name), eqx.is_inexact_array)
    parallel = value_and_gradients(lambda m, x: m(x), params, static, x)
    streamed = value_and_gradients(stream, params, static, x)
    for got, want in zip(jax.tree.leaves(streamed), jax.tree.leaves(parallel), strict=True):
        size = float(jnp.max(jnp.abs(want))) + 1e-3
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * size)


def test_streaming_tsit5_at_tight_tolerance(x64):
    mixer = LinearCDE(
        3, gate_omega="path", gate_xi="path", solver=Tsit5(1e-10, 1e-10), key=jr.key(0)
    )
    x = jr.normal(jr.key(1), (5, 3), jnp.float64)
    np.testing.assert_allclose(
        eqx.filter_jit(stream)(mixer, x), eqx.filter_jit(mixer)(x), rtol=1e-7
    )


@pytest.mark.parametrize("name", ALL)
def test_no_position_sees_the_future(name):
    """The gradient of output t to inputs after t is exactly zero, and to input t it is not."""
    mixer = eqx.nn.inference_mode(build(name))
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.sum(mixer(x) ** 2, axis=-1)))(
        0.1 * jr.normal(jr.key(1), (9, WIDTH))
    )
    for t in range(9):
        assert not np.any(jacobian[t, t + 1 :])
        assert np.any(jacobian[t, t])


def test_s4_is_the_recurrence_of_its_definition():
    """A NumPy loop over the complex recurrence, with and without the softplus quirk."""
    x = np.asarray(jr.normal(jr.key(1), (12, WIDTH)))
    for quirk in (False, True):
        layer = S4(WIDTH, d_state=5, softplus_dt=quirk, key=jr.key(0))
        dt = np.exp(np.asarray(layer.log_dt))
        dt = np.log1p(np.exp(dt)) if quirk else dt
        a = -np.exp(np.asarray(layer.a_log)) + 1j * np.asarray(layer.a_imag)
        b, c = (np.asarray(v[..., 0]) + 1j * np.asarray(v[..., 1]) for v in (layer.b, layer.c))
        h, expected = np.zeros_like(a), []
        for x_t in x:
            h = np.exp(dt[:, None] * a) * h + dt[:, None] * b * x_t[:, None]
            expected.append(2 * (c * h).sum(-1).real + np.asarray(layer.d) * x_t)
        np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=2e-5, atol=1e-6)


def test_the_two_convolutions_agree_and_are_numpys(x64):
    kernel, x = jr.normal(jr.key(0), (2, 50, 3), jnp.float64)
    expected = np.stack(
        [np.convolve(k, v)[:50] for k, v in zip(kernel.T, x.T, strict=True)], axis=1
    )
    np.testing.assert_allclose(causal_toeplitz(kernel, x), expected, atol=1e-12)
    np.testing.assert_allclose(causal_fft(kernel, x), expected, atol=1e-12)


def test_s5_holds_its_input_over_each_step():
    """Its real state-space system, with the conjugate modes written out, under SciPy's ZOH."""
    from scipy.signal import cont2discrete

    layer = S5(3, d_state=4, key=jr.key(0))
    layer = eqx.tree_at(lambda m: m.log_dt, layer, jnp.full(2, np.log(0.05), jnp.float32))
    lam = -np.exp(np.asarray(layer.a_log)) + 1j * np.asarray(layer.a_imag)
    b, c = (np.asarray(v[..., 0]) + 1j * np.asarray(v[..., 1]) for v in (layer.b, layer.c))
    # real form: h = (Re, Im) of each mode
    a_real = np.block(
        [[np.diag(lam.real), -np.diag(lam.imag)], [np.diag(lam.imag), np.diag(lam.real)]]
    )
    b_real = np.concatenate([b.real, b.imag])
    c_real = 2 * np.concatenate([c.real, -c.imag], axis=1)
    d_real = np.diag(np.asarray(layer.d))
    a_bar, b_bar, *_ = cont2discrete((a_real, b_real, c_real, d_real), 0.05, method="zoh")
    h, expected, x = np.zeros(4), [], np.asarray(jr.normal(jr.key(2), (10, 3)))
    for x_t in x:
        h = a_bar @ h + b_bar @ x_t
        expected.append(c_real @ h + d_real @ x_t)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_the_elman_network_is_its_equation():
    layer = RNN(4, key=jr.key(0))
    x, h, expected = np.asarray(jr.normal(jr.key(1), (6, 4))), np.zeros(4), []
    w, u, b, c = (
        np.asarray(v)
        for v in (layer.input_weight, layer.state_weight, layer.input_bias, layer.state_bias)
    )
    for x_t in x:
        h = np.tanh(w @ x_t + b + u @ h + c)
        expected.append(h)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_the_official_linear_cde_recurrence(x64):
    """y_i = y_{i−1} + (Σ_j A_j y_{i−1} u_i^j + B u_i)/k with u_i = (t_i, e_i): the A5 model."""
    layer = LinearCDE(4, key=jr.key(0))
    k = 5
    e = np.asarray(jr.normal(jr.key(1), (k, 4)))
    a, b = np.asarray(layer.a), np.asarray(layer.b)
    y = np.asarray(layer.initial_weight) @ e[0] + np.asarray(layer.initial_bias)
    expected = [y]
    for i in range(1, k):
        u = np.append(i / (k - 1), e[i])
        y = y + (sum(u[j] * a[j] @ y for j in range(5)) + b @ u) / k
        expected.append(y)
    np.testing.assert_allclose(layer(jnp.asarray(e)), expected, rtol=1e-12)


def test_the_convolution_of_the_full_mamba_block_is_causal_and_depthwise():
    layer = Mamba(3, variant="full", d_state=2, key=jr.key(0))
    assert layer.core.a_log.shape == (6, 2)
    u = np.asarray(jr.normal(jr.key(1), (9, 6)))
    weight, bias = np.asarray(layer.frame.conv_weight), np.asarray(layer.frame.conv_bias)
    columns = [np.convolve(u[:, d], weight[::-1, d])[:9] + bias[d] for d in range(6)]
    np.testing.assert_allclose(
        layer.frame.convolve(jnp.asarray(u)), np.stack(columns, axis=1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k: S5(4, d_state=3, key=k), "conjugate pairs"),
        (lambda k: S5(4, d_state=6, blocks=2, key=k), "multiple of"),
        (lambda k: S4(4, d_state=0, key=k), "d_state: got 0"),
        (lambda k: S4(4, dt_min=0.0, key=k), "dt_min"),
        (lambda k: S6(4, d_state=0, key=k), "d_state: got 0"),
        (lambda k: Mamba(4, variant="half", key=k), "variant: got 'half'"),
        (lambda k: TransformerLayer(5, num_heads=2, key=k), "divisor of d_model = 5"),
        (lambda k: TransformerLayer(4, num_heads=2, dropout=1.0, key=k), "dropout: got 1.0"),
        (lambda k: LinearCDE(4, structure="sparse", key=k), "structure: got 'sparse'"),
        (lambda k: LinearCDE(4, gate_xi="none", key=k), "gate: got 'none'"),
    ],
)
def test_bad_sizes_are_refused(make, message, own_errors):
    with pytest.raises(ValueError, match=message):
        make(jr.key(0))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("cde", 7 * 36 + 6 * 7 + 36 + 6),
        ("cde_diagonal", 7 * 6 + 6 * 7 + 36 + 6),
        ("s4", 6 * 8 * (2 + 4) + 2 * 6),
        ("s5", 4 * 3 + 4 * 6 * 2 * 2 + 6),
        ("mamba", 6 * (1 + 8) + 6 + 6 + 6 * 4 + 6),
        ("mamba_full", 6 * 24 + 4 * 12 + 12 + 12 * (1 + 8) + 12 + 12 + 12 * 4 + 12 + 12 * 6),
        ("rnn", 2 * 36 + 2 * 6),
        ("transformer", 4 * (36 + 6) + 6 * 8 + 8 + 8 * 6 + 6 + 4 * 6),
    ],
)
def test_parameter_counts(name, count):
    assert count_parameters(eqx.filter(build(name), eqx.is_inexact_array)) == count
