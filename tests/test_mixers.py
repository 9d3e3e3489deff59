"""Mixers against NumPy and SciPy oracles, at unequal sample times, and what they must refuse."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.signal import cont2discrete

from ssm.cde import Euler, ExactFlow, Tsit5
from ssm.control import Embedded
from ssm.mixers import RNN, S4, S5, S6, LinearCDE, Mamba, TransformerLayer
from ssm.mixers.short_convolution import ShortConvolution

WIDTH = 4


def in_float64(mixer):
    return jax.tree.map(lambda x: x.astype(float) if eqx.is_inexact_array(x) else x, mixer)


def build(make, *sizes, **options):
    return in_float64(make(*(sizes or (WIDTH,)), key=jr.key(0), **options))


def outputs(mixer, x, dt=None):
    """The outputs alone, compiled."""
    return eqx.filter_jit(lambda mixer, x, dt: mixer(x, dt=dt)[0])(mixer, jnp.asarray(x), dt)


def complex_of(parts):
    return np.asarray(parts[..., 0]) + 1j * np.asarray(parts[..., 1])


def draw(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def s4_loop(layer, x, dt=None):
    """y and h of the complex recurrence; each step is dt_t times the layer's own."""
    delta = np.exp(np.asarray(layer.log_dt))
    delta = np.log1p(np.exp(delta)) if layer.softplus_dt else delta
    a = -np.exp(np.asarray(layer.a_log)) + 1j * np.asarray(layer.a_imag)
    b, c = complex_of(layer.b), complex_of(layer.c)
    h, y = np.zeros_like(a), []
    for x_t, dt_t in zip(x, np.ones(len(x)) if dt is None else dt, strict=True):
        step = delta[:, None] * dt_t
        h = np.exp(step * a) * h + step * b * x_t[:, None]
        y.append(2 * (c * h).sum(-1).real + np.asarray(layer.d) * x_t)
    return np.array(y), h


@pytest.mark.parametrize("quirk", [False, True])
def test_s4_is_the_recurrence_of_its_definition(x64, quirk):
    """With and without the softplus quirk; in equal steps and in unequal ones."""
    layer, x = build(S4, d_state=5, softplus_dt=quirk), draw(12, WIDTH)
    np.testing.assert_allclose(outputs(layer, x), s4_loop(layer, x)[0], rtol=1e-9)
    dt = np.random.default_rng(2).uniform(0.2, 3, 12)
    y, state = layer(jnp.asarray(x), dt=jnp.asarray(dt))
    want, last = s4_loop(layer, x, dt)
    np.testing.assert_allclose(y, want, rtol=1e-9)
    np.testing.assert_allclose(state, last, rtol=1e-9)


def s5_with_scipy(layer, x, steps):
    """Its real state-space system, with the conjugate modes written out, under SciPy's ZOH. All
    modes have the same Δ here, and step t is steps_t times that."""
    lam = np.asarray(layer.rates())
    b, c = complex_of(layer.b), complex_of(layer.c)
    # real form: h = (Re, Im) of each mode
    system = (
        np.block([[np.diag(lam.real), -np.diag(lam.imag)], [np.diag(lam.imag), np.diag(lam.real)]]),
        np.concatenate([b.real, b.imag]),
        2 * np.concatenate([c.real, -c.imag], axis=1),
        np.diag(np.asarray(layer.d)),
    )
    delta = np.exp(np.asarray(layer.log_dt))
    assert np.ptp(delta) == 0
    h, y = np.zeros(2 * len(lam)), []
    for x_t, step in zip(x, steps, strict=True):
        a_bar, b_bar, *_ = cont2discrete(system, delta[0] * step, method="zoh")
        h = a_bar @ h + b_bar @ x_t
        y.append(system[2] @ h + system[3] @ x_t)
    return np.array(y)


