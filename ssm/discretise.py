"""From a continuous linear system h' = A h + B u, with diagonal A, to a recurrence h ← Ā h + B̄ u.

Each function is elementwise and broadcasts; A may be real or complex.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


def exponential_euler(
    a: Inexact[Array, "*a"], delta: Float[Array, "*delta"]
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."]]:
    """Ā = exp(ΔA), B̄/B = Δ: the rule of Mamba and of the official S4D code.

    Exact in the state, first order in the drive (Gu and Dao, 2023, §3.2).
    """
    return jnp.exp(delta.astype(a.dtype) * a), delta


def zero_order_hold(
    a: Inexact[Array, "*a"], delta: Float[Array, "*delta"]
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."]]:
    """Ā = exp(ΔA), B̄/B = A⁻¹(exp(ΔA) − 1): exact for an input held over each step of length Δ.

    `expm1` keeps the digits of the drive when |ΔA| is small; A must have no zero entry.
    """
    z = delta.astype(a.dtype) * a
    return jnp.exp(z), jnp.expm1(z) / a
