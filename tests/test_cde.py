"""Solvers of the linear CDE against SciPy, Diffrax set up on its own, and a closed form."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg

from ssm.cde import Euler, ExactFlow, Tsit5
from ssm.cde.generator import DenseGenerator, DiagonalGenerator, phi1
from ssm.control import Embedded, Steps, check_dt, check_gate, gate_increments, steps_of, values
from ssm.recurrence import stack

STRUCTURES = ["dense", "diagonal"]
GENERATORS = {"dense": DenseGenerator, "diagonal": DiagonalGenerator}


def problem(structure, steps=6, omega=3, hidden=5, scale=1.0):
    """A, B, Z_0, Δω and Δξ."""
    k = jr.split(jr.key(1), 5)
    shape = (omega, hidden, hidden) if structure == "dense" else (omega, hidden)
    return (
        jr.normal(k[0], shape, jnp.float64) / hidden**0.5,
        jr.normal(k[1], (hidden, omega), jnp.float64),
        jr.normal(k[2], (hidden,), jnp.float64),
        scale * jr.normal(k[3], (steps, omega), jnp.float64),
        scale * jr.normal(k[4], (steps, omega), jnp.float64),
    )


def intervals(solver, structure, a, b, z0, d_omega, d_xi):
    """The recurrence over the intervals, and its first state."""
    generator = GENERATORS[structure](a)
    r = stack(lambda u, v: solver.element(generator, u, b @ v), d_omega, d_xi)
    return r, solver.lift(generator, z0)


def solve(solver, structure, *arguments):
    """Z at the end of each interval."""
    states, last = solver.scan(*intervals(solver, structure, *arguments))
    return jnp.concatenate([states[:-1], last[None]])[:, : len(arguments[2])]


def solved(solver, structure, arguments):
    return jax.jit(lambda *arguments: solve(solver, structure, *arguments))(*arguments)


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


def with_diffrax(a, b, z0, d_omega, d_xi, tolerance=1e-2, saveat=None):
    """dZ = Σ_i A_i Z dω^i + B dξ as Diffrax's documentation solves a controlled equation: one
    `ControlTerm` of the path (ω, ξ), with the paper's solver and tolerances."""
    times = jnp.linspace(0, 1, len(d_omega) + 1, dtype=z0.dtype)
    increments = jnp.concatenate([d_omega, d_xi], axis=1)
    points = jnp.concatenate([jnp.zeros_like(increments[:1]), jnp.cumsum(increments, axis=0)])
    control = diffrax.LinearInterpolation(times, points)

    def vector_field(t, z, args):
        columns = [a_i @ z if a_i.ndim == 2 else a_i * z for a_i in a]
        return jnp.concatenate([jnp.stack(columns, axis=1), b], axis=1)

    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    return diffrax.diffeqsolve(
        diffrax.ControlTerm(vector_field, control).to_ode(),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=0.01,
        y0=z0,
        saveat=diffrax.SaveAt(ts=times[1:]) if saveat is None else saveat,
        stepsize_controller=diffrax.ClipStepSizeController(controller, jump_ts=times),
        max_steps=16**4,
    )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_exact_flow_is_the_matrix_exponential(x64, structure):
    arguments = problem(structure)
    got = solved(ExactFlow(substeps=2), structure, arguments)
    np.testing.assert_allclose(got, with_expm(*arguments), rtol=1e-10)


@pytest.mark.parametrize("form", ["associative", "chunked"])
def test_the_exact_flow_of_diagonal_matrices_in_parallel(x64, form):
    arguments = problem("diagonal")
    got = solved(ExactFlow(form=form), "diagonal", arguments)
    np.testing.assert_allclose(got, with_expm(*arguments), rtol=1e-10)
    with pytest.raises(ValueError, match=f"form: got '{form}' for Flow; .*'sequential'"):
        solve(ExactFlow(form=form), "dense", *problem("dense"))


