"""Euler's scheme, and the exact flow."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssm.cde.base import AbstractSolver, Part, whole_steps
from ssm.cde.generator import AbstractGenerator, DiagonalGenerator, Flow, lifted
from ssm.recurrence import Recurrence
from ssm.scans import check_form, scan
from ssm.transition import TokenIncrement


class Euler(AbstractSolver):
    """Z_i = (1 + M_i) Z_{i−1} + B Δξ_i: order 1 in the step, the paper's choice for A5.

    Attributes:
        form: the scan, see `ssm.scans`. For dense A, "associative" is d_hidden times the work of
            "sequential", of logarithmic depth.
    """

    form: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        check_form(self.form)

    def element(
        self,
        generator: AbstractGenerator,
        d_omega: Float[Array, "omega"] | TokenIncrement,
        drive: Float[Array, "hidden"],
    ) -> Recurrence:
        return generator.euler(d_omega, drive)

    def lift(self, generator: AbstractGenerator, z: Float[Array, "hidden"]) -> Float[Array, "n"]:
        return z

    def scan(
        self, r: Recurrence, h0: Float[Array, "n"]
    ) -> tuple[Float[Array, "steps n"], Float[Array, "n"]]:
        return scan(r, h0, form=self.form)

    def schedule(self, intervals: int) -> list[list[Part]]:
        return whole_steps(intervals)

    def error_bounds(
        self, m: Float[np.ndarray, "distinct"], c: Float[np.ndarray, "distinct"], d_hidden: int
    ) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
        return np.zeros_like(m), np.zeros_like(c)


class ExactFlow(AbstractSolver):
    """Z_i = exp(M_i) Z_{i−1} + φ₁(M_i) B Δξ_i, the exact solution for a piecewise-linear control.

    Diagonal A: elementwise. Otherwise the *action* of the exponential by its Taylor series
    (Al-Mohy and Higham, 2011), `order` products with M in a substep, no exponential formed. The
    series is checked: an error is raised at run time, asking for more substeps, if its last term is
    above √ε/100 of the state, ε the machine's.

    Attributes:
        order: terms of the series; None for 10 in float32 and 20 in float64.
        substeps: equal parts each interval is cut into, for increments with ‖M‖ well above 1.
        form: the scan, see `ssm.scans`; only diagonal A has others than "sequential".
    """

    order: int | None = eqx.field(static=True, default=None)
    substeps: int = eqx.field(static=True, default=1)
    form: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        if self.order is not None and not 1 <= self.order <= 64:
            raise ValueError(f"order: got {self.order}; expected from 1 to 64 terms, or null")
        if self.substeps < 1:
            raise ValueError(f"substeps: got {self.substeps}; expected a positive number")
        check_form(self.form)

    def element(
        self,
        generator: AbstractGenerator,
        d_omega: Float[Array, "omega"] | TokenIncrement,
        drive: Float[Array, "hidden"],
    ) -> Recurrence:
        if isinstance(generator, DiagonalGenerator):
            return generator.exact(d_omega, drive)
        order = self.order or (20 if drive.dtype == jnp.float64 else 10)
        taylor = [1 / math.factorial(k) for k in range(1, order + 1)]
        return Flow.of(generator, d_omega, drive, taylor, substeps=self.substeps)

    def lift(self, generator: AbstractGenerator, z: Float[Array, "hidden"]) -> Float[Array, "n"]:
        return z if isinstance(generator, DiagonalGenerator) else lifted(z)

    def scan(
        self, r: Recurrence, h0: Float[Array, "n"]
    ) -> tuple[Float[Array, "steps n"], Float[Array, "n"]]:
        return scan(r, h0, form=self.form)

    def schedule(self, intervals: int) -> list[list[Part]]:
        return whole_steps(intervals)

    def error_bounds(
        self, m: Float[np.ndarray, "distinct"], c: Float[np.ndarray, "distinct"], d_hidden: int
    ) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
        return np.zeros_like(m), np.zeros_like(c)
