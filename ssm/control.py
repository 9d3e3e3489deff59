"""From a sampled path X to the gates ω and ξ of a linear CDE: dω and dξ are defined here alone.

A gate is a path made from X on the unit interval, t_i = i/(length − 1), linear between samples:

- `path`:      ω = (t, X_t), whose increments are those of time and of X;
- `integral`:  ω = ∫ (s, X_s) ds, whose derivative is (t, X_t) itself, so that the *values* of X
               act on the state: each token has its own transition matrix.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GateName = Literal["path", "integral"]


def sample_times(length: int, dtype: jnp.dtype | None = None) -> Float[Array, "length"]:
    """t_i = i/(length − 1) on [0, 1]; a single sample is at t = 0."""
    return jnp.linspace(0.0, 1.0, length, dtype=dtype)


def with_time(x: Float[Array, "length channels"]) -> Float[Array, "length 1+channels"]:
    """The path (t, X_t)."""
    times = sample_times(x.shape[0], x.dtype)
    return jnp.concatenate([times[:, None], x], axis=-1)


def gate_increments(
    gate: GateName, x: Float[Array, "length channels"]
) -> Float[Array, "length-1 1+channels"]:
    """Increments of the gate over each interval between samples.

    - `path`: Δω_i = (t_i − t_{i−1}, X_i − X_{i−1});
    - `integral`: Δω_i = (t_i, X_i)/length, the right-point rule with the official code's step of
      1/length (it has length − 1 steps, so they cover all but one part in `length` of [0, 1]).

    Arguments:
        gate: "path" or "integral".
        x: the path.

    Returns:
        One increment for each i = 1 … length − 1.

    Raises:
        ValueError: if `gate` is neither.
    """
    check_gate(gate)
    path = with_time(x)
    if gate == "path":
        return jnp.diff(path, axis=0)
    return path[1:] / x.shape[0]


def gate_increment(
    gate: GateName,
    previous: Float[Array, "channels"],
    current: Float[Array, "channels"],
    index: Int[Array, ""],
    length: int,
) -> Float[Array, "1+channels"]:
    """The increment that ends at sample `index` ≥ 1 of a path of `length`: `gate_increments`, for
    a path that arrives one sample at a time."""
    check_gate(gate)
    dt = 1 / max(length - 1, 1)
    if gate == "path":
        return jnp.concatenate([jnp.full((1,), dt, current.dtype), current - previous])
    t = index.astype(current.dtype) * dt
    return jnp.concatenate([t[None], current]) / length


def check_gate(gate: str) -> None:
    """Raises ValueError unless `gate` names a gate."""
    if gate not in get_args(GateName):
        raise ValueError(f"gate: got {gate!r}; expected one of {list(get_args(GateName))}")
