"""What the theory says each model can and cannot see (`Cirone et al., 2024`, §4).

For paths that are linear between samples, a linear readout of one diagonal CDE's last state is
ψ(ω_1) + ∫ φ(ω_1 − ω_s) dξ_s. Of the signature it contains the words i·(j_1 ⧢ … ⧢ j_k), a first
letter and then a shuffle product of letters, and no others.
"""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import signax

from ssm.cde import Euler, ExactFlow
from ssm.mixers import S4, LinearCDE
from ssm.model import SequenceModel
from tasks.paths import rounded_random_walks
from tasks.signature import SignatureTask


def path_from(increments):
    return jnp.concatenate([jnp.zeros_like(increments[:1]), jnp.cumsum(increments, axis=0)])


def linear_cde(d_hidden, channels, structure, solver):
    """A random linear CDE with ω = ξ = (t, X), in float64 where that is enabled."""
    layer = LinearCDE(
        d_hidden,
        channels=channels,
        structure=structure,
        gate_omega="path",
        gate_xi="path",
        solver=solver,
        key=jr.key(0),
    )
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.result_type(float)) if eqx.is_inexact_array(leaf) else leaf,
        layer,
    )


def signature_term(path, *words):
    """Σ S^w over the words, for letters from 1, by signax."""
    levels = signax.signature(path, max(map(len, words)), flatten=False)
    return sum(levels[len(word) - 1][*(letter - 1 for letter in word)] for word in words)


def shuffles(first, rest):
    """The words of i·(j_1 ⧢ … ⧢ j_k), with their multiplicities."""
    return [(first, *order) for order in itertools.permutations(rest)]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_linear_s4_stack_is_a_linear_functional(depth):
    """Superposition: f(αX + βY) = α f(X) + β f(Y) once the constant term is taken off."""
    model = SequenceModel(
        functools.partial(S4, d_state=8),
        d_model=16,
        depth=depth,
        activation="identity",
        norm=False,
        pooling="mean",
        channels=2,
        n_outputs=1,
        key=jr.key(0),
    )
    x, y = jr.normal(jr.key(1), (2, 30, 2))
    constant = model(jnp.zeros_like(x))
    f = jax.jit(lambda v: model(v) - constant)
    np.testing.assert_allclose(f(2 * x - 3 * y), 2 * f(x) - 3 * f(y), rtol=1e-4, atol=1e-4)


def homogeneous(structure, solver):
    """The last state of dZ = Σ A_i Z dω^i, ω = (t, X), from Z_0 = (1, …, 1), for X_0 = 0."""
    layer = linear_cde(6, 2, structure, solver)
    layer = eqx.tree_at(
        lambda cde: (cde.b, cde.initial_bias),
        layer,
        (jnp.zeros_like(layer.b), jnp.ones_like(layer.initial_bias)),
    )
    return jax.jit(lambda increments: layer(path_from(increments))[0][-1])


def increments_of_one_sum():
    """Eight increments, the same in another order, and five others with the same sum."""
    increments = jr.normal(jr.key(1), (8, 2), jnp.float64)
    reordered = increments[jnp.array([3, 1, 0, 2, 7, 5, 4, 6])]
    others = jr.normal(jr.key(2), (5, 2), jnp.float64)
    others = (
        others
        + jnp.mean(increments, axis=0, keepdims=True) * 8 / 5
        - jnp.mean(others, axis=0, keepdims=True)
    )
    return increments, reordered, others


def test_a_homogeneous_diagonal_cde_sees_the_sum_of_increments_only(x64):
    """§4.4: of the homogeneous part only ψ(ω_1) survives, whatever the samples between."""
    increments, reordered, others = increments_of_one_sum()
    final_state = homogeneous("diagonal", ExactFlow())
    expected = final_state(increments)
    np.testing.assert_allclose(final_state(reordered), expected, rtol=1e-12)
    np.testing.assert_allclose(final_state(others), expected, rtol=1e-12)
    np.testing.assert_allclose(final_state(increments.sum(axis=0)[None]), expected, rtol=1e-12)
    assert np.max(np.abs(final_state(2 * increments) - expected)) > 1e-2


def test_eulers_scheme_makes_a_homogeneous_diagonal_cde_see_the_multiset_of_increments(x64):
    """Π_s (1 + a·Δω_s) does not depend on the order of the increments; on more than their sum."""
    increments, reordered, others = increments_of_one_sum()
    final_state = homogeneous("diagonal", Euler())
    expected = final_state(increments)
    np.testing.assert_allclose(final_state(reordered), expected, rtol=1e-12)
    assert np.max(np.abs(final_state(others) - expected)) > 1e-2
    halved = jnp.repeat(increments / 2, 2, axis=0)
    assert np.max(np.abs(final_state(halved) - expected)) > 1e-2