@pytest.mark.parametrize("options", [{}, {"log_real": True}, {"blocks": 2}], ids=str)
def test_s5_holds_its_input_over_each_step(x64, options):
    """Over equal and unequal ones."""
    layer = build(S5, 3, d_state=4, **options)
    layer = eqx.tree_at(lambda m: m.log_dt, layer, jnp.full(2, np.log(0.05)))
    if options:
        np.testing.assert_allclose(layer.rates().real, -0.5, rtol=1e-6)
    x, dt = draw(10, 3), np.random.default_rng(2).uniform(0.1, 8, 10)
    np.testing.assert_allclose(outputs(layer, x), s5_with_scipy(layer, x, np.ones(10)), rtol=1e-9)
    got = outputs(layer, x, jnp.asarray(dt))
    np.testing.assert_allclose(got, s5_with_scipy(layer, x, dt), rtol=1e-9)


@pytest.mark.parametrize("log_real", [False, True])
def test_s5_s_rates_are_parametrised_as_the_source_has_them_or_by_their_logarithm(log_real):
    layer = S5(3, d_state=4, log_real=log_real, key=jr.key(0))
    moved = eqx.tree_at(lambda m: m.a_real, layer, jnp.array([0.25, 2.0]))
    want = -np.exp([0.25, 2.0]) if log_real else [0.25, 2.0]
    np.testing.assert_allclose(moved.rates().real, want, rtol=1e-6)


def test_the_elman_network_is_its_equation(x64):
    layer = build(RNN)
    x, h, expected = draw(6, WIDTH), np.zeros(WIDTH), []
    w, u, b, c = (
        np.asarray(v)
        for v in (layer.input_weight, layer.state_weight, layer.input_bias, layer.state_bias)
    )
    for x_t in x:
        h = np.tanh(w @ x_t + b + u @ h + c)
        expected.append(h)
    np.testing.assert_allclose(outputs(layer, x), expected, rtol=1e-10)


@pytest.mark.parametrize("stepped", [False, True])
def test_mamba_is_the_recurrence_of_its_definition(x64, stepped):
    """Also with unequal steps, by which Δ is multiplied."""
    layer, x = build(S6, d_state=3, dt_rank=2), draw(7, WIDTH)
    dt = np.random.default_rng(2).uniform(0.2, 3, 7) if stepped else np.ones(7)
    a, h, y = -np.exp(np.asarray(layer.a_log)), np.zeros((WIDTH, 3)), []
    for x_t, dt_t in zip(x, dt, strict=True):
        low, b, c = np.split(np.asarray(layer.x_proj.weight) @ x_t, [2, 5])
        delta = np.asarray(layer.dt_proj.weight) @ low + np.asarray(layer.dt_proj.bias)
        delta = np.log1p(np.exp(delta)) * dt_t
        h = np.exp(delta[:, None] * a) * h + np.outer(delta * x_t, b)
        y.append(h @ c + np.asarray(layer.d) * x_t)
    for mixer in (layer, build(Mamba, d_state=3, dt_rank=2)):
        mixer = mixer if mixer is layer else eqx.tree_at(lambda m: m.core, mixer, layer)
        got = outputs(mixer, x, jnp.asarray(dt) if stepped else None)
        np.testing.assert_allclose(got, y, rtol=1e-9)


def linear_cde_loop(layer, x, dt, gate, final_time=None):
    """Euler's scheme at times 0, dt, 2 dt, …"""
    a, b = np.asarray(layer.a), np.asarray(layer.b)
    y = np.asarray(layer.initial_weight) @ x[0] + np.asarray(layer.initial_bias)
    states, time = [y], 0.0
    for i in range(1, len(x)):
        time += dt if final_time is None else final_time / (len(x) - 1)
        u = np.append(dt, x[i] - x[i - 1]) if gate == "path" else dt * np.append(time, x[i])
        m = np.tensordot(u, a, axes=1)
        y = y + (m @ y if m.ndim == 2 else m * y) + b @ u
        states.append(y)
    return states


