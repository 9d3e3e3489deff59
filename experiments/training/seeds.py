"""Seeds as a batch axis: one program trains several models, each as if alone."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
from jaxtyping import PyTree

SeedAxis = Literal["auto", "map", "vmap"]


def over_seeds(function: Callable[..., PyTree], axis: SeedAxis = "auto") -> Callable[..., PyTree]:
    """`function` of one seed's arguments, applied along the leading axis of all of them.

    "map" runs the seeds one after the other in one program: on a CPU, whose cores one seed fills,
    this is as fast as any batching, and every seed's numbers are those of the run with that seed
    alone. "vmap" batches them, for a GPU that one seed cannot fill. "auto" is the first on a CPU
    and the second elsewhere. Several devices run their own seeds side by side in either way.

    Raises:
        ValueError: for an unknown axis.
    """
    if axis not in get_args(SeedAxis):
        raise ValueError(f"seed_axis: got {axis!r}; expected one of {list(get_args(SeedAxis))}")
    if axis == "auto":
        axis = "map" if jax.default_backend() == "cpu" else "vmap"
    if axis == "vmap":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda one: function(*one), arguments)
