"""Precision: which matrix products are of bfloat16 numbers, and what never has fewer digits."""

from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact, PRNGKeyArray

Products = Literal["float32", "bfloat16"]

FULL = ("dt_proj",)
"""Linear layers that stay in float32: the one whose result is Δ, in an exponent."""

T = TypeVar("T")


def at_least_float32(x: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """x, in float32 if it has half the digits: states, A and Δ are not kept in less."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def as_complex(parts: Float[Array, "*shape 2"]) -> Complex[Array, "*shape"]:
    """The complex numbers whose real and imaginary parts are on the last axis."""
    parts = at_least_float32(parts)
    return jax.lax.complex(parts[..., 0], parts[..., 1])


class Bfloat16Linear(eqx.Module):
    """y = W x + b with W x a product of bfloat16 numbers; parameters, b and y are float32.

    The derivatives with respect to x and W are products of bfloat16 numbers too.
    """

    linear: eqx.nn.Linear

    def __call__(
        self, x: Float[Array, "d_input"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "d_output"]:
        y = self.linear.weight.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)
        y = y.astype(x.dtype)
        return y if self.linear.bias is None else y + self.linear.bias


def with_products(module: T, products: Products) -> T:
    """The module with the products of its linear layers in the precision named.

    "bfloat16" changes the dense layers that surround a recurrence; what is recurrent (states, A, Δ)
    and the losses stay in float32, as do all parameters.

    Raises:
        ValueError: for another name.
    """
    if products == "float32":
        return module
    if products != "bfloat16":
        raise ValueError(f"products: got {products!r}; expected 'float32' or 'bfloat16'")

    def is_linear(x: object) -> bool:
        return isinstance(x, eqx.nn.Linear)

    def replace(path, leaf):
        full = any(getattr(entry, "name", None) in FULL for entry in path)
        return Bfloat16Linear(leaf) if is_linear(leaf) and not full else leaf

    return jax.tree_util.tree_map_with_path(replace, module, is_leaf=is_linear)
