"""Word problems: their sequences, labels, loss, metrics and errors."""

import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.a5_files import historical_rows, write_word_file
from tasks.rows import distinct_rows, find_repeat
from tasks.word_problem import WordProblem


def as_set(rows):
    return {tuple(row) for row in rows.tolist()}


def permutation_labels(rows, members):
    """Running products of the permutations themselves, in a plain loop."""
    labels = []
    for row in rows.tolist():
        product, line = tuple(range(len(members[0]))), []
        for token in row:
            product = tuple(product[i] for i in members[token])
            line.append(members.index(product))
        labels.append(line)
    return np.array(labels)


def even_permutations(n):
    return [p for p in itertools.permutations(range(n)) if np.linalg.det(np.eye(n)[list(p)]) > 0]


def test_small_problems_hold_every_sequence_once():
    data = WordProblem("S3", length=4, train_fraction=0.75).load()
    train, validation = as_set(data.train.inputs), as_set(data.validation.inputs)
    assert len(data.train.inputs) == int(0.75 * 6**4)
    assert train | validation == set(itertools.product(range(6), repeat=4))
    assert not train & validation


@pytest.mark.parametrize(("samples", "length"), [(5_000, 3), (2_000, 2), (3_000, 9)])
def test_large_problems_hold_distinct_sequences_split_without_overlap(samples, length):
    task = WordProblem("A5", length=length, samples=samples, auxiliary_length=None)
    data = task.load()
    train, validation = as_set(data.train.inputs), as_set(data.validation.inputs)
    assert (len(train), len(validation)) == (int(0.8 * samples), samples - int(0.8 * samples))
    assert not train & validation
    assert data.auxiliary is None


def test_labels_are_products_of_permutations():
    data = WordProblem("A5", length=7, samples=300).load()
    for split in (data.train, data.validation):
        assert split.inputs.dtype == split.targets.dtype == np.uint8
        expected = permutation_labels(split.inputs, even_permutations(5))
        assert np.array_equal(split.targets, expected)


def test_tokens_of_large_groups_take_two_bytes():
    data = WordProblem("S6", length=4, samples=100, auxiliary_length=1).load()
    assert data.train.inputs.dtype == data.train.targets.dtype == np.uint16
    assert data.train.targets.max() > 255


def test_tokens_are_uniform_and_positions_unrelated():
    rows = distinct_rows(6, 8, 60_000, np.random.default_rng(0))
    counts = np.stack([np.bincount(rows[:, j], minlength=6) for j in range(8)])
    assert np.abs(counts - 10_000).max() < 5 * math.sqrt(10_000 * 5 / 6)
    pairs = np.bincount(rows[:, 2].astype(int) * 6 + rows[:, 5], minlength=36)
    assert np.abs(pairs - 60_000 / 36).max() < 5 * math.sqrt(60_000 / 36)


def test_dense_draws_are_distinct():
    """Just under half of all sequences, where every batch of the hashed draw repeats some."""
    rows = distinct_rows(6, 5, 3_800, np.random.default_rng(1))
    assert len(rows) == len(as_set(rows)) == 3_800


def test_repeats_are_found_exactly():
    rows = np.array([[1, 2], [3, 4], [2, 1], [3, 4], [0, 0]], np.uint16)
    assert find_repeat(rows) == (1, 3)
    assert find_repeat(rows[:3]) is None


def test_equal_hashes_alone_are_not_a_repeat(monkeypatch):
    monkeypatch.setattr("tasks.rows._hash_weights", lambda length, rng: np.ones(length, np.uint64))
    assert find_repeat(np.array([[1, 2], [2, 1], [0, 3]], np.uint16)) is None
    assert find_repeat(np.array([[1, 2], [2, 1], [0, 3], [2, 1]], np.uint16)) == (1, 3)


def test_auxiliary_stream_holds_the_shorter_sequences():
    full = WordProblem("S3", length=5, auxiliary_length=3).load().auxiliary
    assert as_set(full.inputs) == set(itertools.product(range(6), repeat=3))
    members = list(itertools.permutations(range(3)))
    assert np.array_equal(full.targets, permutation_labels(full.inputs, members))
    part = WordProblem("A5", samples=100, auxiliary_fraction=0.8).load().auxiliary
    assert len(as_set(part.inputs)) == 2_880


