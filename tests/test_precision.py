"""Mixed precision: what is rounded, and what is not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from ssm.mixers import Mamba, TransformerLayer
from ssm.model import SequenceModel
from ssm.precision import Bfloat16Linear, as_complex, at_least_float32, with_products


def model(products, mixer=Mamba):
    return SequenceModel(
        mixer, d_model=16, vocabulary=5, n_outputs=3, products=products, key=jr.key(0)
    )


def test_a_product_is_of_rounded_numbers():
    linear = eqx.nn.Linear(8, 4, key=jr.key(0))
    x = jr.normal(jr.key(1), (8,))
    rounded = [np.asarray(v.astype(jnp.bfloat16), np.float64) for v in (linear.weight, x)]
    got = Bfloat16Linear(linear)(x)
    assert got.dtype == jnp.float32
    expected = rounded[0] @ rounded[1]
    # The sum is rounded to eight bits once, then the bias is added in float32.
    np.testing.assert_allclose(got - linear.bias, expected, rtol=2.0**-8)


MIXERS = {
    "Mamba": Mamba,
    "full Mamba": functools.partial(Mamba, variant="full"),
    "Transformer": functools.partial(TransformerLayer, num_heads=2, dropout=0.0),
}
EACH = [
    pytest.param(make, id=name, marks=[] if name == "Mamba" else [pytest.mark.slow])
    for name, make in MIXERS.items()
]


@pytest.mark.parametrize("mixer", EACH)
def test_parameters_outputs_and_gradients_stay_float32(mixer):
    tokens = jnp.array([0, 3, 1])
    full, mixed = model("float32", mixer), model("bfloat16", mixer)

    def loss(m):
        return jnp.sum(jnp.sin(m(tokens)))

    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    for a, b in zip(jax.tree.leaves(gradient(full)), jax.tree.leaves(gradient(mixed)), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        size = float(jnp.linalg.norm(a)) + 1e-6
        assert float(jnp.linalg.norm(a - b)) < 0.1 * size
    assert not np.array_equal(full(tokens), mixed(tokens))


def test_the_layer_that_makes_delta_is_not_rounded():
    mixed = model("bfloat16")
    assert isinstance(mixed.blocks[0].mixer.core.x_proj, Bfloat16Linear)
    assert isinstance(mixed.blocks[0].mixer.core.dt_proj, eqx.nn.Linear)
    assert isinstance(mixed.readout, Bfloat16Linear)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_half_the_digits_become_float32_and_nothing_else_changes(dtype, x64):
    x = jnp.ones((3, 2), dtype)
    z = as_complex(x)
    digits = 64 if dtype == "float64" else 32
    assert at_least_float32(x).dtype == f"float{digits}"
    assert z.dtype == f"complex{2 * digits}"
    np.testing.assert_array_equal(z, [1 + 1j] * 3)


@pytest.mark.parametrize("mixer", EACH)
def test_a_model_of_products_in_bfloat16_reads_in_pieces(mixer):
    mixed, tokens = model("bfloat16", mixer), jnp.array([0, 3, 1])
    y, state = mixed.read(tokens[:2], mixed.init(3))
    z, _ = mixed.read(tokens[2:], state)
    np.testing.assert_allclose(jnp.concatenate([y, z]), mixed(tokens), rtol=2e-2, atol=2e-2)


def test_another_name_is_refused(own_errors):
    with pytest.raises(ValueError, match="products: got 'float16'"):
        with_products(None, "float16")
