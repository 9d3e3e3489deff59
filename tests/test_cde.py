"""Solvers of the linear CDE against each other, SciPy, and a closed form."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg

from ssm.cde import Euler, ExactFlow, Tsit5, generator
from ssm.control import gate_increment, gate_increments


def problem(structure, steps=6, omega=3, hidden=5, scale=1.0):
    k = jr.split(jr.key(1), 5)
    shape = (omega, hidden, hidden) if structure == "dense" else (omega, hidden)
    return (
        jr.normal(k[0], shape, jnp.float64) / hidden**0.5,
        jr.normal(k[1], (hidden, omega), jnp.float64),
        jr.normal(k[2], (hidden,), jnp.float64),
        scale * jr.normal(k[3], (steps, omega), jnp.float64),
        scale * jr.normal(k[4], (steps, omega), jnp.float64),
    )


def with_expm(a, b, z, d_omega, d_xi):
    """exp of the augmented matrix [[M, c], [0, 0]], interval by interval, by SciPy."""
    states = []
    for dw, dx in zip(np.asarray(d_omega), np.asarray(d_xi), strict=True):
        m = np.tensordot(dw, np.asarray(a), axes=1)
        m = np.diag(m) if m.ndim == 1 else m
        augmented = np.zeros((len(z) + 1, len(z) + 1))
        augmented[:-1, :-1], augmented[:-1, -1] = m, np.asarray(b) @ dx
        z = (scipy.linalg.expm(augmented) @ np.append(z, 1))[:-1]
        states.append(z)
    return np.array(states)


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_exact_flow_is_the_matrix_exponential(x64, structure):
    arguments = problem(structure)
    got = jax.jit(ExactFlow(substeps=2).solve)(*arguments)
    np.testing.assert_allclose(got, with_expm(*arguments), rtol=1e-10)


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_tsit5_at_tight_tolerance_agrees_with_the_exact_flow(x64, structure):
    arguments = problem(structure)
    exact = jax.jit(ExactFlow(substeps=2).solve)(*arguments)
    tsit5 = jax.jit(Tsit5(rtol=1e-9, atol=1e-9).solve)(*arguments)
    assert jnp.max(jnp.abs(tsit5 - exact)) < 1e-5 * jnp.max(jnp.abs(exact))


def test_tsit5_at_the_papers_tolerance_is_within_it(x64):
    arguments = problem("dense", steps=50, scale=0.1)
    exact = jax.jit(ExactFlow().solve)(*arguments)
    paper = jax.jit(Tsit5().solve)(*arguments)
    assert jnp.max(jnp.abs(paper - exact)) < 1e-2 * jnp.max(jnp.abs(exact))


def test_a_tsit5_step_is_diffraxs(x64):
    """The linear map of one step, and the bound of its error estimate, beside Diffrax's step."""
    a, b, z0, d_omega, d_xi = problem("dense", steps=1)
    m, c = jnp.tensordot(d_omega[0], a, axes=1), b @ d_xi[0]
    term = diffrax.ODETerm(lambda t, z, args: m @ z + c)
    solver = diffrax.Tsit5()
    start = solver.init(term, 0.0, 1.0, z0, None)
    z, error, *_ = solver.step(term, 0.0, 1.0, z0, None, start, made_jump=False)
    flow, drive = Tsit5().propagator(a, b, d_omega[0], d_xi[0])
    np.testing.assert_allclose(flow @ z0 + drive, z, rtol=1e-12)
    norms = (np.linalg.norm(v, 2)[None] for v in (np.asarray(m), np.asarray(c)))
    p, q = Tsit5().error_bounds(*norms, len(z0))
    scaled = jnp.sqrt(jnp.mean((error / (0.01 + 0.01 * jnp.maximum(abs(z0), abs(z)))) ** 2))
    assert 0 < scaled <= p[0] * jnp.linalg.norm(z0) + q[0]


@pytest.mark.parametrize("first_step", [0.01, 1e-5, 0.3, 1 / 30])
def test_tsit5_takes_the_steps_of_its_schedule(x64, first_step):
    a, b, z0, d_omega, d_xi = problem("dense", steps=30, scale=0.1)
    solver = Tsit5(first_step=first_step)
    solve = jax.jit(lambda *v: solver.solution(*v).stats["num_steps"])
    schedule = solver.schedule(30)
    assert solve(a, b, z0, d_omega, d_xi) == sum(map(len, schedule))
    np.testing.assert_allclose([sum(p.fraction for p in parts) for parts in schedule], 1.0)


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_euler_converges_at_order_one(x64, structure):
    """Each interval is cut into n parts: the error falls as 1/n."""
    a, b, z0, d_omega, d_xi = problem(structure, steps=3)
    exact = with_expm(a, b, np.asarray(z0), d_omega, d_xi)[-1]
    parts = np.array([32, 64, 128, 256])
    errors = []
    for n in parts:
        fine = [jnp.repeat(d / int(n), int(n), axis=0) for d in (d_omega, d_xi)]
        errors.append(np.linalg.norm(jax.jit(Euler().solve)(a, b, z0, *fine)[-1] - exact))
    slope = np.polyfit(np.log(parts), np.log(errors), 1)[0]
    assert -1.1 < slope < -0.9