def test_the_official_linear_cde_recurrence(x64):
    """y_i = y_{i−1} + (Σ_j A_j y_{i−1} u_i^j + B u_i)/k with u_i = (t_i, e_i): the A5 model, whose
    times t_i are i/(k − 1)."""
    layer, e = build(LinearCDE), draw(5, WIDTH)
    want = linear_cde_loop(layer, e, 1 / 5, "integral", final_time=1.0)
    np.testing.assert_allclose(outputs(layer, e), want, rtol=1e-12)


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
@pytest.mark.parametrize("gate", ["path", "integral"])
def test_a_linear_cde_with_a_step_of_its_own(x64, structure, gate):
    """The step does not depend on the length: a prefix has the prefix of the states."""
    layer = build(
        LinearCDE, dt=1 / 40, structure=structure, gate_omega=gate, gate_xi=gate, channels=3
    )
    x = draw(9, 3)
    want = linear_cde_loop(layer, x, 1 / 40, gate)
    np.testing.assert_allclose(outputs(layer, x), want, rtol=1e-11)
    np.testing.assert_allclose(outputs(layer, x[:4]), want[:4], rtol=1e-11)
    tokens = jnp.array([2, 0, 1, 1, 2])
    want = linear_cde_loop(layer, x[np.asarray(tokens)], 1 / 40, gate)
    y, _ = layer(Embedded(jnp.asarray(x), tokens))
    np.testing.assert_allclose(y, want, rtol=1e-11)


def test_the_convolution_of_the_full_mamba_block_is_causal_and_depthwise(x64):
    layer = build(Mamba, 3, variant="full", d_state=2)
    assert layer.core.a_log.shape == (6, 2)
    convolution = layer.frame.convolution
    assert isinstance(convolution, ShortConvolution)
    u, weight, bias = draw(9, 6), np.asarray(convolution.weight), np.asarray(convolution.bias)
    columns = [np.convolve(u[:, d], weight[::-1, d])[:9] + bias[d] for d in range(6)]
    y, window = convolution(jnp.asarray(u))
    np.testing.assert_allclose(y, np.stack(columns, axis=1), rtol=1e-10)
    np.testing.assert_array_equal(window, u[-3:])
    _, window = convolution(jnp.asarray(u[:2]))
    np.testing.assert_array_equal(window, np.concatenate([np.zeros((1, 6)), u[:2]]))


@pytest.mark.parametrize("taps", [1, 2, 12])
def test_a_convolution_of_any_number_of_taps_reads_in_pieces(x64, taps):
    layer, x = build(ShortConvolution, taps=taps), jnp.asarray(draw(9, WIDTH))
    columns = [np.convolve(x[:, d], layer.weight[::-1, d])[:9] for d in range(WIDTH)]
    want = np.stack(columns, axis=1) + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(x)[0], want, rtol=1e-10)
    first, window = layer(x[:2])
    rest, _ = layer(x[2:], window)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), want, rtol=1e-10)


@pytest.mark.slow
def test_streaming_tsit5_at_tight_tolerance(x64):
    mixer = build(
        LinearCDE, 3, gate_omega="path", gate_xi="path", solver=Tsit5(rtol=1e-10, atol=1e-10)
    )
    x = jnp.asarray(draw(5, 3))
    streamed = jax.jit(lambda x: jax.lax.scan(mixer.step, mixer.init(5), x)[1])(x)
    np.testing.assert_allclose(streamed, outputs(mixer, x), rtol=1e-7)


TIMED = {
    "S4": functools.partial(S4, d_state=3),
    "S5": functools.partial(S5, d_state=4),
    "Mamba": functools.partial(Mamba, d_state=3),
    "LinearCDE, path": functools.partial(
        LinearCDE, gate_omega="path", gate_xi="path", solver=ExactFlow(substeps=2), dt=0.1
    ),
    "LinearCDE, integral": functools.partial(LinearCDE, structure="diagonal", dt=0.1),
    "LinearCDE, 1/length": LinearCDE,
}