def test_equal_seeds_give_equal_data_and_the_auxiliary_stream_moves_nothing_else():
    def flat(data):
        return np.concatenate([data.train.inputs, data.validation.inputs])

    task = WordProblem("D4", length=9, samples=500, seed=3)
    assert np.array_equal(flat(task.load()), flat(task.load()))
    changed = WordProblem("D4", length=9, samples=500, seed=3, auxiliary_fraction=0.5)
    assert np.array_equal(flat(task.load()), flat(changed.load()))
    other = WordProblem("D4", length=9, samples=500, seed=4)
    assert not np.array_equal(flat(task.load()), flat(other.load()))


def test_exhaustive_data_are_shuffled():
    data = WordProblem("A5", length=2, auxiliary_length=None).load()
    assert len(np.unique(data.validation.inputs[:, 0])) == 60


def test_a_tenth_of_a_large_problem_is_made_in_a_tenth_of_the_time():
    task = WordProblem("A5", length=20, samples=100_000)
    task.load()
    start = time.process_time()
    data = task.load()
    assert time.process_time() - start < 1.0
    assert data.train.inputs.nbytes == 80_000 * 20


def test_loss_is_the_mean_cross_entropy():
    task = WordProblem("S3", length=3)
    outputs = jax.random.normal(jax.random.key(0), (5, 6)) * 3
    targets = jnp.array([0, 5, 2, 2, 1], jnp.uint8)
    logits = np.asarray(outputs, np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(probabilities[np.arange(5), targets]))
    assert float(task.loss(outputs, targets)) == pytest.approx(expected, rel=1e-5)
    smoothed = WordProblem("S3", length=3, log_epsilon=0.1)
    expected = -np.mean(np.log(probabilities[np.arange(5), targets] + 0.1))
    assert float(smoothed.loss(outputs, targets)) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(task.loss)(outputs, targets)
    np.testing.assert_allclose(
        gradient, (probabilities - np.eye(6)[np.asarray(targets)]) / 5, atol=1e-6
    )


def test_log_epsilon_bounds_the_loss_of_a_certain_mistake():
    outputs, targets = jnp.array([[0.0, 500.0, 0.0, 0.0, 0.0, 0.0]]), jnp.array([0], jnp.uint8)
    assert float(WordProblem("S3").loss(outputs, targets)) == pytest.approx(500)
    published = WordProblem("S3", log_epsilon=1e-10)
    assert float(published.loss(outputs, targets)) == pytest.approx(-math.log(1e-10))
    assert np.isfinite(jax.grad(published.loss)(outputs, targets)).all()


def test_statistics_and_metrics_of_known_answers():
    task = WordProblem("S3", length=3)
    targets = jnp.array([[0, 1, 2], [3, 4, 5], [1, 1, 1], [2, 0, 3]], jnp.uint8)
    answers = targets.at[1, 2].set(0).at[2, 1].set(5).at[2, 2].set(5)
    statistics = jax.vmap(task.statistics)(10 * jax.nn.one_hot(answers, 6), targets)
    assert statistics["correct"].dtype == jnp.float32
    means = {name: np.asarray(values).mean(axis=0) for name, values in statistics.items()}
    metrics = task.metrics(means)
    right, wrong = math.log(1 + 5 * math.exp(-10)), 10 + math.log(1 + 5 * math.exp(-10))
    assert metrics == pytest.approx(
        {
            "accuracy": 0.75,
            "accuracy_last": 0.5,
            "accuracy_sequence": 0.5,
            "accuracy_at_1": 1.0,
            "accuracy_at_2": 0.75,
            "accuracy_at_3": 0.5,
            "loss": (9 * right + 3 * wrong) / 12,
        },
        rel=1e-5,
    )


def test_baselines_are_what_guessing_achieves():
    task = WordProblem("S3", length=5)
    data = task.load()
    baselines = task.baselines(data)
    guesses = np.random.default_rng(0).integers(6, size=(40, *data.validation.targets.shape))
    right = guesses == data.validation.targets
    assert baselines["accuracy_uniform"] == pytest.approx(right.mean(), abs=3e-3)
    right[:, :, :2] = True
    assert baselines["accuracy_two_positions"] == pytest.approx(right.mean(), abs=3e-3)
    outputs = jnp.zeros((5, 6))
    loss = task.loss(outputs, jnp.asarray(data.validation.targets[0]))
    assert baselines["loss_uniform"] == pytest.approx(float(loss), rel=1e-6)


