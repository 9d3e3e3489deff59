"""Functions of one example that know how to do a batch.

A layer takes one example, and a `vmap` makes it take a batch. Where a batch can be done better than
by adding an axis to every operation, a function is given here what `vmap` should call instead.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def batch_aware(
    function: Callable[..., jax.Array], *, static: int, shared: int
) -> Callable[..., jax.Array]:
    """The function of one example that, under `vmap`, is one call of `function` on the batch.

    This is `jax.custom_batching.custom_vmap` with what that lacks, reverse-mode differentiation
    where there is no `vmap`.

    Arguments:
        function: (*static arguments, *shared arrays, *batched arrays) → batched array. The leading
            axis of the batched arrays and of the result counts examples.
        static: how many leading arguments are hashable settings, not arrays.
        shared: how many arrays all examples share. Where a `vmap` batches one of these, such as a
            `vmap` over models, or has no example, it batches `function` as any other.
    """

    def alone(*arrays: jax.Array, settings: tuple[Any, ...]) -> jax.Array:
        return function(*settings, *arrays[:shared], *(v[None] for v in arrays[shared:]))[0]

    def of_settings(settings):
        return lambda *arrays: alone(*arrays, settings=settings)

    def batch(arrays, axes, *, settings):
        (size,) = {v.shape[i] for v, i in zip(arrays, axes, strict=True) if i is not None}
        if size == 0 or any(axis is not None for axis in axes[:shared]):
            return jax.vmap(of_settings(settings), in_axes=axes)(*arrays), 0
        examples = (
            jnp.broadcast_to(v, (size, *v.shape)) if axis is None else jnp.moveaxis(v, axis, 0)
            for v, axis in zip(arrays[shared:], axes[shared:], strict=True)
        )
        return function(*settings, *arrays[:shared], *examples), 0

    def shape_and_dtype(*arrays, settings):
        abstract = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in arrays]
        out = jax.eval_shape(of_settings(settings), *abstract)
        return jax.core.ShapedArray(out.shape, out.dtype)

    def differentiate(primals, tangents, *, settings):
        # Only what moves is differentiated: a zero tangent would be forward mode to a `custom_vjp`
        # within that depends on nothing else, which has none.
        moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

        def of_moving(*values):
            arrays = dict(enumerate(primals)) | dict(zip(moving, values, strict=True))
            return alone(*arrays.values(), settings=settings)

        return jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])

    primitive = Primitive(f"batch_aware_{function.__name__.strip('_')}")
    primitive.def_impl(jax.jit(alone, static_argnames="settings"))
    primitive.def_abstract_eval(shape_and_dtype)
    mlir.register_lowering(primitive, mlir.lower_fun(alone, multiple_results=False))
    ad.primitive_jvps[primitive] = differentiate
    batching.primitive_batchers[primitive] = batch

    def call(*arguments: Any) -> jax.Array:
        return primitive.bind(*arguments[static:], settings=arguments[:static])

    return call
