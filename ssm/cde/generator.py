"""Generators: the maps u ↦ M(u) = Σ_i A_i u^i of a linear CDE, by the structure of the A_i."""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssm.precision import at_least_float32
from ssm.recurrence import Recurrence
from ssm.transition import (
    AbstractTransition,
    Constant,
    Diagonal,
    Generated,
    TokenIncrement,
    apply_generator,
    increment,
)


class AbstractGenerator(eqx.Module):
    """The matrices A_i of dZ = Σ_i A_i Z dω^i + B dξ."""

    @abc.abstractmethod
    def apply(self, u: Float[Array, "omega"], z: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
        """M(u) z."""

    @abc.abstractmethod
    def euler(self, u: Float[Array, "omega"] | TokenIncrement, c: Float[Array, "n"]) -> Recurrence:
        """Z ↦ Z + M(u) Z + c."""


class DenseGenerator(AbstractGenerator):
    """Any matrices."""

    a: Float[Array, "omega n n"]

    def apply(self, u: Float[Array, "omega"], z: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
        return apply_generator(self.a, u, z)

    def euler(self, u: Float[Array, "omega"] | TokenIncrement, c: Float[Array, "n"]) -> Recurrence:
        return Recurrence(Generated(u, Constant(self.a)), c)


class DiagonalGenerator(AbstractGenerator):
    """Diagonal matrices, each held as its diagonal."""

    a: Float[Array, "omega n"]

    def apply(self, u: Float[Array, "omega"], z: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
        return jnp.expand_dims(u @ self.a, range(1, z.ndim)) * z

    def euler(self, u: Float[Array, "omega"] | TokenIncrement, c: Float[Array, "n"]) -> Recurrence:
        return Recurrence(Diagonal(1 + increment(u) @ self.a), c)

    def exact(self, u: Float[Array, "omega"] | TokenIncrement, c: Float[Array, "n"]) -> Recurrence:
        """Z ↦ exp(M(u)) Z + φ₁(M(u)) c, elementwise."""
        m = increment(u) @ self.a
        return Recurrence(Diagonal(jnp.exp(m)), phi1(m) * c)


class Flow(AbstractTransition):
    """The solution over an interval of dZ = Σ_i A_i Z dω^i + B dξ, as a linear map of (Z, 1).

    With M = Σ_i A_i Δω^i and c = B Δξ it is (Z, 1) ↦ (exp(M) Z + φ₁(M) c, 1), by the series

        Z + Σ_{k ≥ 1} r_k M^{k−1} (M Z + c),      r_k = 1/k! for the exact flow,

    in `substeps` equal parts. Other r_k make it a step of a Runge–Kutta method.

    Attributes:
        d_omega, drive: Δω, and c.
        generator: the A_i.
        coefficients: r_1, r_2, …
        checked: whether to raise an error at run time if the last term of the series is above
            √ε/100 of the state, ε the machine's: more substeps are needed then.
    """

    d_omega: Float[Array, "omega"]
    drive: Float[Array, "hidden"]
    generator: Constant[AbstractGenerator]
    coefficients: tuple[float, ...] = eqx.field(static=True)
    substeps: int = eqx.field(static=True, default=1)
    checked: bool = eqx.field(static=True, default=True)

    @classmethod
    def of(
        cls,
        generator: AbstractGenerator,
        u: Float[Array, "omega"] | TokenIncrement,
        c: Float[Array, "hidden"],
        coefficients: Sequence[float],
        *,
        substeps: int = 1,
        checked: bool = True,
    ) -> Recurrence:
        """The recurrence of an interval, in no less than float32."""
        v, c, generator = jax.tree.map(at_least_float32, (increment(u), c, generator))
        flow = cls(v, c, Constant(generator), tuple(coefficients), substeps, checked)
        return Recurrence(flow)

    def apply(self, h: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
        z, one = h[:-1], h[-1:]
        c = jnp.expand_dims(self.drive, range(1, z.ndim)) * one
        scale = 1 / self.substeps

        def part(_, z):
            term = self.coefficients[0] * scale * (self._generate(z) + c)
            total = z + term
            for before, r in zip(self.coefficients, self.coefficients[1:], strict=False):
                term = (r / before * scale) * self._generate(term)
                total = total + term
            return self._converged(total, term) if self.checked else total

        return jnp.concatenate([jax.lax.fori_loop(0, self.substeps, part, z), one])

    def _generate(self, z):
        return self.generator.value.apply(self.d_omega, z)

    def _converged(self, z, last):
        eps, tiny = (float(v) for v in (jnp.finfo(z.dtype).eps, jnp.finfo(z.dtype).tiny))
        small = jnp.max(jnp.abs(last)) <= 1e-2 * eps**0.5 * (jnp.max(jnp.abs(z)) + tiny)
        return eqx.error_if(
            z,
            ~jax.lax.stop_gradient(small),
            "ExactFlow: the Taylor series of the matrix exponential has not converged; increase "
            f"substeps (now {self.substeps})",
        )

    def matrix(self) -> Float[Array, "n n"]:
        return self.apply(jnp.eye(len(self.drive) + 1, dtype=self.drive.dtype))


def lifted(z: Float[Array, "hidden"]) -> Float[Array, "hidden+1"]:
    """(Z, 1), in no less than float32."""
    z = at_least_float32(z)
    return jnp.append(z, jnp.ones((), z.dtype))


def phi1(m: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(exp(m) − 1)/m elementwise, with its limit 1 and the right gradient at m = 0."""
    small = jnp.abs(m) < 1e-4
    safe = jnp.where(small, jnp.ones_like(m), m)
    return jnp.where(small, 1 + m / 2 + m * m / 6 + m**3 / 24, jnp.expm1(safe) / safe)
