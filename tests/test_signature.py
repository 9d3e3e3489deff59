"""Signature targets against closed forms, a float64 oracle, and independent packages."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.coordinates import signature_coordinates
from tasks.paths import rounded_random_walks
from tasks.signature import SignatureTask

# Series of tensors are lists of NumPy arrays, one per level from 1; the level 0 is given apart.


def tensor_product(left, right, left_unit, right_unit):
    """Levels of (left_unit + left) ⊗ (right_unit + right)."""
    product = []
    for level in range(len(left)):
        total = left_unit * right[level] + right_unit * left[level]
        for split in range(level):
            total = total + np.multiply.outer(left[split], right[level - 1 - split])
        product.append(total)
    return product


def oracle_signature(path, depth):
    """Float64 signature of a piecewise linear path: the product of its steps' exponentials."""
    levels = [np.zeros((path.shape[1],) * n) for n in range(1, depth + 1)]
    for step in np.diff(np.asarray(path, np.float64), axis=0):
        exponential = [step]
        for n in range(2, depth + 1):
            exponential.append(np.multiply.outer(exponential[-1], step) / n)
        levels = tensor_product(levels, exponential, 1.0, 1.0)
    return levels


def oracle_log_signature(path, depth):
    """log(1 + s) = s − s²/2 + s³/3 − …"""
    series = oracle_signature(path, depth)
    power, total = series, series
    for n in range(2, depth + 1):
        power = tensor_product(power, series, 0.0, 0.0)
        total = [t + (-1) ** (n + 1) * p / n for t, p in zip(total, power, strict=True)]
    return total


def at(levels, word):
    return levels[len(word) - 1][tuple(letter - 1 for letter in word)]


def coordinate(path, word, target="coordinate"):
    return float(signature_coordinates(np.asarray(path, np.float32)[None], word, target)[0])


def walk(seed, length=20, dimension=2):
    steps = np.random.default_rng(seed).normal(size=(length, dimension))
    return (np.cumsum(steps, axis=0) / length**0.5).astype(np.float32)


WORDS = [(1,), (2, 1), (1, 2), (1, 1), (1, 2, 3), (3, 1, 2), (2, 2, 1), (4, 1, 3, 2), (1, 3, 3, 4)]


@pytest.mark.parametrize("word", WORDS)
def test_coordinates_match_the_float64_oracle(word):
    for seed in range(3):
        path = walk(seed, dimension=4)
        expected = at(oracle_signature(path, len(word)), word)
        assert coordinate(path, word) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("word", [(1, 2), (2, 1), (1, 2, 3), (1, 1, 2), (1, 2, 1), (4, 1, 3, 2)])
def test_log_signature_coordinates_match_the_logarithm_by_hand(word):
    for seed in range(3):
        path = walk(seed, dimension=4)
        expected = at(oracle_log_signature(path, len(word)), word)
        assert coordinate(path, word, "log_signature") == pytest.approx(expected, abs=2e-5)


def sum_of_minors(path, word):
    """n! times the alternating sum at a word of n letters: in an antisymmetric tensor the product
    of the steps' exponentials keeps each step once at most, Σ_{k_1 < … < k_n} det(ΔX_{k_a}^{i_b}).
    """
    steps = np.diff(np.asarray(path, np.float64), axis=0)[:, [letter - 1 for letter in word]]
    chosen = list(itertools.combinations(range(len(steps)), len(word)))
    return np.linalg.det(steps[np.array(chosen)]).sum()


@pytest.mark.parametrize("word", [(1, 2), (3, 1), (1, 2, 3), (4, 1, 2), (4, 1, 3, 2)])
def test_alternating_coordinates_are_sums_of_minors(word):
    for seed in range(3):
        path = walk(seed, dimension=4)
        expected = sum_of_minors(path, word) / math.factorial(len(word))
        assert coordinate(path, word, "alternating") == pytest.approx(expected, abs=2e-5)


def test_alternating_123_is_a_product_of_increments_and_areas():
    """de Bruijn's formula: 3! times it is x_1 (S^{23} − S^{32}) and its cyclic images."""
    path = walk(0, dimension=3)
    levels = oracle_signature(path, 2)
    areas = levels[1] - levels[1].T
    expected = sum(levels[0][i] * areas[(i + 1) % 3, (i + 2) % 3] for i in range(3)) / 6
    assert coordinate(path, (1, 2, 3), "alternating") == pytest.approx(expected, abs=2e-5)


