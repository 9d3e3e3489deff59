"""Clipped AdamW beside AdamW on gradients clipped by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.training.optimizer import clipped_adamw


@pytest.mark.parametrize("size", [0.01, 10.0])
def test_only_large_gradients_are_clipped(size):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    grads = {"a": size * jnp.array([3.0, 0.0]), "b": size * jnp.array([[4.0]])}
    clipped = {k: g * min(1.0, 2.0 / (5 * size)) for k, g in grads.items()}
    ours, plain = clipped_adamw(0.1, clip=2.0), optax.adamw(0.1, weight_decay=0.01)
    with jax.numpy_dtype_promotion("standard"):
        got, _ = ours.update(grads, ours.init(params), params)
        want, _ = plain.update(clipped, plain.init(params), params)
    for name in params:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)


def test_a_clip_of_zero_is_refused():
    with pytest.raises(ValueError, match="clip: got 0; expected a positive number"):
        clipped_adamw(0.1, clip=0)