@pytest.mark.parametrize("scale", [pytest.param(0.1, marks=pytest.mark.slow), 3.0])
@pytest.mark.parametrize(
    "structure",
    [s if s == "dense" else pytest.param(s, marks=pytest.mark.slow) for s in STRUCTURES],
)
def test_tsit5_is_diffraxs_with_its_own_defaults(x64, structure, scale):
    """The same states by the same number of steps, where steps are one an interval and where they
    are several, some of them refused."""
    arguments = problem(structure, steps=20, scale=scale)
    want = jax.jit(with_diffrax)(*arguments)
    solution = jax.jit(lambda *v: Tsit5().solution(*intervals(Tsit5(), structure, *v)))(*arguments)
    for count in ("num_steps", "num_accepted_steps", "num_rejected_steps"):
        assert solution.stats[count] == want.stats[count]
    assert (want.stats["num_steps"] > 30) == (scale > 1)
    np.testing.assert_allclose(solution.ys, want.ys, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        solved(Tsit5(), structure, arguments), want.ys, rtol=1e-9, atol=1e-12
    )


def test_the_steps_on_a_path_of_two_points(x64):
    """At the width of the small study: 0.01, then ten times as long, then to the end."""
    arguments = problem("dense", steps=1, hidden=32, scale=0.1)
    want = with_diffrax(*arguments, saveat=diffrax.SaveAt(steps=True))
    ends = np.asarray(want.ts)[np.isfinite(want.ts)]
    np.testing.assert_allclose(ends, [0.01, 0.11, 1.0], rtol=1e-12)
    ((*parts,),) = Tsit5().schedule(1)
    np.testing.assert_allclose(np.cumsum([part.fraction for part in parts]), ends, rtol=1e-12)
    (got,) = solved(Tsit5(), "dense", arguments)
    np.testing.assert_allclose(got, want.ys[2], rtol=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_tsit5_at_tight_tolerance_agrees_with_the_exact_flow(x64, structure):
    arguments = problem(structure)
    exact = solved(ExactFlow(substeps=2), structure, arguments)
    tsit5 = solved(Tsit5(rtol=1e-9, atol=1e-9), structure, arguments)
    assert jnp.max(jnp.abs(tsit5 - exact)) < 1e-5 * jnp.max(jnp.abs(exact))


def test_tsit5_at_the_papers_tolerance_is_within_it(x64):
    arguments = problem("dense", steps=50, scale=0.1)
    exact = solved(ExactFlow(), "dense", arguments)
    paper = solved(Tsit5(), "dense", arguments)
    assert jnp.max(jnp.abs(paper - exact)) < 1e-2 * jnp.max(jnp.abs(exact))


def test_a_tsit5_step_is_diffraxs(x64):
    """The linear map of one step, and the bound of its error estimate, beside Diffrax's step."""
    a, b, z0, d_omega, d_xi = problem("dense", steps=1)
    m, c = jnp.tensordot(d_omega[0], a, axes=1), b @ d_xi[0]
    term = diffrax.ODETerm(lambda t, z, args: m @ z + c)
    solver = diffrax.Tsit5()
    start = solver.init(term, 0.0, 1.0, z0, None)
    z, error, *_ = solver.step(term, 0.0, 1.0, z0, None, start, made_jump=False)
    generator = DenseGenerator(a)
    flow = Tsit5().element(generator, d_omega[0], c).transition
    h = Tsit5().lift(generator, z0)
    for moved in (flow.apply(h), flow.matrix() @ h):
        np.testing.assert_allclose(moved, jnp.append(z, 1), rtol=1e-12)
    norms = (np.linalg.norm(v, 2)[None] for v in (np.asarray(m), np.asarray(c)))
    p, q = Tsit5().error_bounds(*norms, len(z0))
    scaled = jnp.sqrt(jnp.mean((error / (0.01 + 0.01 * jnp.maximum(abs(z0), abs(z)))) ** 2))
    assert 0 < scaled <= p[0] * jnp.linalg.norm(z0) + q[0]


@pytest.mark.parametrize("first_step", [0.01, 1e-5, 0.3, 1 / 30, 2.0])
def test_tsit5_takes_the_steps_of_its_schedule(x64, first_step):
    arguments = problem("dense", steps=30, scale=0.1)
    solver = Tsit5(first_step=first_step)
    solution = jax.jit(lambda *v: solver.solution(*intervals(solver, "dense", *v)))(*arguments)
    schedule = solver.schedule(30)
    assert solution.stats["num_steps"] == sum(map(len, schedule))
    np.testing.assert_allclose([sum(p.fraction for p in parts) for parts in schedule], 1.0)


def test_tsit5_over_no_interval_and_with_too_few_steps(x64):
    none = problem("dense", steps=0)
    assert Tsit5().scan(*intervals(Tsit5(), "dense", *none))[0].shape == (0, 6)
    few = Tsit5(max_steps=3)
    with pytest.raises(ValueError, match="max_steps: got 3; expected at least"):
        few.schedule(10)
    with pytest.raises(RuntimeError, match="max"):
        jax.block_until_ready(solved(few, "dense", problem("dense")))


@pytest.mark.slow
def test_tsit5_has_one_mode_and_its_error_names_the_other(x64):
    a, b, z0, d_omega, d_xi = problem("dense", steps=4, scale=0.1)

    def last(z0, **options):
        return solve(Tsit5(1e-8, 1e-8, **options), "dense", a, b, z0, d_omega, d_xi)[-1]

    with pytest.raises(TypeError, match="forward_mode=True"):
        jax.jit(lambda z: jax.jvp(last, (z,), (z,)))(z0)
    tangent = jax.jit(lambda z: jax.jvp(lambda z: last(z, forward_mode=True), (z,), (z,))[1])(z0)
    flow = jax.jit(jax.jacrev(last))(z0)  # of an affine map
    np.testing.assert_allclose(flow @ z0, last(z0) - last(0 * z0), rtol=1e-6)
    np.testing.assert_allclose(tangent, flow @ z0, rtol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_euler_converges_at_order_one(x64, structure):
    """Each interval is cut into n parts: the error falls as 1/n."""
    a, b, z0, d_omega, d_xi = problem(structure, steps=3)
    exact = with_expm(a, b, np.asarray(z0), d_omega, d_xi)[-1]
    parts = np.array([32, 64, 128, 256])
    errors = []
    for n in parts:
        fine = [jnp.repeat(d / int(n), int(n), axis=0) for d in (d_omega, d_xi)]
        errors.append(np.linalg.norm(solved(Euler(), structure, (a, b, z0, *fine))[-1] - exact))
    slope = np.polyfit(np.log(parts), np.log(errors), 1)[0]
    assert -1.1 < slope < -0.9


@pytest.mark.parametrize("omega", [2, 9])
def test_all_forms_of_euler_agree_in_values_and_gradients(x64, omega):
    """Matrices formed at once (many gates), products on the fly (few), and the parallel scan."""
    arguments = problem("dense", omega=omega)

    def value_and_gradients(solver):
        def loss(*args):
            return jnp.sum(jnp.sin(solve(solver, "dense", *args)))

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


@pytest.mark.parametrize("structure", STRUCTURES)
def test_gradients_of_the_exact_flow(x64, structure):
    """Against central differences of SciPy's exponential, in a random direction."""
    arguments = problem(structure, steps=2)

    def loss(*args):
        return jnp.sum(jnp.sin(solve(ExactFlow(substeps=2), structure, *args)))

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
    for structure, shape in (("dense", (1, 1, 1)), ("diagonal", (1, 1))):
        arguments = (jnp.full(shape, a), jnp.full((1, 1), b), jnp.array([z]), d_omega, d_omega)
        got = solve(ExactFlow(), structure, *arguments)
        np.testing.assert_allclose(got[:, 0], expected, rtol=1e-12)


def test_a_series_that_has_not_converged_is_an_error(x64):
    arguments = problem("dense", scale=30.0)
    with pytest.raises(RuntimeError, match="increase substeps"):
        jax.block_until_ready(solved(ExactFlow(), "dense", arguments))


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (lambda: Euler(form="quick"), "form: got 'quick'"),
        (lambda: ExactFlow(form="quick"), "form: got 'quick'"),
        (lambda: ExactFlow(order=0), "order: got 0"),
        (lambda: ExactFlow(order=65), "order: got 65"),
        (lambda: ExactFlow(substeps=0), "substeps: got 0"),
        (lambda: Tsit5(rtol=-1.0), "rtol: got -1.0"),
        (lambda: Tsit5(max_steps=0), "max_steps: got 0"),
    ],
)
def test_bad_settings_are_refused(solver, message, own_errors):
    with pytest.raises(ValueError, match=message):
        solver()