@pytest.mark.parametrize("name", TIMED)
def test_steps_of_one_are_no_steps_told(x64, name):
    """Nor does it matter how steps are told: one number, one for each position."""
    mixer, x = build(TIMED[name]), draw(7, WIDTH)
    want = outputs(mixer, x)
    for dt in (1.0, jnp.ones(()), jnp.ones(7)):
        np.testing.assert_allclose(outputs(mixer, x, dt), want, rtol=1e-10, atol=1e-12)
    tokens = jnp.array([1, 3, 3, 0])
    want = outputs(mixer, x[np.asarray(tokens)], jnp.full(4, 2.0))
    y, _ = mixer(Embedded(jnp.asarray(x), tokens), dt=2.0)
    np.testing.assert_allclose(y, want, rtol=1e-10, atol=1e-12)
    assert not np.allclose(want, outputs(mixer, x[np.asarray(tokens)]), rtol=1e-3)


@pytest.mark.parametrize("name", TIMED)
def test_unequal_steps_are_read_in_pieces(x64, name):
    mixer, x = build(TIMED[name]), jnp.asarray(draw(9, WIDTH))
    dt = jnp.asarray(np.random.default_rng(2).uniform(0.2, 3, 9))
    want = outputs(mixer, x, dt)
    state, pieces = mixer.init(9), []
    for i, j in ((0, 1), (1, 5), (5, 9)):
        y, state = mixer(x[i:j], state, dt=dt[i:j])
        pieces.append(y)
    np.testing.assert_allclose(jnp.concatenate(pieces), want, rtol=1e-9, atol=1e-12)
    streamed = jax.jit(
        lambda x, dt: jax.lax.scan(lambda s, v: mixer.step(s, *v), mixer.init(9), (x, dt))[1]
    )(x, dt)
    np.testing.assert_allclose(streamed, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dt", ["1/length", 1 / 100])
def test_time_goes_on_in_half_precision(dt):
    """Position by position as for the whole: bfloat16 has no 0.5 + 1/1000."""
    mixer = LinearCDE(WIDTH, structure="diagonal", dt=dt, key=jr.key(0))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_array(x) else x, mixer)
    x = 0.01 * jr.normal(jr.key(1), (1000, WIDTH), jnp.bfloat16)
    state, _ = jax.jit(lambda x: jax.lax.scan(half.step, half.init(1000), x))(x)
    want = 1.0 if dt == "1/length" else 9.99
    for time in (state.time, half(x)[1].time):
        np.testing.assert_allclose(float(time), want, rtol=1e-2)


def cut(dt, parts, rng):
    """Each step cut at random places into so many parts."""
    ends = np.sort(rng.uniform(size=(len(dt), parts - 1)), axis=1)
    ends = np.concatenate([np.zeros((len(dt), 1)), ends, np.ones((len(dt), 1))], axis=1)
    return (np.diff(ends, axis=1) * dt[:, None]).ravel()


def last_state(mixer, x, dt):
    return eqx.filter_jit(lambda mixer, x, dt: mixer(x, dt=dt)[1])(
        mixer, jnp.asarray(x), jnp.asarray(dt)
    )


def test_s5_does_not_see_how_a_held_input_is_sampled(x64):
    mixer, x, rng = build(S5, d_state=6), draw(5, WIDTH), np.random.default_rng(2)
    dt = rng.uniform(1, 20, 5)
    for parts in (2, 7):
        got = last_state(mixer, np.repeat(x, parts, axis=0), cut(dt, parts, rng))
        np.testing.assert_allclose(got, last_state(mixer, x, dt), rtol=1e-9)