def test_sequences_come_from_a_file_if_one_is_named(tmp_path):
    inputs, targets = historical_rows(4, 25445, 200)
    path = str(tmp_path / "A5=4.csv")
    write_word_file(path, 25445, inputs, targets)
    data = WordProblem(length=4, path=path).load()
    assert as_set(data.train.inputs) | as_set(data.validation.inputs) == as_set(inputs)
    assert data.train.inputs.shape == (160, 4)
    labels = {tuple(row): tuple(label) for row, label in zip(inputs, targets, strict=True)}
    for row, label in zip(data.train.inputs, data.train.targets, strict=True):
        assert labels[tuple(row)] == tuple(label)
    assert data.train.inputs.dtype == np.uint8
    first = WordProblem(length=4, path=path, samples=50).load()
    assert as_set(first.train.inputs) | as_set(first.validation.inputs) == as_set(inputs[:50])


def test_files_of_another_length_or_group_are_refused(tmp_path):
    path = str(tmp_path / "words.csv")
    write_word_file(path, 1, *historical_rows(4, 1, 50))
    with pytest.raises(ValueError, match=r"path must hold sequences of length=5, .*words\.csv"):
        WordProblem(length=5, path=path).load()
    with pytest.raises(ValueError, match=r"words\.csv, line \d+: tokens must be 0 to 5 for S3"):
        WordProblem("S3", length=4, path=path).load()
    with pytest.raises(ValueError, match=r"words\.csv, line \d+: targets must be the running"):
        WordProblem("Z60", length=4, path=path).load()


@pytest.mark.parametrize("name", ["/dev/null", "", "/"])
def test_a_path_that_is_no_file_is_named(name):
    with pytest.raises(OSError, match="path must be a file that can be read, got '") as raised:
        WordProblem(path=name).load()
    assert repr(name) in str(raised.value)
    assert "None" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "B5"}, "group must be one or more factors .* got 'B5'"),
        ({"group": 5}, "group must be a name such as 'A5', got 5"),
        ({"group": "Z1"}, "group must have at least two elements, got 'Z1'"),
        ({"length": 1}, "length must be an integer of at least 2, got 1"),
        ({"length": True}, "length must be an integer of at least 2, got True"),
        ({"length": 3.5}, "length must be an integer of at least 2, got 3.5"),
        ({"samples": 1}, "samples must be an integer of at least 2, got 1"),
        ({"samples": "abc"}, "samples must be an integer of at least 2, got 'abc'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"train_fraction": 0}, "train_fraction must be a number between 0 and 1, got 0"),
        ({"train_fraction": 1.5}, "train_fraction must be a number between 0 and 1, got 1.5"),
        ({"train_fraction": True}, "train_fraction must be a number between 0 and 1, got True"),
        ({"train_fraction": 1e-9}, "train_fraction must leave examples on both sides"),
        ({"samples": 3, "train_fraction": 0.1}, "splits 3 examples into 0 and 3"),
        ({"auxiliary_length": 3}, "auxiliary_length must be below length=3 or None, got 3"),
        ({"auxiliary_length": 0}, "auxiliary_length must be an integer of at least 1, got 0"),
        ({"auxiliary_length": 2.0}, "auxiliary_length must be an integer of at least 1, got 2.0"),
        ({"length": 9, "auxiliary_length": 8}, "auxiliary_length must leave at most 5,000,000"),
        ({"auxiliary_fraction": 0.0}, "auxiliary_fraction must be a number above 0 and at most 1"),
        ({"auxiliary_fraction": 1.1}, "auxiliary_fraction must be a number above 0 and at most 1"),
        ({"auxiliary_fraction": 1e-9}, "auxiliary_fraction must keep at least one sequence"),
        ({"log_epsilon": -1e-9}, "log_epsilon must be a finite number of at least 0"),
        ({"log_epsilon": math.inf}, "log_epsilon must be a finite number of at least 0, got inf"),
        ({"log_epsilon": None}, "log_epsilon must be a finite number of at least 0, got None"),
        ({"path": 3}, "path must be the name of a CSV file or None, got 3"),
    ],
)
def test_bad_arguments_are_named(arguments, message, own_errors):
    with pytest.raises((ValueError, TypeError), match=message):
        WordProblem(**arguments)


def test_very_long_sequences_are_accepted():
    data = WordProblem("Z2", length=5_000, samples=20, auxiliary_length=None).load()
    assert np.array_equal(data.train.targets, np.cumsum(data.train.inputs, axis=1) % 2)
