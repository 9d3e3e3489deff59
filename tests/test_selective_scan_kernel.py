"""The fused kernel: interpreted, against the sequential oracle; and that it lowers for CUDA."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssm import selective_scan_kernel as module
from ssm.selective_scan import selective_scan_sequential
from ssm.selective_scan_kernel import kernel_runs, selective_scan_kernel

NAMES = ("y", "x", "delta", "a", "b", "c", "d")
SHARED_A = (0, 0, None, 0, 0, None)


def make(length, d_model, d_state, dtype=np.float64, batch=()):
    draw = np.random.default_rng(0).normal
    arguments = (
        draw(size=(*batch, length, d_model)),
        np.log1p(np.exp(draw(size=(*batch, length, d_model)))),
        -np.exp(draw(size=(d_model, d_state))),
        draw(size=(*batch, length, d_state)),
        draw(size=(*batch, length, d_state)),
        np.linspace(-1, 1, d_model),
    )
    return tuple(jnp.asarray(v, dtype) for v in arguments)


def abstract(length, d_model, d_state, batch):
    """Shapes of float32 arguments, without the arrays."""
    shapes = [
        (batch, length, d_model),
        (batch, length, d_model),
        (d_model, d_state),
        (batch, length, d_state),
        (batch, length, d_state),
        (d_model,),
    ]
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def interpreted(*arguments):
    return selective_scan_kernel(*arguments, interpret=True)


def values_and_gradients(function, arguments):
    """y, and the gradients of a weighted sum of y."""
    shape, dtype = arguments[0].shape, arguments[0].dtype
    weights = jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)

    def loss(*args):
        y = function(*args)
        return jnp.sum(weights * y), y

    gradient = jax.jit(jax.grad(loss, argnums=tuple(range(6)), has_aux=True))
    gradients, y = gradient(*arguments)
    return y, *gradients


def compare(got, expected, **tolerance):
    for name, g, e in zip(NAMES, got, expected, strict=True):
        np.testing.assert_allclose(g, e, err_msg=name, **tolerance)


@pytest.fixture
def small(monkeypatch):
    """Tiles and chunks that cut even small problems in several."""
    monkeypatch.setattr(module, "TILE", 32)
    monkeypatch.setattr(module, "TILE_STATES", 8)
    monkeypatch.setattr(module, "CHUNK", 2)


# One step; two tiles of states, a chunk that is not full, and a batch; two tiles of channels, none
# full in either axis, and full chunks.
@pytest.mark.parametrize(
    ("shape", "batch"), [((1, 6, 4), ()), ((7, 3, 16), (2,)), ((20, 6, 5), ())], ids=str
)
def test_values_and_all_gradients(x64, small, shape, batch):
    arguments = make(*shape, batch=batch)

    def run(form):
        batched = jax.vmap(form, in_axes=SHARED_A) if batch else form
        return values_and_gradients(batched, arguments)

    compare(run(interpreted), run(selective_scan_sequential), rtol=1e-9, atol=1e-12)


def test_shared_arguments_are_not_copied():
    arguments = make(5, 3, 4, jnp.float32, batch=(2,))
    batched = jax.vmap(selective_scan_kernel, in_axes=SHARED_A)
    gradient = jax.make_jaxpr(jax.grad(lambda *v: jnp.sum(batched(*v)), argnums=0))(*arguments)
    shapes = [v.shape for v in arguments]
    kernels = [e for e in gradient.jaxpr.eqns if e.primitive.name == "pallas_call"]
    assert len(kernels) == 2
    for kernel in kernels:
        assert [v.aval.shape for v in kernel.invars[:6]] == shapes


def test_it_is_causal(small):
    x, *others = make(9, 3, 4, jnp.float32)
    scan = jax.jit(interpreted)
    before, after = scan(x, *others), scan(x.at[5].add(1.0), *others)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert np.all(before[5:] != after[5:])


@pytest.mark.parametrize("shape", [(32, 100, 256, 256), (32, 20, 1024, 64), (2, 7, 6, 5)], ids=str)
def test_forward_and_backward_lower_for_cuda(shape):
    """Every operation of both kernels is one that Triton has, at real sizes."""
    batch, *sizes = shape
    arguments = abstract(*sizes, batch)

    def loss(*args):
        return jnp.sum(jax.vmap(selective_scan_kernel, in_axes=SHARED_A)(*args) ** 2)

    traced = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).trace(*arguments)
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
    ("shape", "batch"), [((1, 6, 4), ()), ((20, 96, 40), (3,)), ((100, 64, 256), (2,))], ids=str
)
def test_on_a_gpu(shape, batch):
    arguments = make(*shape, jnp.float32, batch=batch)
    if not kernel_runs(*arguments):
        pytest.skip("needs a CUDA GPU of compute capability 8.0")

    def run(form):
        batched = jax.vmap(form, in_axes=SHARED_A) if batch else form
        return values_and_gradients(batched, arguments)

    compare(run(selective_scan_kernel), run(selective_scan_sequential), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("capability", "runs"),
    [("7.5", False), ("8.0", True), ("9.0", True), ("12.0", True), ("gfx90a", False)],
)
def test_where_the_kernel_runs(monkeypatch, capability, runs):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert kernel_runs(*make(3, 4, 4, jnp.float32)) == runs


@pytest.mark.parametrize("length", [0, 3])
def test_what_the_kernel_does_not_take(x64, own_errors, monkeypatch, length):
    """Double precision, or an empty sequence; and dtypes that differ are an error."""
    dtype = jnp.float32 if length == 0 else jnp.float64
    arguments = make(length, 4, 4, dtype)
    assert not kernel_runs(*make(3, 4, 4, jnp.float32)) or jax.default_backend() == "gpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability="9.0")])
    assert not kernel_runs(*arguments)
    with pytest.raises(ValueError, match="expected one dtype, nothing empty"):
        selective_scan_kernel(arguments[0].astype(jnp.float32), *arguments[1:])