def test_s4_converges_to_a_held_input_at_first_order(x64):
    """The limit is that of the exact step, h' = A h + B x."""
    mixer, x, dt = build(S4, d_state=3, dt_min=0.1), draw(5, WIDTH), np.array([1.0, 3, 2, 0.5, 4])
    a, b = np.asarray(mixer.rates()), complex_of(mixer.b)
    delta, exact = np.exp(np.asarray(mixer.log_dt))[:, None], 0.0
    for x_t, dt_t in zip(x, dt, strict=True):
        moved = np.exp(delta * dt_t * a)
        exact = moved * exact + (moved - 1) / a * b * x_t[:, None]
    parts, errors = np.array([16, 32, 64, 128]), []
    for n in parts:
        fine = last_state(mixer, np.repeat(x, n, axis=0), np.repeat(dt / n, n))
        errors.append(np.max(np.abs(fine - exact)))
    slope = np.polyfit(np.log(parts), np.log(errors), 1)[0]
    assert -1.1 < slope < -0.9
    uneven = cut(dt, 128, np.random.default_rng(2))
    fine = last_state(mixer, np.repeat(x, 128, axis=0), uneven)
    assert np.max(np.abs(fine - exact)) < 4 * errors[-1]


def path_cde(**options):
    return build(LinearCDE, 3, gate_omega="path", gate_xi="path", channels=2, **options)


def test_a_linear_cde_does_not_see_where_a_path_of_lines_is_sampled(x64):
    """Exactly solved; time is in units of the mixer's `dt`."""
    mixer, x, rng = (
        path_cde(solver=ExactFlow(substeps=4), dt=0.1),
        draw(5, 2),
        np.random.default_rng(2),
    )
    gaps = rng.uniform(1, 8, 4)
    times = np.append(0, np.cumsum(gaps))
    want = outputs(mixer, x, jnp.append(1.0, gaps))[-1]
    more = np.sort(np.concatenate([times, rng.uniform(0, times[-1], 23)]))
    between = np.stack([np.interp(more, times, x[:, i]) for i in range(2)], axis=1)
    got = outputs(mixer, between, jnp.append(1.0, np.diff(more)))
    np.testing.assert_allclose(got[-1], want, rtol=1e-9)
    # Half the unit and twice the gaps are the same times.
    half = path_cde(solver=ExactFlow(substeps=4), dt=0.05)
    got = outputs(half, between, jnp.append(1.0, 2 * np.diff(more)))
    np.testing.assert_allclose(got[-1], want, rtol=1e-9)


@pytest.mark.parametrize(("solver", "order"), [(ExactFlow(substeps=2), 2), (Euler(), 1)], ids=str)
def test_a_linear_cde_of_a_smooth_path_sampled_at_random_converges(x64, solver, order):
    """To the final state of fine, even samples: at second order, as lines do to the path, where
    they are exactly solved."""
    mixer = path_cde(solver=solver, dt=0.5)

    def final(times):
        x = np.stack([np.sin(3 * times), times * np.cos(2 * times)], axis=1)
        gaps = np.diff(times) / 0.5
        return outputs(mixer, x, jnp.append(1.0, gaps))[-1]

    exact = path_cde(solver=ExactFlow(), dt=0.5)
    fine = np.linspace(0, 2, 20_001)
    x = np.stack([np.sin(3 * fine), fine * np.cos(2 * fine)], axis=1)
    want = outputs(exact, x, jnp.append(1.0, np.diff(fine) / 0.5))[-1]
    rng, counts, errors = np.random.default_rng(2), np.array([50, 100, 200, 400, 800]), []
    for n in counts:  # one time in each of n even cells
        cells = np.arange(n) + rng.uniform(0.2, 0.8, n)
        errors.append(np.max(np.abs(final(np.concatenate([[0], 2 * cells / n, [2]])) - want)))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope + order) < 0.25
    assert errors[-1] < 0.05 * np.max(np.abs(want))


