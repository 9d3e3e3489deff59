"""Diffrax's adaptive Tsit5, the solver of the paper's Figure 1, and the steps that it takes."""

import itertools
import math
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssm.batching import reverse_only_tree
from ssm.cde.base import AbstractSolver, Part
from ssm.cde.generator import AbstractGenerator, Flow, lifted
from ssm.recurrence import Recurrence
from ssm.transition import TokenIncrement

REVERSE_MODE = (
    "Tsit5: has derivatives by reverse mode only; for forward mode (jvp, linearize) build the "
    "solver with forward_mode=True"
)


class Tsit5(AbstractSolver):
    """Diffrax's adaptive Tsit5, with steps forced at the sample times, for dense or diagonal A.

    The controller is Diffrax's `PIDController` with its defaults, on a clock that runs evenly over
    the intervals, from 0 to 1. M and B Δξ are constant on an interval, where a Runge–Kutta step
    over the whole of it is Z + Σ_k r_k M^{k−1} (M Z + B Δξ), and its error estimate
    Σ_k e_k M^{k−1} (M Z + B Δξ), with r_k = bᵀ T^{k−1} 1 and e_k = (b − b̂)ᵀ T^{k−1} 1 for the
    tableau (T, b, b̂). As an `element` of a recurrence it is such a step, whatever its error.

    A sequence read in pieces agrees with the whole to the tolerance.

    Attributes:
        rtol, atol: tolerances of the step-size controller.
        first_step: length of the first step on t ∈ [0, 1].
        max_steps: most steps over the whole path; more is an error at run time.
        forward_mode: differentiate by forward mode only (`jax.jvp`), in place of reverse mode only.
    """

    rtol: float = eqx.field(static=True, default=1e-2)
    atol: float = eqx.field(static=True, default=1e-2)
    first_step: float = eqx.field(static=True, default=0.01)
    max_steps: int = eqx.field(static=True, default=16**4)
    forward_mode: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        for name in ("rtol", "atol", "first_step", "max_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected a positive number")

    def element(
        self,
        generator: AbstractGenerator,
        d_omega: Float[Array, "omega"] | TokenIncrement,
        drive: Float[Array, "hidden"],
    ) -> Recurrence:
        return Flow.of(generator, d_omega, drive, tsit5_coefficients()[0], checked=False)

    def lift(self, generator: AbstractGenerator, z: Float[Array, "hidden"]) -> Float[Array, "n"]:
        return lifted(z)

    def scan(
        self, r: Recurrence, h0: Float[Array, "n"]
    ) -> tuple[Float[Array, "steps n"], Float[Array, "n"]]:
        if len(r.transition.drive) == 0:
            return jnp.zeros((0, len(h0)), h0.dtype), h0
        ys = self.solution(r, h0).ys
        assert ys is not None
        h = jnp.concatenate([ys, jnp.broadcast_to(h0[-1:], (len(ys), 1))], axis=1)
        return h, h[-1]

    def solution(self, r: Recurrence, h0: Float[Array, "n"]) -> diffrax.Solution:
        """Diffrax's solution: Z at the end of each interval, and statistics."""
        if not self.forward_mode:
            r, h0 = reverse_only_tree((r, h0), REVERSE_MODE)
        flow = r.transition
        times = jnp.linspace(0.0, 1.0, len(flow.drive) + 1, dtype=h0.dtype)
        omega, drive = (
            diffrax.LinearInterpolation(times, jnp.pad(jnp.cumsum(d, axis=0), ((1, 0), (0, 0))))
            for d in (flow.d_omega, flow.drive)
        )

        def field(t, z, args):
            return flow.generator.value.apply(omega.derivative(t), z) + drive.derivative(t)

        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=times[0],
            t1=times[-1],
            dt0=min(self.first_step, 1.0),
            y0=h0[:-1],
            saveat=diffrax.SaveAt(ts=times[1:]),
            stepsize_controller=diffrax.ClipStepSizeController(self.controller(), jump_ts=times),
            adjoint=(
                diffrax.ForwardMode() if self.forward_mode else diffrax.RecursiveCheckpointAdjoint()
            ),
            max_steps=self.max_steps,
        )

    def controller(self) -> diffrax.PIDController:
        """Diffrax's controller with these tolerances, and its own defaults."""
        return diffrax.PIDController(rtol=self.rtol, atol=self.atol)

    def schedule(self, intervals: int) -> list[list[Part]]:
        """The steps over each of so many intervals, where errors are small: each is longer than the
        one before by the controller's greatest factor, or by less, to end at a sample.

        The controller keeps a step whose scaled error estimate is ε < 1, and then makes the next
        min(factor, max(1, safety ε^(−1/order))) times as long.
        """
        controller = self.controller()
        order: Any = diffrax.Tsit5().error_order(diffrax.ODETerm(lambda t, z, args: z))
        longer, safety = float(controller.factormax), float(controller.safety)
        fractions: list[list[float]] = []
        step = self.first_step * intervals
        for _ in range(intervals):
            taken: list[float] = []
            while (left := 1 - sum(taken)) > 1e-6:
                taken.append(min(step, left))
                step = longer * taken[-1]
            fractions.append(taken)
        every = [f for taken in fractions for f in taken]
        if len(every) > self.max_steps:
            raise ValueError(
                f"max_steps: got {self.max_steps}; expected at least {len(every)} here"
            )
        growth = [after / before for before, after in itertools.pairwise(every)] + [1.0]
        errors = iter([(safety / max(g, 1.0)) ** float(order) for g in growth])
        return [[Part(f, next(errors)) for f in taken] for taken in fractions]

    def error_bounds(
        self, m: Float[np.ndarray, "distinct"], c: Float[np.ndarray, "distinct"], d_hidden: int
    ) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
        """p and q such that a step from Z has a scaled error estimate of at most p |Z| + q.

        Arguments:
            m, c: bounds of the spectral norm of M and of |B Δξ|, for each increment.
            d_hidden: the size of Z.
        """
        _, error = tsit5_coefficients()
        p = sum(abs(e) * m**k for k, e in enumerate(error)) / (math.sqrt(d_hidden) * self.atol)
        return p * m, p * c


def tsit5_coefficients() -> tuple[list[float], list[float]]:
    """r_k, k = 1 … 6, and e_k, k = 1 … 7, of `Tsit5`; its seventh stage is for the error only."""
    tableau = diffrax.Tsit5.tableau
    lower = np.zeros((7, 7))
    for i, row in enumerate(tableau.a_lower, start=1):
        lower[i, :i] = row
    powers = [np.linalg.matrix_power(lower, k).sum(axis=1) for k in range(7)]
    solution, error = ([float(b @ p) for p in powers] for b in (tableau.b_sol, tableau.b_error))
    return solution[:-1], error
