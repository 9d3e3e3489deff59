"""What every mixer promises, for every mixer there is (`families.py`), in float64.

Forms are held against the sequential one, which is held against `step`; each family's own test file
holds it against an independent implementation.
"""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from families import ADAPTIVE, FAMILIES, MIXERS, RECURRENT, WIDTH

from ssm.control import Embedded
from ssm.mixers import AbstractRecurrentMixer, LinearCDE
from ssm.model import SequenceModel
from ssm.recurrence import Heads
from ssm.scans import forms

LENGTHS = (0, 1, 2, 7, 100, 1000)
LATER = (np.nan, np.inf, 1e30)
EXACT = [n for n in FAMILIES if n not in ADAPTIVE]


def each(names):
    """Every mixer with its defaults; with other options it is tested by `make test-slow`."""
    return [pytest.param(n, marks=pytest.mark.slow) if "," in n else n for n in names]


def build(name, dtype=jnp.float64):
    """In inference mode, so that attention has no dropout; and of a linear CDE whose time does not
    depend on the length, so that a prefix gives the prefix."""
    make = MIXERS[name]
    options = {"dt": 1 / 40} if issubclass(getattr(make, "func", make), LinearCDE) else {}
    return cast(eqx.nn.inference_mode(make(WIDTH, **options, key=jr.key(0))), dtype)


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def sequence(length, scale=0.1, dtype=jnp.float64):
    return scale * jr.normal(jr.key(1), (length, WIDTH), dtype)


def outcome(compute):
    """What is computed, or None, and the text of the error."""
    try:
        return jax.block_until_ready(compute()), ""
    except Exception as error:
        return None, str(error)


def stream(mixer, x):
    return jax.lax.scan(mixer.step, mixer.init(max(1, len(x))), x)[1]


def assert_close(got, want, tolerance):
    """To the tolerance relative to the largest number of each array."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        size = float(jnp.max(jnp.abs(b))) if b.size else 0.0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(size, 1e-3))


def values_and_gradients(read, mixer, x):
    """Of a weighted sum of the outputs, with respect to all parameters and the input."""
    params, static = eqx.partition(mixer, eqx.is_inexact_array)
    weights = jr.normal(jr.key(2), x.shape, x.dtype)

    def loss(params, x):
        y = read(eqx.combine(params, static), x)
        return jnp.sum(y * weights), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    return y, gradients


@pytest.mark.parametrize("lengths", [(0, 7, 100), pytest.param(LENGTHS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", each(EXACT))
def test_one_step_after_the_other_gives_the_whole(name, lengths, x64):
    """Values at every length, and all gradients."""
    mixer = build(name)
    streamed = jax.jit(lambda x: stream(mixer, x))(sequence(LENGTHS[-1]))
    whole = jax.jit(lambda x: mixer(x)[0])
    for length in lengths:
        y = whole(sequence(LENGTHS[-1])[:length])
        assert y.shape == (length, WIDTH)
        assert_close(y, streamed[:length], 1e-10)
    x = sequence(100)
    want = values_and_gradients(lambda m, x: m(x)[0], mixer, x)
    assert_close(values_and_gradients(stream, mixer, x), want, 1e-9)


@pytest.mark.parametrize("name", each(ADAPTIVE))
def test_an_adaptive_solver_s_steps_give_the_whole_to_its_tolerance(name, x64):
    mixer, x = build(name), sequence(7)
    whole = jax.jit(lambda x: mixer(x)[0])(x)
    assert_close(jax.jit(lambda x: stream(mixer, x))(x), whole, 1e-2)
    for length in (0, 1):
        assert mixer(sequence(length))[0].shape == (length, WIDTH)


@pytest.mark.parametrize("lengths", [(130,), pytest.param((1, 2), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", each(RECURRENT))
def test_every_form_that_a_structure_admits_gives_the_sequential_one(name, lengths, x64):
    """Values, last states and all gradients, from zero and from a given state; a length beyond each
    form's chunks, which do not divide it."""
    for length in lengths:
        x, want = sequence(length), None
        admitted = admitted_forms(build(name), x)
        assert len(admitted) > 1
        for form in admitted:
            mixer = cast(MIXERS[name](WIDTH, form=form, key=jr.key(0)), jnp.float64)
            start = jax.tree.map(lambda h: h + 0.3, mixer.init())

            def outputs_and_last_state(m, x, start=start):
                y, last = m(x, start)
                return m(x)[0] + 0.5 * y + jnp.sum(jnp.abs(last) ** 2)

            got = values_and_gradients(outputs_and_last_state, mixer, x)
            want = want or got
            assert_close(got, want, 1e-9)


