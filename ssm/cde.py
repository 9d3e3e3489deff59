"""Solvers of the linear CDE dZ = Σ_i A_i Z dω^i + B dξ, driven by gates linear between samples.

On an interval with increments Δω, Δξ the equation is Z' = M Z + c with M = Σ_i A_i Δω^i and
c = B Δξ over unit time, so that every solver is a way to apply

    Z ↦ exp(M) Z + φ₁(M) c,      φ₁(M) = Σ_k M^k/(k + 1)!.

`ExactFlow` does so to a checked tolerance near rounding, `Euler` keeps the first order,
(1 + M) Z + c, and `Tsit5` integrates adaptively with Diffrax, as the paper's first experiment does.

The structure of A is told by its rank: (omega, d_hidden, d_hidden) is dense, (omega, d_hidden)
holds the diagonals of diagonal matrices. A solver is a final class with two methods: `solve`, the
states at all samples, and `advance`, the state after one more interval.
"""

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssm import recurrence
from ssm.control import sample_times

Matrices = Float[Array, "omega d_hidden *d_hidden2"]
"""The A_i: dense matrices, or the diagonals of diagonal ones."""
Drive = Float[Array, "d_hidden xi"]
"""B."""
State = Float[Array, "d_hidden"]
States = Float[Array, "steps d_hidden"]

SAFETY, FACTOR_MAX, ERROR_ORDER = 0.9, 10.0, 6
"""Of Tsit5's step-size controller: Diffrax's defaults, and Tsit5's order plus one."""


