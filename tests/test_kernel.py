"""The fused kernel: interpreted, against the sequential form; and that it lowers for CUDA."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_blocked import SHARED, assert_close, make, selective, solved, values_and_gradients

from ssm.scans import forms, scan, sequential
from ssm.scans import kernel as module
from ssm.scans.kernel import kernel, kernel_runs

interpreted = partial(kernel, interpret=True)


def batch_of(arrays, size):
    factors = jnp.linspace(0.5, 1, size, dtype=arrays[0].dtype)
    return [
        v if axis is None else jnp.stack([f * v for f in factors])
        for v, axis in zip(arrays, SHARED, strict=True)
    ]


@pytest.fixture
def small(monkeypatch):
    """Tiles and chunks that cut even small problems in several."""
    monkeypatch.setattr(module, "TILE", 32)
    monkeypatch.setattr(module, "TILE_STATES", 8)
    monkeypatch.setattr(module, "CHUNK", 2)


# One step; two tiles of states, a chunk that is not full, and a batch; two tiles of channels, none
# full in either axis, and full chunks.
@pytest.mark.parametrize(
    ("shape", "batch"), [((1, 4, 6), 0), ((7, 16, 3), 2), ((20, 5, 6), 0)], ids=str
)
@pytest.mark.parametrize("state", [True, False])
def test_values_and_all_gradients(x64, small, shape, batch, state):
    """From a given state, or zero; also of the last state."""
    arrays = make(*shape)
    axes = None
    if batch:
        arrays, axes = batch_of(arrays, batch), SHARED
    if not state:
        arrays, axes = arrays[:5], None if axes is None else axes[:5]
    want = values_and_gradients(sequential, arrays, axes)
    assert_close(values_and_gradients(interpreted, arrays, axes), want, atol=1e-12)


def test_a_gradient_of_the_last_state_alone(x64, small):
    """∂y is then zero, and the adjoint starts from ∂h_L."""
    arrays = make(7, 5, 6)

    def gradients(form):
        def loss(*arrays):
            return jnp.sum(jnp.sin(solved(form, *arrays)[1]))

        return jax.jit(jax.grad(loss, argnums=tuple(range(6))))(*arrays)

    for got, want in zip(gradients(interpreted), gradients(sequential), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_shared_arguments_are_not_copied():
    arrays = batch_of(make(5, 4, 3, jnp.float32), 2)

    def total(*arrays):
        return jnp.sum(jax.vmap(partial(solved, kernel), in_axes=SHARED)(*arrays)[0])

    jaxpr = jax.make_jaxpr(jax.grad(total, argnums=3))(*arrays)
    kernels = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "pallas_call"]
    assert len(kernels) == 2
    for call in kernels:
        shapes = [v.aval.shape for v in call.invars[:6]]
        assert shapes == [(3, 4), (2, 3, 4), (2, 5, 3), (2, 5, 3), (2, 5, 4), (2, 5, 4)]


def test_it_is_causal(small):
    arrays = make(9, 4, 3, jnp.float32)
    run = jax.jit(lambda value: solved(interpreted, *arrays[:3], value, *arrays[4:])[0])
    before, after = run(arrays[3]), run(arrays[3].at[5].add(1.0))
    np.testing.assert_array_equal(before[:5], after[:5])
    assert np.all(before[5:] != after[5:])


@pytest.mark.parametrize("shape", [(32, 100, 256, 256), (32, 20, 64, 1024), (2, 7, 5, 6)], ids=str)
def test_forward_and_backward_lower_for_cuda(shape):
    """Every operation of both kernels is one that Triton has, at real sizes."""
    batch, length, n, m = shape
    one = jax.eval_shape(lambda: make(length, n, m, jnp.float32))
    arrays = [
        v if axis is None else jax.ShapeDtypeStruct((batch, *v.shape), v.dtype)
        for v, axis in zip(one, SHARED, strict=True)
    ]

    def loss(*arrays):
        y, last = jax.vmap(partial(solved, kernel), in_axes=SHARED)(*arrays)
        return jnp.sum(y**2) + jnp.sum(last**2)

    traced = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).trace(*arrays)
    try:
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:  # JAX after 0.10.2 also compiles here, with its CUDA plugin
        if "Triton compilation handler" not in str(error):
            raise
        pytest.skip(str(error))
    assert text.count("stablehlo.custom_call") == text.count("triton_kernel_call") + text.count(
        "xla.gpu.triton"
    )
    assert text.count("stablehlo.custom_call") == 2


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "batch"), [((1, 4, 6), 0), ((20, 40, 96), 3), ((100, 256, 64), 2)], ids=str
)
def test_on_a_gpu(shape, batch):
    arrays = make(*shape, dtype=jnp.float32)
    if not kernel_runs(*arrays):
        pytest.skip("needs a CUDA GPU of compute capability 8.0")
    axes = None
    if batch:
        arrays, axes = batch_of(arrays, batch), SHARED
    want = values_and_gradients(sequential, arrays, axes)
    assert_close(values_and_gradients(kernel, arrays, axes), want, rtol=1e-4, atol=1e-4)


@pytest.fixture
def with_gpu(monkeypatch):
    def pretend(capability):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        device = SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "devices", lambda: [device])

    return pretend


@pytest.mark.parametrize(
    ("capability", "runs"),
    [("7.5", False), ("8.0", True), ("9.0", True), ("12.0", True), ("gfx90a", False)],
)
def test_where_the_kernel_runs(with_gpu, capability, runs):
    arrays = make(3, 4, 4, jnp.float32)
    with_gpu(capability)
    assert kernel_runs(*arrays) == runs


@pytest.mark.parametrize(("sizes", "dtype"), [((0, 4, 4), "float32"), ((3, 4, 4), "float64")])
def test_what_the_kernel_does_not_take(x64, with_gpu, sizes, dtype):
    """An empty sequence, or double precision: the scan is another."""
    arrays = make(*sizes, dtype=jnp.dtype(dtype))
    with_gpu("9.0")
    assert not kernel_runs(*arrays)
    assert "kernel" not in forms(selective(*arrays[:5]))


def test_the_kernel_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    arrays = make(3, dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"form: got 'kernel' for Decay; expected one of"):
        scan(selective(*arrays[:5]), arrays[5], form="kernel")
