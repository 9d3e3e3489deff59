"""Keeping what is not finite from flowing back in time through a product with zeros.

A causal map written as a product with a masked matrix has y_t = … + 0·x_s for s > t, which is NaN
where x_s is NaN or infinite. `guarded` takes such numbers out of the product and puts NaN where
they belong: into every output from their position on.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def guarded(
    x: Float[Array, "length *features"],
) -> tuple[Float[Array, "length *features"], Float[Array, "length *features"]]:
    """x with zeros for what is not finite, and what to add to the outputs: 0, then NaN from the
    first such position on, for each feature on its own."""
    length, finite = len(x), jnp.isfinite(x)
    position = jnp.arange(length).reshape(length, *[1] * (x.ndim - 1))
    first = jnp.min(jnp.where(finite, length, position), axis=0, keepdims=True, initial=length)
    poison = jnp.where(position >= first, jnp.nan, 0.0).astype(x.dtype)
    return jnp.where(finite, x, 0), poison