class AbstractSolver(eqx.Module):
    """A way to solve dZ = Σ_i A_i Z dω^i + B dξ over intervals with given increments."""

    @abc.abstractmethod
    def solve(
        self,
        a: Matrices,
        b: Drive,
        z0: State,
        d_omega: Float[Array, "steps omega"],
        d_xi: Float[Array, "steps xi"],
    ) -> States:
        """The states at the end of each interval (Z_0 is not repeated)."""

    @abc.abstractmethod
    def advance(
        self,
        a: Matrices,
        b: Drive,
        z: State,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> State:
        """The state after one interval that starts in `z`."""


class Part(NamedTuple):
    """A step over part of an interval.

    Attributes:
        fraction: of the interval.
        most_error: the scaled error estimate below which an adaptive solver takes this step and
            goes on to the next one of its schedule.
    """

    fraction: float
    most_error: float = math.inf


class AbstractPropagatingSolver(AbstractSolver):
    """A solver whose steps are the same linear maps Z ↦ E Z + f for every path with an increment,
    so that many paths with few different increments need each map once (`ssm.lattice`)."""

    @abc.abstractmethod
    def propagator(
        self,
        a: Matrices,
        b: Drive,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> tuple[Float[Array, "d_hidden d_hidden"], Float[Array, "d_hidden"]]:
        """E and f of one step with these increments, for dense A."""

    def schedule(self, intervals: int) -> list[list[Part]]:
        """The steps over each of so many equal intervals of t ∈ [0, 1]."""
        return [[Part(1.0)]] * intervals

    def error_bounds(
        self, m: Float[np.ndarray, "distinct"], c: Float[np.ndarray, "distinct"], d_hidden: int
    ) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
        """p and q such that a step from Z has a scaled error estimate of at most p |Z| + q.

        Arguments:
            m, c: bounds of the spectral norm of M and of |B Δξ|, for each increment.
            d_hidden: the size of Z.
        """
        return np.zeros_like(m), np.zeros_like(c)


def generator(a: Matrices, d_omega: Float[Array, "*steps omega"]) -> Float[Array, "..."]:
    """M = Σ_i A_i Δω^i, for one increment or a stack of them."""
    return jnp.tensordot(d_omega, a, axes=1)


def _is_diagonal(a: Array) -> bool:
    return a.ndim == 2


def apply_generator(
    a: Matrices,
    d_omega: Float[Array, "omega"],
    z: State,
) -> State:
    """M z without forming M when it has more entries than the products A_i z together.

    Under a `vmap` over examples A is shared, so that either order is one large matrix product.
    """
    if _is_diagonal(a):
        return generator(a, d_omega) * z
    omega, d_hidden, _ = a.shape
    if omega < d_hidden:
        return jnp.tensordot(d_omega, jnp.tensordot(a, z, axes=1), axes=1)
    return generator(a, d_omega) @ z


def _power_series(
    apply: Callable[[Array], Array], z: Array, c: Array, coefficients: Sequence[float]
) -> tuple[Array, Array]:
    """z + Σ_{k ≥ 1} r_k M^{k−1} (M z + c), `apply` being M; for r_k = 1/k!, exp(M) z + φ₁(M) c.

    Returns the sum and its last term, whose size tells the truncation error.
    """
    term = coefficients[0] * (apply(z) + c)
    total = z + term
    for before, r in itertools.pairwise(coefficients):
        term = (r / before) * apply(term)
        total = total + term
    return total, term


def _columns(
    a: Array, b: Array, d_omega: Array, d_xi: Array
) -> tuple[Callable[[Array], Array], Array, Array]:
    """M as a function of columns, and the columns whose flow is a propagator: the identity without
    a drive, and zero with B Δξ."""
    m = generator(a, d_omega)
    d_hidden = a.shape[-1]
    start = jnp.eye(d_hidden, d_hidden + 1, dtype=a.dtype)
    return lambda v: m @ v, start, jnp.zeros_like(start).at[:, -1].set(b @ d_xi)


class Euler(AbstractSolver):
    """Z_i = Z_{i−1} + M_i Z_{i−1} + B Δξ_i: order 1 in the step, the paper's choice for A5.

    Attributes:
        form: "sequential" visits the steps in order; "associative" is a parallel prefix scan over
            the matrices 1 + M_i, d_hidden times the work but of logarithmic depth. Diagonal A
            always uses the parallel scan, in chunks.
    """

    form: Literal["sequential", "associative"] = eqx.field(static=True, default="sequential")

    def __check_init__(self):
        if self.form not in ("sequential", "associative"):
            raise ValueError(f"form: got {self.form!r}; expected 'sequential' or 'associative'")

    def solve(
        self,
        a: Matrices,
        b: Drive,
        z0: State,
        d_omega: Float[Array, "steps omega"],
        d_xi: Float[Array, "steps xi"],
    ) -> States:
        drive = d_xi @ b.T
        if _is_diagonal(a):
            return recurrence.chunked(1 + generator(a, d_omega), drive, z0)
        if self.form == "associative":
            identity = jnp.eye(z0.shape[0], dtype=z0.dtype)
            return recurrence.associative(identity[None] + generator(a, d_omega), drive, z0)
        if a.shape[0] < z0.shape[0]:
            return _scan(self.advance, a, b, z0, d_omega, d_xi)
        # Many gates: all transition matrices in one matrix product.
        matrices = generator(a, d_omega)

        def step(z, element):
            m, c = element
            z = z + m @ z + c
            return z, z

        return jax.lax.scan(step, z0, (matrices, drive))[1]

    def advance(
        self,
        a: Matrices,
        b: Drive,
        z: State,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> State:
        return z + apply_generator(a, d_omega, z) + b @ d_xi


class ExactFlow(AbstractPropagatingSolver):
    """Z_i = exp(M_i) Z_{i−1} + φ₁(M_i) B Δξ_i, the exact solution for a piecewise-linear control.

    Diagonal A: elementwise, with a parallel scan over the intervals. Dense A: the *action* of the
    exponential by its Taylor series (Al-Mohy and Higham, 2011), `order` matrix-vector products a
    substep, no matrix exponential formed. The series is checked: an error is raised at run time,
    asking for more substeps, if its last term is above √ε/100 of the state, ε the machine's.

    Attributes:
        order: terms of the series; None for 10 in float32 and 20 in float64.
        substeps: equal parts each interval is cut into, for increments with ‖M‖ well above 1.
    """

    order: int | None = eqx.field(static=True, default=None)
    substeps: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.order is not None and not 1 <= self.order <= 64:
            raise ValueError(f"order: got {self.order}; expected from 1 to 64 terms, or null")
        if self.substeps < 1:
            raise ValueError(f"substeps: got {self.substeps}; expected a positive number")

    def solve(
        self,
        a: Matrices,
        b: Drive,
        z0: State,
        d_omega: Float[Array, "steps omega"],
        d_xi: Float[Array, "steps xi"],
    ) -> States:
        if _is_diagonal(a):
            m = generator(a, d_omega)
            return recurrence.chunked(jnp.exp(m), _phi1(m) * (d_xi @ b.T), z0)

        def step(carry, increments):
            z, worst = carry
            z, error = self._flow(a, b, z, *increments)
            return (z, jnp.maximum(worst, error)), z

        (_, worst), states = jax.lax.scan(step, (z0, jnp.zeros((), z0.dtype)), (d_omega, d_xi))
        return self._checked(states, worst)

    def advance(
        self,
        a: Matrices,
        b: Drive,
        z: State,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> State:
        if _is_diagonal(a):
            m = generator(a, d_omega)
            return jnp.exp(m) * z + _phi1(m) * (b @ d_xi)
        return self._checked(*self._flow(a, b, z, d_omega, d_xi))

    def propagator(
        self,
        a: Matrices,
        b: Drive,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> tuple[Float[Array, "d_hidden d_hidden"], Float[Array, "d_hidden"]]:
        """exp(M) and φ₁(M) B Δξ."""
        both = self._checked(*self._series(*_columns(a, b, d_omega, d_xi)))
        return both[:, :-1], both[:, -1]

    def _flow(self, a, b, z, d_omega, d_xi):
        """The state after one interval, and the relative size of the last term of the series."""
        return self._series(lambda v: apply_generator(a, d_omega, v), z, b @ d_xi)

    def _series(self, apply, z, c):
        """exp(M) z + φ₁(M) c by `substeps` series, M being `apply`."""
        c = c / self.substeps
        order = self.order or (10 if z.dtype == jnp.float32 else 20)
        coefficients = [1 / math.factorial(k) for k in range(1, order + 1)]

        def apply_part(v):
            return apply(v) / self.substeps

        def substep(_, carry):
            z, worst = carry
            z, last = _power_series(apply_part, z, c, coefficients)
            size = jnp.max(jnp.abs(last)) / (jnp.max(jnp.abs(z)) + jnp.finfo(z.dtype).tiny)
            return z, jnp.maximum(worst, jax.lax.stop_gradient(size))

        return jax.lax.fori_loop(0, self.substeps, substep, (z, jnp.zeros((), z.dtype)))

    def _checked(self, states, error):
        return eqx.error_if(
            states,
            ~(error <= math.sqrt(float(jnp.finfo(states.dtype).eps)) * 1e-2),
            "ExactFlow: the Taylor series of the matrix exponential has not converged; increase "
            f"substeps (now {self.substeps})",
        )


def _phi1(m: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(exp(m) − 1)/m elementwise, with its limit 1 and the right gradient at m = 0."""
    small = jnp.abs(m) < 1e-4
    safe = jnp.where(small, jnp.ones_like(m), m)
    return jnp.where(small, 1 + m / 2 + m * m / 6 + m**3 / 24, jnp.expm1(safe) / safe)


class Tsit5(AbstractPropagatingSolver):
    """Diffrax's adaptive Tsit5, with steps forced at the sample times: the paper's Figure 1.

    M and B Δξ are constant on an interval, where a step of a Runge–Kutta method over the whole of
    it is Z + Σ_k r_k M^{k−1} (M Z + B Δξ), and its error estimate Σ_k e_k M^{k−1} (M Z + B Δξ),
    with r_k = bᵀ T^{k−1} 1 and e_k = (b − b̂)ᵀ T^{k−1} 1 for the tableau (T, b, b̂). `propagator`
    is such a step; a step over a fraction has that fraction of M and B Δξ.

    Attributes:
        rtol, atol: tolerances of the PID step-size controller.
        first_step: length of the first step on t ∈ [0, 1].
        max_steps: most steps over the whole path; more is an error at run time.
    """

    rtol: float = eqx.field(static=True, default=1e-2)
    atol: float = eqx.field(static=True, default=1e-2)
    first_step: float = eqx.field(static=True, default=0.01)
    max_steps: int = eqx.field(static=True, default=16**4)

    def __check_init__(self):
        for name in ("rtol", "atol", "first_step", "max_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected a positive number")

    def solve(
        self,
        a: Matrices,
        b: Drive,
        z0: State,
        d_omega: Float[Array, "steps omega"],
        d_xi: Float[Array, "steps xi"],
    ) -> States:
        if d_omega.shape[0] == 0:
            return jnp.zeros((0, z0.shape[0]), z0.dtype)
        ys = self.solution(a, b, z0, d_omega, d_xi).ys
        assert ys is not None
        return ys

    def solution(
        self,
        a: Matrices,
        b: Drive,
        z0: State,
        d_omega: Float[Array, "steps omega"],
        d_xi: Float[Array, "steps xi"],
    ) -> diffrax.Solution:
        """Diffrax's solution: the states at the end of each interval, and statistics."""
        times = sample_times(d_omega.shape[0] + 1, z0.dtype)
        omega, xi = (
            diffrax.LinearInterpolation(times, jnp.pad(jnp.cumsum(d, axis=0), ((1, 0), (0, 0))))
            for d in (d_omega, d_xi)
        )

        def field(t, z, args):
            return apply_generator(a, omega.derivative(t), z) + b @ xi.derivative(t)

        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=times[0],
            t1=times[-1],
            dt0=min(self.first_step, 1.0),
            y0=z0,
            saveat=diffrax.SaveAt(ts=times[1:]),
            stepsize_controller=diffrax.ClipStepSizeController(
                diffrax.PIDController(
                    rtol=self.rtol,
                    atol=self.atol,
                    safety=SAFETY,
                    factormax=FACTOR_MAX,
                    error_order=ERROR_ORDER,
                ),
                jump_ts=times,
            ),
            max_steps=self.max_steps,
        )

    def advance(
        self,
        a: Matrices,
        b: Drive,
        z: State,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> State:
        return self.solve(a, b, z, d_omega[None], d_xi[None])[0]

    def propagator(
        self,
        a: Matrices,
        b: Drive,
        d_omega: Float[Array, "omega"],
        d_xi: Float[Array, "xi"],
    ) -> tuple[Float[Array, "d_hidden d_hidden"], Float[Array, "d_hidden"]]:
        """One step over the whole interval, whatever its error."""
        solution, _ = _tsit5_coefficients()
        both, _ = _power_series(*_columns(a, b, d_omega, d_xi), solution)
        return both[:, :-1], both[:, -1]

    def schedule(self, intervals: int) -> list[list[Part]]:
        """The steps taken where errors are small: each FACTOR_MAX times the one before, or less, to
        end at a sample. The controller keeps a step whose scaled error estimate is ε < 1, and then
        makes the next min(FACTOR_MAX, max(1, SAFETY ε^(−1/ERROR_ORDER))) times as long."""
        fractions: list[list[float]] = []
        step = self.first_step * intervals
        for _ in range(intervals):
            taken: list[float] = []
            while (left := 1 - sum(taken)) > 1e-6:
                taken.append(min(step, left))
                step = FACTOR_MAX * taken[-1]
            fractions.append(taken)
        every = [f for taken in fractions for f in taken]
        if len(every) > self.max_steps:
            raise ValueError(
                f"max_steps: got {self.max_steps}; expected at least {len(every)} here"
            )
        growth = [after / before for before, after in itertools.pairwise(every)] + [1.0]
        errors = iter([(SAFETY / max(g, 1.0)) ** ERROR_ORDER for g in growth])
        return [[Part(f, next(errors)) for f in taken] for taken in fractions]

    def error_bounds(
        self, m: Float[np.ndarray, "distinct"], c: Float[np.ndarray, "distinct"], d_hidden: int
    ) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
        """From the norm of the error estimate; scaled errors are divided by at least atol."""
        _, error = _tsit5_coefficients()
        p = sum(abs(e) * m**k for k, e in enumerate(error)) / (math.sqrt(d_hidden) * self.atol)
        return p * m, p * c


def _tsit5_coefficients() -> tuple[list[float], list[float]]:
    """r_k, k = 1 … 6, and e_k, k = 1 … 7, of `Tsit5`; its seventh stage is for the error only."""
    tableau = diffrax.Tsit5.tableau
    lower = np.zeros((7, 7))
    for i, row in enumerate(tableau.a_lower, start=1):
        lower[i, :i] = row
    powers = [np.linalg.matrix_power(lower, k).sum(axis=1) for k in range(7)]
    solution, error = ([float(b @ p) for p in powers] for b in (tableau.b_sol, tableau.b_error))
    return solution[:-1], error


def _scan(advance, a, b, z0, d_omega, d_xi):
    """The states after each interval, one `advance` after the other."""

    def step(z, increments):
        z = advance(a, b, z, *increments)
        return z, z

    return jax.lax.scan(step, z0, (d_omega, d_xi))[1]