def test_alternating_coordinates_change_sign_with_two_channels_or_letters():
    path = walk(1, dimension=4)
    value = coordinate(path, (1, 2, 4), "alternating")
    assert abs(value) > 1e-3
    for exchanged in [(2, 1, 4), (4, 2, 1), (1, 4, 2)]:
        assert coordinate(path, exchanged, "alternating") == pytest.approx(-value, abs=1e-6)
        other = path.copy()
        other[:, [0, 1, 3]] = path[:, [letter - 1 for letter in exchanged]]
        assert coordinate(other, (1, 2, 4), "alternating") == pytest.approx(-value, abs=1e-6)


def test_the_volume_of_the_moment_curve():
    """The determinant of the velocities of (t, t², t³), over 3!, integrated over r < s < t."""
    t = np.linspace(0, 1, 401)
    curve = np.stack([t, t**2, t**3], axis=1)
    assert coordinate(curve, (1, 2, 3), "alternating") == pytest.approx(1 / 180, rel=1e-3)


def test_both_anti_symmetric_targets_are_half_the_difference_at_level_2():
    path = walk(0)
    half = (coordinate(path, (1, 2)) - coordinate(path, (2, 1))) / 2
    for target in ("log_signature", "alternating"):
        assert coordinate(path, (1, 2), target) == pytest.approx(half, abs=1e-6)


def test_at_level_3_the_log_signature_has_no_alternating_part():
    """Jacobi's identity: the alternating sum of log S is zero while that of S is not."""
    path = walk(2, dimension=3)
    permutations = [(1, 2, 3), (2, 3, 1), (3, 1, 2), (2, 1, 3), (1, 3, 2), (3, 2, 1)]
    logs = [coordinate(path, word, "log_signature") for word in permutations]
    assert sum(logs[:3]) - sum(logs[3:]) == pytest.approx(0, abs=1e-6)
    assert max(map(abs, logs)) > 1e-2
    assert abs(coordinate(path, (1, 2, 3), "alternating")) > 1e-2


def test_independent_package_esig():
    esig = pytest.importorskip("esig")
    for seed in range(3):
        path = walk(seed, dimension=3)
        values = np.asarray(esig.stream2sig(path.astype(np.float64), 3))
        keys = esig.sigkeys(3, 3).split()
        for word in [(1, 2, 3), (3, 1, 2), (2, 2, 1), (3, 3, 3)]:
            key = "(" + ",".join(map(str, word)) + ")"
            assert coordinate(path, word) == pytest.approx(values[keys.index(key)], abs=2e-5)


def test_independent_package_roughpy():
    roughpy = pytest.importorskip("roughpy")
    path = walk(0, dimension=4).astype(np.float64)
    context = roughpy.get_context(width=4, depth=4, coeffs=roughpy.DPReal)
    stream = roughpy.LieIncrementStream.from_increments(np.diff(path, axis=0), ctx=context)
    values = np.asarray(stream.signature(roughpy.RealInterval(0.0, 1000.0)))
    before = sum(4**level for level in range(4))
    for word in [(1, 2, 3, 4), (4, 1, 3, 2), (2, 2, 1, 3)]:
        index = before + sum((letter - 1) * 4**k for k, letter in enumerate(reversed(word)))
        assert coordinate(path, word) == pytest.approx(values[index], abs=2e-5)


@given(st.integers(0, 2**20), st.integers(1, 18))
@settings(max_examples=10, deadline=None)
def test_chen_identity(seed, cut):
    path = walk(seed, dimension=3)
    whole = coordinate(path, (1, 2, 3))
    word = (1, 2, 3)
    # Both parts have the shape of the whole path, the rest of it standing still, so that one
    # program serves all.
    head = np.concatenate([path[: cut + 1], np.repeat(path[cut : cut + 1], 19 - cut, axis=0)])
    tail = np.concatenate([np.repeat(path[cut : cut + 1], cut, axis=0), path[cut:]])
    joined = coordinate(head, word) + coordinate(tail, word)
    joined += sum(coordinate(head, word[:n]) * coordinate(tail, word[n:]) for n in (1, 2))
    assert whole == pytest.approx(joined, abs=1e-5)


def test_straight_line_gives_products_of_increments_over_factorials():
    start, step = np.array([0.3, -1.0, 2.0]), np.array([0.5, -0.8, 1.5])
    line = start + np.linspace(0, 1, 7)[:, None] ** 2 * step
    for word in [(1,), (1, 2), (3, 3), (1, 2, 3), (2, 2, 1, 3)]:
        product = math.prod(step[letter - 1] for letter in word)
        expected = product / math.factorial(len(word))
        assert coordinate(line, word) == pytest.approx(expected, rel=1e-5)