@pytest.mark.parametrize("solver", [ExactFlow(substeps=4), Euler()], ids=["exact", "Euler"])
def test_a_homogeneous_dense_cde_sees_the_order_of_increments(solver, x64):
    increments, reordered, _ = increments_of_one_sum()
    final_state = homogeneous("dense", solver)
    assert np.max(np.abs(final_state(increments) - final_state(reordered))) > 1e-2


def test_the_driven_diagonal_cde_is_the_sum_the_theory_gives(x64):
    """Z_1 = ψ(ω_1) Z_0 + ∫ φ(ω_1 − ω_s) dξ_s: it depends on each increment and the *sum* of the
    later ones."""
    layer = linear_cde(6, 2, "diagonal", ExactFlow())
    x = path_from(jr.normal(jr.key(1), (9, 2), jnp.float64))
    d_omega = jnp.concatenate([jnp.full((9, 1), 1 / 9, jnp.float64), jnp.diff(x, axis=0)], axis=1)
    m = np.asarray(d_omega @ layer.a)
    later = np.cumsum(m[::-1], axis=0)[::-1]  # Σ_{r ≥ s} a·Δω_r
    z0 = np.asarray(layer.initial_weight @ x[0] + layer.initial_bias)
    expected = np.exp(later[0]) * z0
    for s in range(9):
        rest = later[s + 1] if s + 1 < 9 else 0
        expected += np.exp(rest) * np.expm1(m[s]) / m[s] * np.asarray(layer.b @ d_omega[s])
    np.testing.assert_allclose(layer(x)[0][-1], expected, rtol=1e-10)


NODES = 17
"""Exponentials per direction of `constructed`."""


def constructed(first, rest, channels):
    """A diagonal CDE and a readout of its last state that give the term i·(j_1 ⧢ … ⧢ j_k).

    That term is ∫ φ(ω_1 − ω_s) dX^i_s with φ(u) = u^{j_1} ⋯ u^{j_k}. A product is a sum of powers
    (polarisation), and a power a sum of exponentials, up to u^NODES:

        u^{j_1} ⋯ u^{j_k} = 2^{−k} Σ_{σ ∈ {±1}^k} σ_1 ⋯ σ_k (Σ_m σ_m u^{j_m})^k / k!
        v^k / k! ≈ Σ_n w_n exp(x_n v),      Σ_n w_n x_n^m = 1 if m = k, else 0, for m < NODES

    Each exponential is a mode of the CDE: A_j = x_n Σ_m σ_m [j_m = j], B = 1 for dX^i.
    """
    k = len(rest)
    nodes = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    powers = nodes ** np.arange(NODES)[:, None]
    weights = np.linalg.solve(powers, np.arange(NODES) == k)
    a, readout = [], []
    for signs in itertools.product((1, -1), repeat=k):
        direction = np.zeros(1 + channels)
        np.add.at(direction, list(rest), signs)
        a.append(direction[:, None] * nodes)
        readout.append(np.prod(signs) / 2**k * weights)
    d_hidden = NODES * 2**k
    layer = linear_cde(d_hidden, channels, "diagonal", ExactFlow())
    layer = eqx.tree_at(
        lambda cde: (cde.a, cde.b, cde.initial_weight, cde.initial_bias),
        layer,
        (
            jnp.asarray(np.concatenate(a, axis=1)),
            jnp.zeros_like(layer.b).at[:, first].set(1),
            jnp.zeros_like(layer.initial_weight),
            jnp.zeros_like(layer.initial_bias),
        ),
    )
    return layer, np.concatenate(readout)


@pytest.mark.parametrize(
    ("first", "rest"),
    [(1, (2,)), (2, (1,)), (1, (2, 2)), (1, (2, 2, 2)), (1, (2, 3)), (3, (1, 1, 2))],
    ids=["12", "21", "122", "1222", "123+132", "3(1⧢1⧢2)"],
)
def test_a_letter_and_then_a_shuffle_of_letters_is_in_a_diagonal_cde(first, rest, x64):
    """Among them the area, S^{122}, S^{1222} and S^{123} + S^{132}."""
    layer, readout = constructed(first, rest, channels=3)
    final_state = jax.jit(lambda x: layer(x)[0][-1])
    for seed in range(3):
        x = path_from(jr.normal(jr.key(seed), (12, 3), jnp.float64) / 6)
        expected = signature_term(x, *shuffles(first, rest))
        assert abs(expected) > 1e-3
        assert readout @ np.asarray(final_state(x)) == pytest.approx(float(expected), abs=1e-6)


def exchange(f, before, a, b):
    """What exchanging the last two steps, a and b after the steps `before`, changes in f."""
    return f(path_from(jnp.stack([*before, a, b]))) - f(path_from(jnp.stack([*before, b, a])))