def test_generators_are_weighted_sums_of_their_matrices():
    """Few matrices and many, of a vector and of a matrix state."""
    u = jnp.array([1.0, 10.0, -2.0])
    z = jnp.arange(4.0).reshape(2, 2)
    for omega in (1, 3):
        a = jnp.arange(4.0 * omega).reshape(omega, 2, 2)
        m = np.tensordot(u[:omega], a, axes=1)
        np.testing.assert_allclose(DenseGenerator(a).apply(u[:omega], z[0]), m @ z[0])
        np.testing.assert_allclose(DenseGenerator(a).apply(u[:omega], z), m @ np.asarray(z))
    diagonal = DiagonalGenerator(jnp.arange(6.0).reshape(3, 2))
    m = np.diag(np.asarray(u) @ np.arange(6.0).reshape(3, 2))
    np.testing.assert_allclose(diagonal.apply(u, z[0]), m @ z[0])
    np.testing.assert_allclose(diagonal.apply(u, z), m @ np.asarray(z))


def test_phi1_is_smooth_through_zero(x64):
    m = jnp.array([-3.0, -1e-4, -1e-9, 0.0, 1e-12, 9.9e-5, 1.1e-4, 2.0])
    want = [1.0 if v == 0 else np.expm1(v) / v for v in np.asarray(m)]
    np.testing.assert_allclose(phi1(m), want, rtol=1e-14)
    slope = jax.vmap(jax.grad(phi1))(m)
    np.testing.assert_allclose(slope[1:7], 0.5 + np.asarray(m[1:7]) / 3, rtol=1e-8)