def test_all_forms_of_euler_agree_in_values_and_gradients(x64):
    """Matrices formed at once (many gates), products on the fly (few), and the parallel scan."""
    for omega in (2, 9):
        arguments = problem("dense", omega=omega)

        def value_and_gradients(solver, arguments=arguments):
            def loss(*args):
                return jnp.sum(jnp.sin(solver.solve(*args)))

            return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(5))))(*arguments)

        sequential = value_and_gradients(Euler())
        parallel = value_and_gradients(Euler(form="associative"))
        a, b, z, d_omega, d_xi = (np.asarray(v) for v in arguments)
        total = 0.0
        for dw, dx in zip(d_omega, d_xi, strict=True):
            z = z + np.tensordot(dw, a, axes=1) @ z + b @ dx
            total += np.sin(z).sum()
        np.testing.assert_allclose(sequential[0], total, rtol=1e-12)
        for got, want in zip(jax.tree.leaves(parallel), jax.tree.leaves(sequential), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_gradients_of_the_exact_flow(x64, structure):
    """Against central differences of SciPy's exponential, in a random direction."""
    arguments = problem(structure, steps=2)

    def loss(*args):
        return jnp.sum(jnp.sin(ExactFlow(substeps=2).solve(*args)))

    gradients = jax.jit(jax.grad(loss, argnums=tuple(range(5))))(*arguments)
    directions = [
        jr.normal(k, x.shape, x.dtype)
        for k, x in zip(jr.split(jr.key(3), 5), arguments, strict=True)
    ]
    step = 1e-5

    def at(t):
        moved = [np.asarray(x + t * d) for x, d in zip(arguments, directions, strict=True)]
        return np.sin(with_expm(*moved)).sum()

    slope = sum(float(jnp.sum(g * d)) for g, d in zip(gradients, directions, strict=True))
    np.testing.assert_allclose(slope, (at(step) - at(-step)) / (2 * step), rtol=1e-6)


def test_one_dimension_has_a_closed_form(x64):
    """dZ = a Z dω + b dω from z: (z + b/a) exp(a ω) − b/a, whatever the path of ω."""
    d_omega = jnp.array([[0.3], [-0.7], [1.1]])
    a, b, z = 0.8, 1.5, 0.4
    expected = (z + b / a) * np.exp(a * np.cumsum(d_omega)) - b / a
    for structure in (jnp.full((1, 1, 1), a), jnp.full((1, 1), a)):
        got = ExactFlow().solve(structure, jnp.full((1, 1), b), jnp.array([z]), d_omega, d_omega)
        np.testing.assert_allclose(got[:, 0], expected, rtol=1e-12)


def test_a_series_that_has_not_converged_is_an_error(x64):
    arguments = problem("dense", scale=30.0)
    with pytest.raises(RuntimeError, match="increase substeps"):
        jax.block_until_ready(jax.jit(ExactFlow().solve)(*arguments))


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (lambda: Euler(form="quick"), "form: got 'quick'"),
        (lambda: ExactFlow(order=0), "order: got 0"),
        (lambda: ExactFlow(substeps=0), "substeps: got 0"),
        (lambda: Tsit5(rtol=-1.0), "rtol: got -1.0"),
    ],
)
def test_bad_settings_are_refused(solver, message, own_errors):
    with pytest.raises(ValueError, match=message):
        solver()


def test_gate_increments(own_errors):
    x = jnp.array([[1.0, 2.0], [4.0, 6.0], [5.0, 5.0]])
    np.testing.assert_allclose(gate_increments("path", x), [[0.5, 3, 4], [0.5, 1, -1]])
    np.testing.assert_allclose(
        gate_increments("integral", x), [[0.5 / 3, 4 / 3, 2], [1 / 3, 5 / 3, 5 / 3]], rtol=1e-6
    )
    for gate in ("path", "integral"):
        for i in (1, 2):
            one = gate_increment(gate, x[i - 1], x[i], jnp.asarray(i), 3)
            np.testing.assert_allclose(one, gate_increments(gate, x)[i - 1], rtol=1e-6)
    with pytest.raises(ValueError, match="gate: got 'time'"):
        gate_increments("time", x)


def test_the_generator_is_the_weighted_sum_of_the_matrices():
    a = jnp.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_allclose(generator(a, jnp.array([1.0, 10.0])), a[0] + 10 * a[1])