def test_other_words_are_in_no_diagonal_cde(x64):
    """For every φ and ψ, exchanging the last two steps changes ψ(ω_1) + ∫ φ(ω_1 − ω_s) dξ_s by
    what depends on these two alone, as the terms of earlier steps see only their sum. The change
    of S^{112} and S^{123} depends on the steps before: no readout of a diagonal CDE gives them."""
    steps = jr.normal(jr.key(1), (6, 3), jnp.float64)
    before, other, (a, b) = steps[:2], steps[2:4], steps[4:]

    def depends_on_the_past(f):
        change, other_change = exchange(f, before, a, b), exchange(f, other, a, b)
        return np.max(np.abs(change - other_change))

    def state(structure):
        layer = linear_cde(6, 3, structure, ExactFlow(substeps=8))
        return jax.jit(lambda x: layer(x)[0][-1])

    def term(*words):
        return lambda x: signature_term(x, *words)

    for inside in (
        state("diagonal"),
        term((1, 2, 2)),
        term((1, 2, 2, 2)),
        term(*shuffles(1, (2, 3))),
    ):
        assert np.max(np.abs(exchange(inside, before, a, b))) > 1e-2
        assert depends_on_the_past(inside) < 1e-9
    for outside in (state("dense"), term((1, 1, 2)), term((1, 2, 3))):
        assert depends_on_the_past(outside) > 1e-1


def left_over(features, targets):
    """The RMSE of the affine predictor of least squares over that of predicting zero: on the first
    four fifths of the paths, where it is fitted, and on the rest."""
    design = np.column_stack([features, np.ones(len(features))])
    cut = len(design) * 4 // 5
    weights = np.linalg.lstsq(design[:cut], targets[:cut], rcond=None)[0]
    errors = design @ weights - targets

    def ratio(part):
        return np.sqrt(np.mean(errors[part] ** 2, axis=0) / np.mean(targets[part] ** 2, axis=0))

    return ratio(slice(cut)), ratio(slice(cut, None))


def last_states(structure, d_hidden, paths):
    layer = linear_cde(d_hidden, paths.shape[2], structure, ExactFlow())
    return np.asarray(jax.jit(jax.vmap(lambda x: layer(x)[0][-1]))(paths))


def left_over_of_terms(features, paths, terms):
    """`left_over` of Σ S^w for each list of words."""
    targets = jax.vmap(lambda x: jnp.stack([signature_term(x, *words) for words in terms]))(paths)
    return left_over(features, np.asarray(targets))


@pytest.mark.slow
def test_random_diagonal_features_predict_122_and_1222_but_not_112(x64):
    """Of S^{112}, more is left even on the paths of the fit than half as many dense features leave
    on fresh ones."""
    paths = jnp.asarray(rounded_random_walks(4000, 20, 2, 0).paths, jnp.float64)
    terms = [[(1, 2)], [(1, 2, 2)], [(1, 2, 2, 2)], [(1, 1, 2)]]
    fitted, fresh = left_over_of_terms(last_states("diagonal", 128, paths), paths, terms)
    assert np.max(fresh[:3]) < 0.05
    _, dense = left_over_of_terms(last_states("dense", 64, paths), paths, terms)
    assert dense[3] < 0.4 < fitted[3]


@pytest.mark.slow
def test_random_diagonal_features_predict_123_only_through_its_sum_with_132(x64):
    """S^{123} is half that sum and half the difference S^{123} − S^{132}, which is as large,
    uncorrelated, and out of reach: about √½ of S^{123} is left."""
    paths = jnp.asarray(rounded_random_walks(4000, 20, 3, 0).paths, jnp.float64)
    both, alone = [(1, 2, 3), (1, 3, 2)], [(1, 2, 3)]
    features = last_states("diagonal", 256, paths)
    fitted, fresh = left_over_of_terms(features, paths, [both, alone])
    assert fresh[0] < 0.1
    assert fitted[1] > 0.6
    known = jax.vmap(lambda x: signature_term(x, *both)[None])(paths)
    for left in left_over_of_terms(np.asarray(known), paths, [alone]):
        assert left == pytest.approx([0.69], abs=0.04)


def test_random_features_of_either_structure_beat_every_linear_predictor_on_area():
    task = SignatureTask(n_paths=2000, length=30)
    data = task.load()
    paths, labels = (np.concatenate(both) for both in zip(data.train, data.validation, strict=True))
    baselines = task.baselines(data)
    best_linear = min(baselines.values()) / baselines["rmse_zero"]
    for structure, most in (("dense", 0.2), ("diagonal", 0.1)):
        features = last_states(structure, 64, paths).astype(np.float64)
        _, fresh = left_over(features, labels)
        assert fresh < most * best_linear
