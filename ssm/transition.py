"""Transitions: the linear maps h ↦ A h of a recurrence, one class for each structure of A.

A transition is that of ONE position. The state is a vector, (n,), or a matrix, (n, *m), whose
columns are copies: A acts on the first axis. A sequence of transitions is the same object with a
leading time axis on every array, except on those marked `Constant`.

- closed: a product has the same structure, so that a parallel scan is possible;
- lazy: formed into a closed one where that is less work than to apply it as it is;
- the others can only be applied.
"""

import abc
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Integer

T = TypeVar("T")


class Constant(eqx.Module, Generic[T]):
    """What is the same at every position: it is kept once, without a time axis."""

    value: T


def plain(x: T | Constant[T]) -> T:
    """What there is at a position, constant or not."""
    return x.value if isinstance(x, Constant) else x


class AbstractTransition(eqx.Module):
    """A linear map of the state."""

    @abc.abstractmethod
    def apply(self, h: Inexact[Array, "n *m"]) -> Inexact[Array, "n *m"]:
        """A h."""

    @abc.abstractmethod
    def matrix(self) -> Inexact[Array, "*m n n"]:
        """A written out, for tests and theory; one for each column where they differ."""


class AbstractClosedTransition(AbstractTransition):
    """A transition whose products have its structure."""

    @abc.abstractmethod
    def after(self, earlier: Any) -> "AbstractClosedTransition":
        """The transition of applying `earlier`, of the same class, then this one."""


class AbstractLazyTransition(AbstractTransition):
    """A transition that may be applied as it is, or formed."""

    @property
    @abc.abstractmethod
    def less_work_if_formed(self) -> bool:
        """Whether to form it and apply the result is less work, once for each position."""

    @abc.abstractmethod
    def form(self) -> AbstractClosedTransition:
        """The same map in a closed structure."""


class Diagonal(AbstractClosedTransition):
    """h ↦ d ⊙ h, with one diagonal for all columns of the state, (n, 1, …), or one for each."""

    d: Inexact[Array, "n *m"]

    def apply(self, h: Inexact[Array, "n *m"]) -> Inexact[Array, "n *m"]:
        return self.d * h

    def matrix(self) -> Inexact[Array, "*m n n"]:
        return _diagonal_matrices(self.d)

    def after(self, earlier: Any) -> "Diagonal":
        return Diagonal(self.d * earlier.d)


class Decay(AbstractClosedTransition):
    """h ↦ exp(Δ A) ⊙ h for diagonal A: a step Δ for each column, rates A common to all positions.

    A product is the transition of the summed steps, so that (n, m) numbers for each position are
    formed only where they are used.
    """

    delta: Float[Array, "*m"]
    rate: Constant[Inexact[Array, "n *m"]]

    def apply(self, h: Inexact[Array, "n *m"]) -> Inexact[Array, "n *m"]:
        return self.factor() * h

    def factor(self) -> Inexact[Array, "n *m"]:
        """exp(Δ A)."""
        rate = self.rate.value
        return jnp.exp(self.delta.astype(rate.dtype)[None] * rate)

    def matrix(self) -> Inexact[Array, "*m n n"]:
        return _diagonal_matrices(self.factor())

    def after(self, earlier: Any) -> "Decay":
        return Decay(self.delta + earlier.delta, self.rate)


def _diagonal_matrices(d: Inexact[Array, "n *m"]) -> Inexact[Array, "*m n n"]:
    return jnp.diag(d) if d.ndim == 1 else jax.vmap(_diagonal_matrices, in_axes=-1)(d)


class Dense(AbstractClosedTransition):
    """h ↦ A h for any matrix A."""

    a: Inexact[Array, "n n"]

    def apply(self, h: Inexact[Array, "n *m"]) -> Inexact[Array, "n *m"]:
        return jnp.tensordot(self.a, h, axes=1)

    def matrix(self) -> Inexact[Array, "n n"]:
        return self.a

    def after(self, earlier: Any) -> "Dense":
        return Dense(self.a @ earlier.a)


class TokenIncrement(eqx.Module):
    """Δω = (τ, e_w): time's part of an increment, and a row of a table that positions share."""

    time: Float[Array, ""]
    token: Integer[Array, ""]
    table: Constant[Float[Array, "vocabulary channels"]]

    def value(self) -> Float[Array, "omega"]:
        """(τ, e_w)."""
        return jnp.concatenate([self.time[None], self.table.value[self.token]])


def increment(d_omega: Float[Array, "omega"] | TokenIncrement) -> Float[Array, "omega"]:
    """Δω as an array."""
    return d_omega.value() if isinstance(d_omega, TokenIncrement) else d_omega


class Generated(AbstractLazyTransition):
    """h ↦ h + Σ_i A_i h Δω^i: a step of Euler's scheme for dh = Σ_i A_i h dω^i.

    To form the matrix is less work where there are more A_i than rows (an embedded token has a
    channel for each of its coordinates); applied as it is, under a `vmap` over examples, it is one
    product with the A_i, which they share.
    """

    d_omega: Float[Array, "omega"] | TokenIncrement
    a: Constant[Float[Array, "omega n n"]]

    @property
    def less_work_if_formed(self) -> bool:
        omega, n, _ = self.a.value.shape
        return omega >= n

    def apply(self, h: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
        return h + apply_generator(self.a.value, increment(self.d_omega), h)

    def form(self) -> Dense:
        return Dense(self.matrix())

    def matrix(self) -> Float[Array, "n n"]:
        a = self.a.value
        return jnp.eye(a.shape[-1], dtype=a.dtype) + jnp.tensordot(
            increment(self.d_omega), a, axes=1
        )


def apply_generator(
    a: Float[Array, "omega n n"], d_omega: Float[Array, "omega"], h: Float[Array, "n *m"]
) -> Float[Array, "n *m"]:
    """Σ_i A_i h Δω^i, in the order of less work: A_i h first where there are fewer A_i than rows.

    Under a `vmap` over examples the A_i are shared, so that either is one large matrix product.
    """
    if a.shape[0] < a.shape[1]:
        return jnp.tensordot(d_omega, jnp.tensordot(a, h, axes=1), axes=1)
    return jnp.tensordot(jnp.tensordot(d_omega, a, axes=1), h, axes=1)