def admitted_forms(mixer, x):
    from ssm.recurrence import stack

    r = stack(lambda x: mixer.element(x, None), x)
    return forms(r if not isinstance(r, Heads) else at_head(r.each))


def at_head(each):
    from ssm.recurrence import join, split

    varying, constant = split(each)
    return join(jax.tree.map(lambda x: x[:, 0], varying), jax.tree.map(lambda x: x[0], constant))


@pytest.mark.parametrize("name", each(EXACT))
def test_three_pieces_give_the_whole(name, x64):
    mixer, x = build(name), sequence(131)
    whole, last = jax.jit(lambda x: mixer(x))(x)
    read = jax.jit(lambda x, s: mixer(x, s))
    for cuts in ((1, 2), (64, 128)):
        state, pieces = mixer.init(len(x)), []
        for piece in np.split(np.asarray(x), cuts):
            y, state = read(jnp.asarray(piece), state)
            pieces.append(y)
        assert_close(jnp.concatenate(pieces), whole, 1e-10)
        assert_close(state, last, 1e-10)


@pytest.mark.parametrize("name", each(EXACT))
def test_a_batch_of_one_is_the_batch(name, x64):
    mixer, x = build(name), jnp.stack([sequence(20), -sequence(20), 0.5 * sequence(20)])
    batched = jax.jit(lambda x: jax.vmap(lambda x: mixer(x)[0])(x))(x)
    for one, y in zip(x, batched, strict=True):
        assert_close(jax.jit(lambda x: mixer(x)[0])(one), y, 1e-12)


@pytest.mark.parametrize("name", MIXERS)
def test_no_parameter_is_weakly_typed(name):
    """A weak type changes at the first update, and the training step is compiled again."""
    for leaf in jax.tree.leaves(eqx.filter(MIXERS[name](WIDTH, key=jr.key(0)), eqx.is_array)):
        assert not leaf.weak_type
        assert leaf.dtype == jnp.float32


@pytest.mark.parametrize("name", each(FAMILIES))
def test_the_gradient_of_an_output_to_later_inputs_is_zero(name, x64):
    mixer = build(name)
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.sum(mixer(x)[0] ** 2, axis=-1)))(sequence(9))
    # Diffrax's adjoint sums the cotangents of a path that it interpolates: zero but for rounding.
    rounding = 1e-12 * float(jnp.max(jnp.abs(jacobian))) if name in ADAPTIVE else 0.0
    for t in range(9):
        assert np.max(np.abs(jacobian[t, t + 1 :]), initial=0.0) <= rounding
        assert np.any(jacobian[t, t])


