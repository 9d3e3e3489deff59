"""The linear CDE, dense or diagonal: the paper's object."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ssm.cde import AbstractSolver, Euler
from ssm.cde.generator import AbstractGenerator, DenseGenerator, DiagonalGenerator
from ssm.control import (
    PER_LENGTH,
    Embedded,
    GateName,
    Steps,
    check_dt,
    check_gate,
    gate_increments,
    steps_of,
    values,
)
from ssm.init import named_key
from ssm.mixers.base import AbstractMixer, Dt
from ssm.precision import at_least_float32
from ssm.recurrence import Recurrence, stack
from ssm.scans.grouped import MOST_MATRICES, Ungrouped, distinct_steps, final_states
from ssm.transition import Constant, TokenIncrement

Structure = Literal["dense", "diagonal"]
GENERATORS = {"dense": DenseGenerator, "diagonal": DiagonalGenerator}


class CDEState(eqx.Module):
    """A linear CDE between two samples of its path.

    Attributes:
        h: the recurrence's state, Z or (Z, 1).
        previous: the last sample.
        time: its time.
        started: whether there was one.
        steps: how time goes on.
    """

    h: Float[Array, "n"]
    previous: Float[Array, "channels"]
    time: Float[Array, ""]
    started: Bool[Array, ""]
    steps: Steps = eqx.field(static=True)


class LinearCDE(AbstractMixer):
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
        dt: time from a sample to the next: a number; or "1/length", by which time runs from 0 to 1
            over the whole sequence, as in the official code, and a prefix of a sequence does not
            have the prefix of its states.

    Source: Cirone et al., 2024, §4 and §5; state size d_hidden = d_model.
    """

    a: Float[Array, "omega d_hidden *d_hidden2"]
    b: Float[Array, "d_hidden xi"]
    initial_weight: Float[Array, "d_hidden channels"]
    initial_bias: Float[Array, "d_hidden"]
    solver: AbstractSolver
    structure: Structure = eqx.field(static=True)
    gate_omega: GateName = eqx.field(static=True)
    gate_xi: GateName = eqx.field(static=True)
    dt: float | int | str = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        *,
        structure: Structure = "dense",
        gate_omega: GateName = "integral",
        gate_xi: GateName = "integral",
        solver: AbstractSolver | None = None,
        dt: float | int | str = PER_LENGTH,
        channels: int | None = None,
        key: PRNGKeyArray,
    ):
        """A linear CDE with random coefficients.

        Arguments:
            d_model: size of the state, and width of the result.
            structure: of the matrices A_i.
            gate_omega, gate_xi: "path" or "integral".
            solver: defaults to `Euler()`.
            dt: a positive number, or "1/length".
            channels: width of the input; d_model by default.

        Raises:
            ValueError: for an unknown structure, gate or dt.
        """
        if structure not in ("dense", "diagonal"):
            raise ValueError(f"structure: got {structure!r}; expected 'dense' or 'diagonal'")
        check_gate("gate_omega", gate_omega)
        check_gate("gate_xi", gate_xi)
        check_dt(dt)
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
        self.structure = structure
        self.gate_omega = gate_omega
        self.gate_xi = gate_xi
        self.dt = dt

    def generator(self) -> AbstractGenerator:
        """u ↦ Σ_i A_i u^i."""
        return GENERATORS[self.structure](self.a)

    def element(
        self, d_omega: Float[Array, "omega"] | TokenIncrement, drive: Float[Array, "d_hidden"]
    ) -> Recurrence:
        """The recurrence over an interval with increment Δω and drive B Δξ."""
        return self.solver.element(self.generator(), d_omega, drive)

    def initial_state(self, x0: Float[Array, "channels"]) -> Float[Array, "n"]:
        """Z_0 = W X_0 + b, as the recurrence's state."""
        return self.solver.lift(self.generator(), self.initial_weight @ x0 + self.initial_bias)

    def __call__(
        self,
        x: Float[Array, "length channels"] | Embedded,
        state: CDEState | None = None,
        *,
        dt: Dt = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length d_hidden"], CDEState]:
        whole, state = state is None, self.init(len(x)) if state is None else state
        if len(x) == 0:
            return jnp.zeros((0, len(self.initial_bias)), self.initial_bias.dtype), state
        start, end = (values(x[i : i + 1]) for i in (0, -1 % len(x)))
        gaps = (
            None if dt is None else jnp.broadcast_to(jnp.asarray(dt, state.time.dtype), (len(x),))
        )
        first = self.initial_state(start[0])
        if not whole:  # over the interval from the sample before, if there is one
            gap = None if gaps is None else gaps[:1]
            r, times = self._intervals(state, start, state.previous[None], gap)
            h = jnp.where(state.started, self.solver.scan(r, state.h)[1], first)
            time = jnp.where(state.started, times[-1], state.time)
        else:
            h, time = first, state.time
        state = CDEState(h, start[0], time, jnp.array(True), state.steps)
        gaps = None if gaps is None else gaps[1:]
        r, times = self._intervals(state, x[1:], x[:-1], gaps)
        states, h = self.solver.scan(r, h)
        y = jnp.concatenate([state.h[None], states])[:, : len(self.initial_bias)]
        time = jnp.concatenate([time[None], times])[-1]
        return y.astype(end.dtype), CDEState(h, end[0], time, jnp.array(True), state.steps)

    def _intervals(
        self,
        state: CDEState,
        x: Float[Array, "k channels"] | Embedded,
        previous: Float[Array, "k channels"] | Embedded,
        gaps: Float[Array, "k"] | None,
    ) -> tuple[Recurrence, Float[Array, "k"]]:
        """The recurrence over the intervals that end at the samples x, and their times."""
        steps, dtype = state.steps, state.time.dtype
        if gaps is None:
            gaps = jnp.ones(len(x), dtype)
            times = state.time + steps.time * jnp.arange(1, len(x) + 1, dtype=dtype)
            if isinstance(x, Embedded) and self.gate_omega == self.gate_xi == "integral":
                scaled = (steps.integral * times).astype(x.table.dtype)
                return self._of_tokens(scaled, steps.integral, x), times
        else:
            times = state.time + steps.time * jnp.cumsum(gaps)
        x, previous = values(x), values(previous)
        d_omega, d_xi = (
            gate_increments(gate, steps, x, previous, times.astype(x.dtype), gaps.astype(x.dtype))
            for gate in (self.gate_omega, self.gate_xi)
        )
        return stack(self.element, d_omega, d_xi @ self.b.T), times

    def _of_tokens(self, times: Float[Array, "k"], h: float, x: Embedded) -> Recurrence:
        """The same for increments h (t_i, e_w), of which the second part is a row of a table."""
        table = h * x.table
        drives = times[:, None] * self.b[None, :, 0] + (table @ self.b[:, 1:].T)[x.tokens]

        def element(time, token, drive):
            return self.element(TokenIncrement(time, token, Constant(table)), drive)

        return stack(element, times, x.tokens, drives)

    def init(self, length: int | None = None) -> CDEState:
        h = jax.eval_shape(self.initial_state, self.initial_weight[0])
        channels = self.initial_weight[0]
        return CDEState(
            jnp.zeros(h.shape, h.dtype),
            jnp.zeros_like(channels),
            jnp.zeros((), at_least_float32(channels).dtype),
            jnp.array(False),
            steps_of(self.dt, length),
        )

    def last_of_many(
        self,
        x: Float[np.ndarray, "paths length channels"],
        unit: float,
        after_step: Callable[[int], None] = lambda step: None,
    ) -> Float[np.ndarray, "paths d_hidden"]:
        """`__call__` at the last sample of many paths on a lattice, see `ssm.scans.grouped`.

        Not for use under `jax.jit`: it looks at the numbers.

        Arguments:
            x: paths whose coordinates are whole numbers of `unit`.
            after_step: called with the number of intervals done.

        Raises:
            Ungrouped: for another equation than one with dense matrices and `path` gates, or where
                it would not be faster, or Tsit5's steps may differ from path to path.
        """
        paths, length, _ = x.shape
        d_hidden = len(self.initial_bias)
        if self.structure != "dense" or not self.gate_omega == self.gate_xi == "path":
            raise Ungrouped("expected dense matrices and gates 'path'")
        if self.dt != PER_LENGTH:
            raise Ungrouped(f"expected dt = {PER_LENGTH!r}")
        steps = distinct_steps(x, unit, min(MOST_MATRICES, paths * (length - 1) // d_hidden))
        z0 = jnp.asarray(x[:, 0]) @ self.initial_weight.T + self.initial_bias[None]
        return final_states(self.solver, self.a, self.b, z0, steps, after_step)