def test_levy_area_of_a_closed_polygon_is_the_shoelace_area():
    x, y = np.array([[0, 0], [4, 0], [5, 3], [2, 5], [-1, 2]], float).T
    shoelace = (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    polygon = np.stack([np.append(x, x[0]), np.append(y, y[0])], axis=1) + 10
    for target in ("coordinate", "log_signature", "alternating"):
        assert coordinate(polygon, (1, 2), target) == pytest.approx(shoelace, rel=1e-5)


def test_time_reversal_flips_area_and_inverts_the_signature():
    path = walk(3, dimension=3)
    backwards = path[::-1]
    for word in [(1, 2), (3, 1), (1, 2, 3), (2, 1, 1)]:
        forward = coordinate(path, word, "log_signature")
        assert coordinate(backwards, word, "log_signature") == pytest.approx(-forward, abs=1e-5)
        antipode = (-1) ** len(word) * coordinate(path, word[::-1])
        assert coordinate(backwards, word) == pytest.approx(antipode, abs=1e-5)
    for word, sign in [((1, 2), -1), ((1, 2, 3), 1)]:
        forward = coordinate(path, word, "alternating")
        assert coordinate(backwards, word, "alternating") == pytest.approx(sign * forward, abs=1e-5)
    there_and_back = np.concatenate([path, backwards])
    assert coordinate(there_and_back, (1, 2, 3)) == pytest.approx(0, abs=1e-5)


def test_first_point_does_not_matter():
    path = walk(5)
    assert coordinate(path + 3, (1, 2)) == pytest.approx(coordinate(path, (1, 2)), abs=1e-5)


def test_batches_do_not_change_the_labels(monkeypatch):
    paths = np.stack([walk(seed) for seed in range(11)])
    whole = signature_coordinates(paths, (1, 2))
    monkeypatch.setattr("tasks.coordinates.BATCH_NUMBERS", 4 * (6 + 40))
    np.testing.assert_allclose(signature_coordinates(paths, (1, 2)), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("dimension", "word", "rmse_zero"),
    [
        (2, (1, 2), 0.111950),
        pytest.param(3, (1, 2, 3), 0.058498, marks=pytest.mark.slow),
    ],
)
def test_published_data_set(dimension, word, rmse_zero):
    data = SignatureTask(dimension=dimension, word=word).load()
    labels = np.concatenate([data.train.targets, data.validation.targets])
    assert data.train.inputs.shape == (80_000, 100, dimension)
    assert data.validation.targets.shape == (20_000, 1)
    assert np.abs(labels).max() == 1
    rmse = np.sqrt(np.mean(data.validation.targets.astype(np.float64) ** 2))
    assert round(float(rmse), 6) == rmse_zero


@pytest.mark.slow
def test_log_signature_and_alternating_volume_are_uncorrelated_on_rounded_random_walks():
    """Exactly so for any law that keeps its form when channels are exchanged: averaged over their
    permutations with the sign, log S is zero. The anti-symmetric part is the alternating one."""
    paths = rounded_random_walks(20_000, 100, 3, 1234).paths
    targets = ("coordinate", "log_signature", "alternating")
    labels = [signature_coordinates(paths, (1, 2, 3), target) for target in targets]
    correlation = np.corrcoef(labels)
    assert abs(correlation[1, 2]) < 0.05
    assert correlation[0, 1] == pytest.approx(3**-0.5, abs=0.05)
    assert correlation[0, 2] == pytest.approx(6**-0.5, abs=0.05)


def test_labels_are_the_scaled_coordinates_of_the_inputs():
    task = SignatureTask(4, [4, 1, 3, 2], length=12, n_paths=40, train_fraction=0.75, seed=7)
    data = task.load()
    paths = np.concatenate([data.train.inputs, data.validation.inputs])
    targets = np.concatenate([data.train.targets, data.validation.targets])[:, 0]
    expected = np.array([at(oracle_signature(path, 4), (4, 1, 3, 2)) for path in paths])
    np.testing.assert_allclose(targets, expected / np.abs(expected).max(), atol=1e-5)
    assert len(data.train.inputs) == 30
    assert data.auxiliary is None


def test_loss_statistics_and_metrics():
    task = SignatureTask(n_paths=10)
    outputs, targets = jnp.array([[0.5], [1.0]]), jnp.array([[0.0], [-1.0]])
    np.testing.assert_allclose(jax.vmap(task.loss)(outputs, targets), [0.25, 4.0])
    np.testing.assert_allclose(jax.vmap(task.loss)(outputs, targets[:, 0]), [0.25, 4.0])
    np.testing.assert_allclose(jax.grad(task.loss)(outputs[1], targets[1]), [4.0])
    statistics = jax.vmap(task.statistics)(outputs, targets)
    means = {name: np.asarray(values).mean(axis=0) for name, values in statistics.items()}
    assert task.metrics(means) == pytest.approx({"rmse": 2.125**0.5, "loss": 2.125})


def test_linear_baseline_is_least_squares_and_sees_increments_but_not_area():
    increments = SignatureTask(word=(2,), length=8, n_paths=400)
    baselines = increments.baselines(increments.load())
    assert baselines["rmse_linear"] < 1e-6 < baselines["rmse_zero"]
    area = SignatureTask(length=8, n_paths=2_000)
    data = area.load()
    baselines = area.baselines(data)
    assert baselines["rmse_linear"] > 0.97 * baselines["rmse_zero"]
    design = [
        np.column_stack([split.inputs.reshape(len(split.inputs), -1), np.ones(len(split.inputs))])
        for split in (data.train, data.validation)
    ]
    weights = np.linalg.pinv(design[0].astype(np.float64)) @ data.train.targets
    errors = design[1] @ weights - data.validation.targets
    assert baselines["rmse_linear"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)


def test_linear_baseline_with_fewer_paths_than_features_is_finite():
    task = SignatureTask(length=30, n_paths=20)
    assert math.isfinite(task.baselines(task.load())["rmse_linear"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimension": 0}, "dimension must be an integer of at least 1, got 0"),
        ({"dimension": 2.0}, "dimension must be an integer of at least 1, got 2.0"),
        ({"dimension": True}, "dimension must be an integer of at least 1, got True"),
        ({"word": ()}, "word must hold one or more letters"),
        ({"word": (0, 1)}, "letters, integers from 1 to dimension=2, got"),
        ({"word": [1, 3]}, "letters, integers from 1 to dimension=2, got"),
        ({"word": (1, 2.0)}, "letters, integers from 1 to dimension=2, got"),
        ({"word": "12"}, "word must be a list or tuple of letters, got '12'"),
        ({"word": (1, 2) * 10}, "word must have at most 12 letters, got 20"),
        ({"dimension": 9, "word": (1,) * 6}, "at most 100,000 coefficients, got 6 letters in dim"),
        ({"length": 1}, "length must be an integer of at least 2, got 1"),
        ({"length": "abc"}, "length must be an integer of at least 2, got 'abc'"),
        ({"n_paths": 1}, "n_paths must be an integer of at least 2, got 1"),
        ({"n_paths": None}, "n_paths must be an integer of at least 2, got None"),
        ({"train_fraction": 1.0}, "train_fraction must be a number between 0 and 1, got 1.0"),
        ({"train_fraction": math.nan}, "train_fraction must be a number between 0 and 1, got nan"),
        ({"train_fraction": "x"}, "train_fraction must be a number between 0 and 1, got 'x'"),
        ({"n_paths": 3, "train_fraction": 0.1}, "train_fraction must leave examples on both sides"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"target": "area"}, "target must be one of .*, got 'area'"),
        ({"target": 3}, "target must be one of .*, got 3"),
        ({"target": "log_signature", "word": (1,)}, "word must have at least two letters"),
        ({"target": "log_signature", "word": (1, 1)}, "word must not be one whose log-signature"),
        ({"target": "log_signature", "word": (1, 2, 2, 1)}, "word must not be one whose log-sig"),
        ({"target": "log_signature", "length": 2}, "length must be at least 3 for target='log"),
        ({"target": "alternating", "word": (1,)}, "word must have at least two letters"),
        ({"target": "alternating", "word": (1, 1)}, "word must not have a letter twice"),
        ({"target": "alternating", "word": (1, 2, 1)}, "word must not have a letter twice"),
        ({"target": "alternating", "length": 2}, "length must be at least 3 for target='alt"),
        (
            {"target": "alternating", "dimension": 3, "word": (1, 2, 3), "length": 3},
            "length must be at least 4",
        ),
        ({"target": "antisymmetric"}, "one of .*'log_signature', 'alternating'.*, got 'antisym"),
    ],
)
def test_bad_arguments_are_named(arguments, message, own_errors):
    with pytest.raises((ValueError, TypeError), match=message):
        SignatureTask(**arguments)


@pytest.mark.parametrize("word", list(itertools.product((1, 2), repeat=4)))
def test_exactly_the_words_without_a_log_signature_are_refused(word):
    values = [at(oracle_log_signature(walk(seed), 4), word) for seed in range(4)]
    vanishes = np.abs(values).max() < 1e-12
    if vanishes:
        with pytest.raises(ValueError, match="vanishes on every path"):
            SignatureTask(word=word, target="log_signature")
    else:
        assert SignatureTask(word=word, target="log_signature").word == word


def test_labels_that_are_all_zero_are_refused():
    def never_turns(seed):
        return not np.diff(rounded_random_walks(2, 2, 2, seed).paths, axis=1).prod(axis=2).any()

    seed = next(filter(never_turns, range(100)))
    task = SignatureTask(length=2, n_paths=2, train_fraction=0.5, seed=seed)
    with pytest.raises(ValueError, match="n_paths must be large enough for one label"):
        task.load()
