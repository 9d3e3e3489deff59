"""The abstract solver: it makes of each interval a position of a recurrence, and scans them.

On an interval with increments Δω, Δξ the equation is Z' = M Z + c with M = Σ_i A_i Δω^i and
c = B Δξ over unit time, so that every solver is a way to apply

    Z ↦ exp(M) Z + φ₁(M) c,      φ₁(M) = Σ_k M^k/(k + 1)!.
"""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ssm.cde.generator import AbstractGenerator
from ssm.recurrence import Recurrence
from ssm.transition import TokenIncrement


class Part(NamedTuple):
    """A step over part of an interval.

    Attributes:
        fraction: of the interval.
        most_error: the scaled error estimate below which an adaptive solver takes this step and
            goes on to the next one of its schedule.
    """

    fraction: float
    most_error: float = math.inf


class AbstractSolver(eqx.Module):
    """A way to solve dZ = Σ_i A_i Z dω^i + B dξ over intervals with given increments."""

    @abc.abstractmethod
    def element(
        self,
        generator: AbstractGenerator,
        d_omega: Float[Array, "omega"] | TokenIncrement,
        drive: Float[Array, "hidden"],
    ) -> Recurrence:
        """The recurrence over one interval, with increment Δω and drive B Δξ."""

    @abc.abstractmethod
    def lift(self, generator: AbstractGenerator, z: Float[Array, "hidden"]) -> Float[Array, "n"]:
        """The recurrence's state for a state Z of the equation: Z itself, or (Z, 1)."""

    @abc.abstractmethod
    def scan(
        self, r: Recurrence, h0: Float[Array, "n"]
    ) -> tuple[Float[Array, "steps n"], Float[Array, "n"]]:
        """The recurrence's states at the end of each interval, and the last."""

    @abc.abstractmethod
    def schedule(self, intervals: int) -> list[list[Part]]:
        """The steps over each of so many intervals, for `ssm.scans.grouped`."""

    @abc.abstractmethod
    def error_bounds(
        self, m: Float[np.ndarray, "distinct"], c: Float[np.ndarray, "distinct"], d_hidden: int
    ) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
        """p and q such that a step from Z has a scaled error estimate of at most p |Z| + q.

        Arguments:
            m, c: bounds of the spectral norm of M and of |B Δξ|, for each increment.
            d_hidden: the size of Z.
        """


def whole_steps(intervals: int) -> list[list[Part]]:
    """A step over each interval, whatever its error."""
    return [[Part(1.0)]] * intervals
