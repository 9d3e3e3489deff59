"""Functions of one example that know how to do a batch, or have derivatives by reverse mode only.

A layer takes one example, and a `vmap` makes it take a batch. Where a batch can be done better than
by adding an axis to every operation, a function is given here what `vmap` should call instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

T = TypeVar("T")


def batch_aware(
    function: Callable[..., tuple[jax.Array, ...]], *, static: int, shared: int
) -> Callable[..., tuple[jax.Array, ...]]:
    """The function of one example that, under `vmap`, is one call of `function` on the batch.

    This is `jax.custom_batching.custom_vmap` with what that lacks, reverse-mode differentiation
    where there is no `vmap`.

    Arguments:
        function: (*static arguments, *shared arrays, *batched arrays) → batched arrays. The leading
            axis of the batched arrays and of the results counts examples.
        static: how many leading arguments are hashable settings, not arrays.
        shared: how many arrays all examples share. Where a `vmap` batches one of these, such as a
            `vmap` over models, or has no example, it batches `function` as any other.
    """

    def alone(*arrays: jax.Array, settings: tuple[Any, ...]) -> list[jax.Array]:
        batch_of_one = (v[None] for v in arrays[shared:])
        return [v[0] for v in function(*settings, *arrays[:shared], *batch_of_one)]

    def of_settings(settings):
        return lambda *arrays: alone(*arrays, settings=settings)

    def batch(arrays, axes, *, settings):
        (size,) = {v.shape[i] for v, i in zip(arrays, axes, strict=True) if i is not None}
        if size == 0 or any(axis is not None for axis in axes[:shared]):
            out = jax.vmap(of_settings(settings), in_axes=axes)(*arrays)
        else:
            examples = (
                jnp.broadcast_to(v, (size, *v.shape)) if axis is None else jnp.moveaxis(v, axis, 0)
                for v, axis in zip(arrays[shared:], axes[shared:], strict=True)
            )
            out = list(function(*settings, *arrays[:shared], *examples))
        return out, [0] * len(out)

    def shapes_and_dtypes(*arrays, settings):
        abstract = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in arrays]
        out = jax.eval_shape(of_settings(settings), *abstract)
        return [jax.core.ShapedArray(v.shape, v.dtype) for v in out]

    def differentiate(primals, tangents, *, settings):
        # Only what moves is differentiated: a zero tangent would be forward mode to a `custom_vjp`
        # within that depends on nothing else, which has none.
        moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

        def of_moving(*values):
            arrays = dict(enumerate(primals)) | dict(zip(moving, values, strict=True))
            return alone(*arrays.values(), settings=settings)

        return jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])

    primitive = Primitive(f"batch_aware_{function.__name__.strip('_')}")
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(alone, static_argnames="settings"))
    primitive.def_abstract_eval(shapes_and_dtypes)
    mlir.register_lowering(primitive, mlir.lower_fun(alone, multiple_results=True))
    ad.primitive_jvps[primitive] = differentiate
    batching.primitive_batchers[primitive] = batch

    def call(*arguments: Any) -> tuple[jax.Array, ...]:
        return tuple(primitive.bind(*arguments[static:], settings=arguments[:static]))

    return call


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def reverse_only(x: jax.Array, message: str) -> jax.Array:
    """x, which may be differentiated by reverse mode; forward mode is a TypeError with a message.

    A `jax.custom_vjp` has an error of its own for that, which cannot say what to do about it.
    """
    return x


@reverse_only.defjvp
def _(message, primals, tangents):
    return primals[0], _backward_p.bind(tangents[0], message=message)


def reverse_only_tree(tree: T, message: str) -> T:
    """`reverse_only` of every inexact array."""
    inexact, others = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda x: reverse_only(x, message), inexact), others)


def _refuse(x, *, message):
    raise TypeError(message)


_backward_p = Primitive("reverse_only")
_backward_p.def_impl(_refuse)
_backward_p.def_abstract_eval(lambda x, *, message: x)
mlir.register_lowering(_backward_p, lambda context, x, *, message: _refuse(x, message=message))
ad.deflinear2(_backward_p, lambda derivative, x, *, message: [derivative])
batching.defvectorized(_backward_p)
