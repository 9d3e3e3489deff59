"""The linear CDE, dense or diagonal: the paper's object."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssm.cde import AbstractPropagatingSolver, AbstractSolver, Euler
from ssm.control import GateName, check_gate, gate_increment, gate_increments, sample_times
from ssm.init import named_key
from ssm.lattice import distinct_steps, final_states
from ssm.mixers.base import AbstractEndMixer, AbstractStreamingMixer, AbstractTokenMixer
from ssm.token_cde import euler_of_tokens

MOST_MATRICES = 2048
"""Most matrices that `LinearCDE.ends_of_many` keeps: 0.5 GB for d_hidden = 256."""


class LinearCDE(AbstractStreamingMixer, AbstractTokenMixer, AbstractEndMixer):
    """Z solving dZ = Σ_i A_i Z dω^i + B dξ from Z_0 = W X_0 + b, at every sample of X.

    Each gate ω, ξ is (t, X) or ∫ (s, X) ds, see `ssm.control`. Initial entries are those of the
    official code: A ~ N(0, 1)/√d_hidden for dense A, and B, W, b ~ N(0, 1). Diagonal A, which the
    paper treats in theory only (§4.4), has entries N(0, 1): each mode then grows or decays at unit
    scale, as the eigenvalues of the dense matrices do.

    Attributes:
        a: (1 + channels, d_hidden, d_hidden) or (1 + channels, d_hidden) diagonals.
        b: (d_hidden, 1 + channels).
        initial_weight, initial_bias: W and b.
        solver: how the equation is solved, see `ssm.cde`.

    Source: Cirone et al., 2024, §4 and §5; state size d_hidden = d_model.
    """

    a: Float[Array, "omega d_hidden *d_hidden2"]
    b: Float[Array, "d_hidden xi"]
    initial_weight: Float[Array, "d_hidden channels"]
    initial_bias: Float[Array, "d_hidden"]
    solver: AbstractSolver
    gate_omega: GateName = eqx.field(static=True)
    gate_xi: GateName = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        *,
        structure: Literal["dense", "diagonal"] = "dense",
        gate_omega: GateName = "integral",
        gate_xi: GateName = "integral",
        solver: AbstractSolver | None = None,
        channels: int | None = None,
        key: PRNGKeyArray,
    ):
        """A linear CDE with random coefficients.

        Arguments:
            d_model: size of the state, and width of the result.
            structure: of the matrices A_i.
            gate_omega, gate_xi: "path" or "integral".
            solver: defaults to `Euler()`.
            channels: width of the input; d_model by default.

        Raises:
            ValueError: for an unknown structure or gate.
        """
        if structure not in ("dense", "diagonal"):
            raise ValueError(f"structure: got {structure!r}; expected 'dense' or 'diagonal'")
        check_gate(gate_omega)
        check_gate(gate_xi)
        channels = d_model if channels is None else channels
        shape: tuple[int, ...] = (1 + channels, d_model)
        if structure == "dense":
            self.a = jr.normal(named_key(key, "a"), (*shape, d_model)) / d_model**0.5
        else:
            self.a = jr.normal(named_key(key, "a"), shape)
        self.b = jr.normal(named_key(key, "b"), (d_model, 1 + channels))
        self.initial_weight = jr.normal(named_key(key, "initial_weight"), (d_model, channels))
        self.initial_bias = jr.normal(named_key(key, "initial_bias"), (d_model,))
        self.solver = Euler() if solver is None else solver
        self.gate_omega = gate_omega
        self.gate_xi = gate_xi

    def initial_state(self, x0: Float[Array, "channels"]) -> Float[Array, "d_hidden"]:
        """Z_0 = W X_0 + b."""
        return self.initial_weight @ x0 + self.initial_bias

    def __call__(
        self, x: Float[Array, "length channels"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length d_hidden"]:
        z0 = self.initial_state(x[0])
        d_omega = gate_increments(self.gate_omega, x)
        d_xi = d_omega if self.gate_xi == self.gate_omega else gate_increments(self.gate_xi, x)
        states = self.solver.solve(self.a, self.b, z0, d_omega, d_xi)
        return jnp.concatenate([z0[None], states])

    def of_tokens(
        self, table: Float[Array, "vocabulary channels"], tokens: Int[Array, "length"]
    ) -> Float[Array, "length d_hidden"]:
        """As `__call__`. Euler's scheme for dense matrices and `integral` gates needs only one
        transition matrix an entry of the vocabulary, see `ssm.token_cde`."""
        few_matrices = self.a.ndim == 3 and self.gate_omega == self.gate_xi == "integral"
        if not few_matrices or self.solver != Euler():
            return self(table[tokens])
        length = len(tokens)
        z0 = self.initial_state(table[tokens[0]])
        times = sample_times(length, table.dtype)[1:]
        states = euler_of_tokens(self.a, self.b, z0, table, tokens[1:], times, 1 / length)
        return jnp.concatenate([z0[None], states])

    def ends_of_many(
        self,
        x: Float[np.ndarray, "paths length channels"],
        after_step: Callable[[int], None] = lambda step: None,
    ) -> Float[np.ndarray, "paths d_hidden"] | None:
        """`__call__` at the last sample, for many paths with few different increments: the exact
        flow or Tsit5 of dense matrices and `path` gates, see `ssm.lattice`. None for any other
        equation, where that would not be faster, or where Tsit5's steps may differ by path."""
        paths, length, _ = x.shape
        d_hidden = len(self.initial_bias)
        dense_on_path = self.a.ndim == 3 and self.gate_omega == self.gate_xi == "path"
        if not (dense_on_path and isinstance(self.solver, AbstractPropagatingSolver)):
            return None
        steps = distinct_steps(x, most=min(MOST_MATRICES, paths * (length - 1) // d_hidden))
        if steps is None:
            return None
        z0 = jax.vmap(self.initial_state)(jnp.asarray(x[:, 0]))
        return final_states(self.solver, self.a, self.b, z0, steps, after_step)

    def init_state(self, length: int) -> "CDEState":
        d_hidden, channels = self.initial_weight.shape
        dtype = self.initial_weight.dtype
        return CDEState(
            jnp.zeros(d_hidden, dtype), jnp.zeros(channels, dtype), jnp.zeros((), jnp.int32), length
        )

    def step(
        self, state: "CDEState", x: Float[Array, "channels"]
    ) -> tuple["CDEState", Float[Array, "d_hidden"]]:
        first = state.index == 0
        previous = jnp.where(first, x, state.previous)
        d_omega, d_xi = (
            gate_increment(gate, previous, x, state.index, state.length)
            for gate in (self.gate_omega, self.gate_xi)
        )
        moved = self.solver.advance(self.a, self.b, state.z, d_omega, d_xi)
        z = jnp.where(first, self.initial_state(x), moved)
        return CDEState(z, x, state.index + 1, state.length), z


class CDEState(eqx.Module):
    """The state of a linear CDE that reads its path one sample at a time."""

    z: Float[Array, "d_hidden"]
    previous: Float[Array, "channels"]
    index: Int[Array, ""]
    length: int = eqx.field(static=True)