@pytest.mark.parametrize(
    "make",
    [RNN, functools.partial(TransformerLayer, num_heads=2, d_feedforward=8), ShortConvolution],
    ids=lambda make: getattr(make, "func", make).__name__,
)
def test_a_mixer_without_time_refuses_a_step(make):
    mixer, x = eqx.nn.inference_mode(make(WIDTH, key=jr.key(0))), jnp.ones((3, WIDTH))
    with pytest.raises(ValueError, match=r"dt: got .* has no time, so expected None"):
        mixer(x, dt=jnp.ones(3))
    with pytest.raises(ValueError, match=r"dt: got 0\.5"):
        mixer(x, dt=0.5)


def test_attention_reads_no_more_than_it_has_room_for(own_errors):
    layer = TransformerLayer(WIDTH, num_heads=2, d_feedforward=8, dropout=0.0, key=jr.key(0))
    x = jnp.ones((3, WIDTH))
    with pytest.raises(ValueError, match="length: got None"):
        layer.init()
    with pytest.raises(ValueError, match="state: got room for 2"):
        layer(x, layer.init(2))
    _, state = layer(x, layer.init(4))
    with pytest.raises(RuntimeError, match="state: got room for 4"):
        jax.block_until_ready(eqx.filter_jit(layer)(x, state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k: S5(4, d_state=3, key=k), "conjugate pairs"),
        (lambda k: S5(4, d_state=6, blocks=2, key=k), "multiple of"),
        (lambda k: S5(4, d_state=2048, key=k), "d_state/blocks of at most"),
        (lambda k: S5(4, form="blocked?", key=k), "form: got 'blocked"),
        (lambda k: S4(4, d_state=0, key=k), "d_state: got 0"),
        (lambda k: S4(4, dt_min=0.0, key=k), "dt_min"),
        (lambda k: S4(4, form="fft", key=k), "form: got 'fft'"),
        (lambda k: S6(4, d_state=0, key=k), "d_state: got 0"),
        (lambda k: S6(4, dt_rank=0, key=k), "dt_rank: got 0"),
        (lambda k: S6(4, form="fast", key=k), "form: got 'fast'"),
        (lambda k: Mamba(4, variant="half", key=k), "variant: got 'half'"),
        (lambda k: Mamba(4, variant="full", d_conv=0, key=k), "d_conv: got 0"),
        (lambda k: Mamba(4, variant="full", expand=65, key=k), "expand: got 65"),
        (lambda k: ShortConvolution(4, taps=65, key=k), "taps: got 65"),
        (lambda k: TransformerLayer(5, num_heads=2, key=k), "divisor of d_model = 5"),
        (lambda k: TransformerLayer(4, num_heads=2, dropout=1.0, key=k), "dropout: got 1.0"),
        (lambda k: TransformerLayer(4, num_heads=2, d_feedforward=0, key=k), "d_feedforward"),
        (lambda k: LinearCDE(4, structure="sparse", key=k), "structure: got 'sparse'"),
        (lambda k: LinearCDE(4, gate_omega="none", key=k), "gate_omega: got 'none'"),
        (lambda k: LinearCDE(4, gate_xi="none", key=k), "gate_xi: got 'none'"),
        (lambda k: LinearCDE(4, dt=0.0, key=k), "dt: got 0.0"),
        (lambda k: LinearCDE(4, key=k).init(), "dt: got '1/length' for a sequence of unknown"),
    ],
)
def test_bad_sizes_are_refused(make, message, own_errors):
    with pytest.raises(ValueError, match=message):
        make(jr.key(0))


@pytest.mark.parametrize(
    ("mixer", "form"),
    [(S4, "tokens"), (S5, "blocked"), (S6, "convolution"), (Mamba, "tokens")],
)
def test_a_form_of_another_structure_is_refused_when_it_is_used(mixer, form):
    with pytest.raises(ValueError, match=f"form: got '{form}' for .*; expected one of"):
        mixer(4, form=form, key=jr.key(0))(jnp.ones((3, 4)))