@pytest.mark.parametrize("name", each(FAMILIES))
def test_what_comes_later_changes_no_earlier_output(name):
    """NaN, infinity and 1e30, bit for bit, in every form, at lengths on both sides of where forms
    or chunks change."""
    mixers, lengths = {"auto": build(name, jnp.float32)}, (9, 70)
    if name in RECURRENT:
        lengths = (9, 300)
        for form in admitted_forms(mixers["auto"], sequence(2, dtype=jnp.float32)):
            mixers[form] = MIXERS[name](WIDTH, form=form, key=jr.key(0))
    for (form, mixer), length in itertools.product(mixers.items(), lengths):
        x = sequence(length, dtype=jnp.float32)
        read = jax.jit(lambda x, m=mixer: m(x)[0])
        want = read(x)
        for later, t in itertools.product(LATER, (1, length // 2, length - 1)):
            if name in ADAPTIVE and not np.isfinite(later):
                continue  # the solver looks for a step that is small enough, and gives up
            got, error = outcome(functools.partial(read, x.at[t].set(later)))
            if got is None:  # a series that has not converged, or too many steps
                assert "substeps" in error or "maximum number" in error, (form, error)
                continue
            np.testing.assert_array_equal(got[:t], want[:t], err_msg=f"{form}, {length}, {t}")
            assert not np.array_equal(got[t], want[t])


@pytest.mark.parametrize("name", each(FAMILIES))
def test_tokens_are_their_embeddings(name, x64):
    mixer = build(name)
    table, tokens = sequence(5), jnp.array([0, 3, 3, 1, 4, 2, 0])
    want = jax.jit(lambda t: mixer(t[tokens])[0])(table)
    got = jax.jit(lambda t: mixer(Embedded(t, tokens))[0])(table)
    assert_close(got, want, 1e-5 if name in ADAPTIVE else 1e-10)


MODELS = {
    "none": {"vocabulary": 5},
    "mean": {"channels": WIDTH, "positions": True},
    "last": {"vocabulary": 5},
}


@pytest.mark.parametrize(
    ("name", "pooling"),
    [(n, p) for n in FAMILIES if n in EXACT and "," not in n for p in ("none", "mean")]
    + [("RNN", "last")],
)
def test_models_read_in_pieces(name, pooling, x64):
    """Two blocks, of tokens or of a path."""

    def mixer(d_model, key):
        return MIXERS[name](d_model, key=key)

    options = {"d_model": WIDTH, "depth": 2, "n_outputs": 3, "pooling": pooling} | MODELS[pooling]
    model = eqx.nn.inference_mode(SequenceModel(mixer, **options, key=jr.key(0)))
    x = jnp.array([0, 3, 3, 1, 4, 2, 0, 1, 1]) if "vocabulary" in options else sequence(9)
    want, got, state = eqx.filter_jit(model)(x), [], model.init(9)
    for piece in (x[:2], x[2:3], x[3:]):
        out, state = eqx.filter_jit(model.read)(piece, state)
        got.append(out)
    assert_close(jnp.concatenate(got) if pooling == "none" else got[-1], want, 1e-10)
    outputs = jax.jit(lambda x: jax.lax.scan(model.step, model.init(9), x)[1])(x)
    assert_close(outputs if pooling == "none" else outputs[-1], want, 1e-10)


@pytest.mark.parametrize("name", each(FAMILIES))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_of_half_precision(name, dtype):
    """The result is of the input's type, and that of float32 to the digits there are."""
    half, x = build(name, dtype), sequence(20, dtype=jnp.float32)
    y = jax.jit(lambda x: half(x)[0])(x.astype(dtype))
    assert y.dtype == dtype
    full = cast(half, jnp.float32)
    rounded = x.astype(dtype).astype(jnp.float32)
    assert_close(y.astype(jnp.float32), jax.jit(lambda x: full(x)[0])(rounded), 0.1)


@pytest.mark.parametrize("name", each(EXACT))
def test_forward_mode_works_in_a_plain_form_and_the_error_names_it(name):
    mixer, x = MIXERS[name], sequence(5, dtype=jnp.float32)
    built = build(name, jnp.float32)

    def tangent(mixer):
        return jax.jit(lambda x: jax.jvp(lambda x: mixer(x)[0], (x,), (jnp.ones_like(x),))[1])(x)

    got, error = outcome(lambda: tangent(built))
    if got is None:
        assert "form='chunked'" in error
        got = tangent(eqx.nn.inference_mode(mixer(WIDTH, form="chunked", key=jr.key(0))))
    read = jax.jit(lambda x: built(x)[0])
    numerical = (read(x + 1e-2) - read(x - 1e-2)) / 2e-2
    assert_close(got, numerical, 2e-2)


@pytest.mark.parametrize("name", each(RECURRENT))
def test_the_matrix_is_what_a_transition_applies(name, x64):
    mixer = build(name)
    assert isinstance(mixer, AbstractRecurrentMixer)
    r = mixer.element(sequence(1)[0], None)
    one = jax.tree.map(lambda x: x[0], r.each) if isinstance(r, Heads) else r
    from ssm.transition import plain

    transition = plain(one.transition)
    h = mixer.start()[0] if isinstance(r, Heads) else mixer.start()
    h = h + jr.normal(jr.key(3), h.shape).astype(h.dtype)
    matrix = transition.matrix()
    if matrix.ndim == 2:
        want = jnp.tensordot(matrix, h, axes=1)
    else:
        want = jnp.einsum("mij,jm->im", matrix, h)
    assert_close(transition.apply(h), want, 1e-12)


@pytest.mark.parametrize("name", [n for n in FAMILIES if "," not in n])
def test_forms_of_calling_that_work(name):
    """As the base class documents them."""
    mixer, x = build(name, jnp.float32), sequence(4, dtype=jnp.float32)
    batch = x[None]
    want = jax.jit(lambda x: mixer(x)[0])(x)
    assert_close(eqx.filter_jit(mixer)(x)[0], want, 1e-5)
    assert_close(eqx.filter_jit(eqx.filter_vmap(mixer))(batch)[0][0], want, 1e-5)
    assert_close(jax.jit(jax.vmap(lambda x: mixer(x)[0]))(batch)[0], want, 1e-5)
    assert_close(jax.lax.scan(mixer.step, mixer.init(4), x)[1], want, 1e-2)