def test_gate_increments():
    x = jnp.array([[1.0, 2.0], [4.0, 6.0], [5.0, 5.0]])
    gaps, steps = jnp.ones(2), steps_of("1/length", 3)
    assert steps == Steps(1 / 2, 1 / 3)
    of_path = gate_increments("path", steps, x[1:], x[:-1], jnp.array([0.5, 1.0]), gaps)
    np.testing.assert_allclose(of_path, [[0.5, 3, 4], [0.5, 1, -1]])
    of_values = gate_increments("integral", steps, x[1:], x[:-1], jnp.array([0.5, 1.0]), gaps)
    np.testing.assert_allclose(of_values, [[0.5 / 3, 4 / 3, 2], [1 / 3, 5 / 3, 5 / 3]], rtol=1e-6)


def test_gate_increments_of_unequal_steps():
    """Time goes on by a gap's worth, and an integral has the gap as its weight."""
    x, gaps, steps = jnp.array([[1.0], [4.0], [5.0]]), jnp.array([2.0, 0.5]), steps_of(0.1, None)
    assert steps == Steps(0.1, 0.1)
    times = 0.1 * jnp.cumsum(gaps)
    of_path = gate_increments("path", steps, x[1:], x[:-1], times, gaps)
    np.testing.assert_allclose(of_path, [[0.2, 3], [0.05, 1]], rtol=1e-6)
    of_values = gate_increments("integral", steps, x[1:], x[:-1], times, gaps)
    np.testing.assert_allclose(of_values, [[0.04, 0.8], [0.0125, 0.25]], rtol=1e-6)


def test_steps_and_gates_that_are_none_are_refused(own_errors):
    assert steps_of("1/length", 1) == Steps(1.0, 1.0)
    with pytest.raises(ValueError, match="sequence of unknown length"):
        steps_of("1/length", None)
    with pytest.raises(ValueError, match="gate_xi: got 'time'; expected one of"):
        check_gate("gate_xi", "time")
    check_dt(1 / 40)
    check_dt("1/length")
    for dt in (0, -1.0, float("inf"), float("nan"), True, "length"):
        with pytest.raises(
            ValueError, match=r"dt: got .*; expected a positive number or '1/length'"
        ):
            check_dt(dt)


def test_embedded_values_are_rows_of_the_table():
    x = Embedded(jnp.arange(6.0).reshape(3, 2), jnp.array([2, 0, 2]))
    np.testing.assert_array_equal(values(x), [[4, 5], [0, 1], [4, 5]])
    np.testing.assert_array_equal(values(x[1:]), values(x)[1:])
    assert len(x) == 3
    assert values(values(x)) is not None
