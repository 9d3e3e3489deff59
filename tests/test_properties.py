"""Random input: names of groups, words, damaged files and overrides; what is not right is refused.

A refusal is one error of one type, with the name of what is wrong; never a crash, and never wrong
data that look right.
"""

import functools
import math
import re
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from composing import compose_run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments.errors import ConfigError
from tasks.a5_files import check_word_file, read_word_file, write_word_file
from tasks.base import DamagedData
from tasks.coordinates import MAX_LETTERS, MAX_SIGNATURE_SIZE, check_word, signature_coordinates
from tasks.groups import MAX_ORDER, parse_group, verify_group_axioms

RANDOM = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def _own_errors():
    """As `own_errors`: the code as users have it."""
    enabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", enabled)


def order_of(kind: str, n: int) -> int:
    """The order of a factor, from its definition."""
    return {
        "S": math.factorial(n),
        "A": max(math.factorial(n) // 2, 1),
        "Z": n,
        "D": 2 * n,
    }[kind]


FACTORS = st.one_of(
    st.tuples(st.just("S"), st.integers(1, 5)),
    st.tuples(st.just("A"), st.integers(1, 5)),
    st.tuples(st.just("Z"), st.integers(1, 40)),
    st.tuples(st.just("D"), st.integers(3, 20)),
)


@given(st.lists(FACTORS, min_size=1, max_size=4))
@settings(RANDOM, max_examples=40)
def test_every_spelling_of_a_group_is_a_group_of_the_right_order(factors):
    name = "x".join(f"{kind}{n}" for kind, n in factors)
    order = math.prod(order_of(kind, n) for kind, n in factors)
    if order > 400:
        name, order = f"{factors[0][0]}{factors[0][1]}", order_of(*factors[0])
    group = parse_group(name)
    assert (group.name, group.order) == (name, order)
    verify_group_axioms(group.table)
    everything = np.arange(order)
    assert np.all(group.table[everything, group.inverses] == group.identity)


GRAMMAR = re.compile(r"(?:[SAZ][1-9][0-9]*|D(?:[3-9]|[1-9][0-9]+))", re.ASCII)
NAMES = st.one_of(
    st.text(max_size=8),
    st.text(alphabet="SAZDx0123456789X×-+ \n", max_size=8),
    st.from_regex(r"[SAZD][0-9]{1,30}(x[SAZD][0-9]{1,30}){0,3}", fullmatch=True),
)


@given(NAMES)
@example("A99")
@example("Z0")
@example("A4x")
@example("xA4")
@example("Z٣")  # a digit, but not of ours
@example("S3xZ2 ")
@settings(RANDOM, max_examples=150)
def test_any_other_name_is_one_error(name):
    in_grammar = all(GRAMMAR.fullmatch(factor) for factor in name.split("x"))
    try:
        group = parse_group(name)
    except ValueError as error:
        group, message = None, str(error)
    if group is not None:
        assert in_grammar
        assert 1 <= group.order <= MAX_ORDER
        return
    assert message.startswith("group must ")
    assert repr(name) in message
    assert "at most 5,040 elements" in message or not in_grammar


def iterated_sum(path: np.ndarray, word: tuple[int, ...]) -> float:
    """∫_{t_1 < … < t_n} dX^{w_1} … dX^{w_n} of a piecewise linear path, segment by segment.

    A segment with increment v multiplies by Π v^{w_i} / n! for each stretch of n letters.
    """
    sums = np.zeros(len(word) + 1)
    sums[0] = 1.0
    for increment in np.diff(path, axis=0):
        letters = [increment[letter - 1] for letter in word]
        for end in range(len(word), 0, -1):
            for begin in range(end):
                stretch = math.prod(letters[begin:end]) / math.factorial(end - begin)
                sums[end] += sums[begin] * stretch
    return float(sums[-1])


@given(st.data())
@settings(RANDOM, max_examples=12)
def test_a_word_of_letters_names_a_coordinate(data):
    dimension = data.draw(st.integers(1, 3), "dimension")
    word = data.draw(st.lists(st.integers(1, dimension), min_size=1, max_size=4), "word")
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    assert check_word(word, dimension) == tuple(word)
    steps = np.random.default_rng(seed).integers(-2, 3, size=(3, 6, dimension))
    paths = (np.cumsum(steps, axis=1) / 4).astype(np.float32)
    expected = [iterated_sum(path.astype(np.float64), tuple(word)) for path in paths]
    np.testing.assert_allclose(
        signature_coordinates(paths, tuple(word)), expected, rtol=1e-4, atol=1e-5
    )


THINGS = st.one_of(
    st.integers(-3, 9), st.booleans(), st.none(), st.floats(), st.text(max_size=3), st.just([1])
)


@given(st.one_of(st.lists(THINGS, max_size=15), THINGS), st.integers(1, 400))
@example([1] * 13, 1)
@example([1, 1, 1], 50)
@example([True], 2)
@settings(RANDOM, max_examples=150)
def test_any_other_word_is_one_error(word, dimension):
    letters = isinstance(word, list) and all(
        type(letter) is int and 1 <= letter <= dimension for letter in word
    )
    fits = letters and 1 <= len(word) <= MAX_LETTERS
    fits = fits and sum(dimension**k for k in range(1, len(word) + 1)) <= MAX_SIGNATURE_SIZE
    if fits:
        assert check_word(word, dimension) == tuple(word)
        return
    with pytest.raises(ValueError if isinstance(word, list) else TypeError, match=r"^word must "):
        check_word(word, dimension)


def draw_problem(data: st.DataObject) -> tuple[str, np.ndarray, np.ndarray, int]:
    """A group, distinct sequences, their running products, and a seed."""
    name = data.draw(st.sampled_from(["Z2", "S3", "A5", "S4xZ5", "S6"]), "group")
    length = data.draw(st.integers(1, 5), "length")
    group = parse_group(name)
    tokens = st.integers(0, group.order - 1)
    row = st.tuples(*[tokens] * length)
    rows = data.draw(st.lists(row, min_size=1, max_size=8, unique=True), "rows")
    inputs = np.array(rows, np.uint16)
    seed = data.draw(st.integers(0, 10**18 - 1), "seed")
    return name, inputs, group.running_products(inputs), seed


@given(data=st.data())
@settings(RANDOM, max_examples=40)
def test_written_words_are_read_back(data, tmp_path):
    name, inputs, targets, seed = draw_problem(data)
    path = tmp_path / "words.csv"
    write_word_file(path, seed, inputs, targets)
    words = read_word_file(path)
    assert set(words.seeds.tolist()) == {seed}
    assert np.array_equal(words.inputs, inputs)
    assert np.array_equal(words.targets, targets)
    check_word_file(path, words, parse_group(name))


def damage(data: st.DataObject, contents: bytes) -> bytes:
    """A few bytes replaced, inserted or left out, or the end cut off."""
    likely = st.sampled_from(list(b'0123456789 ,\n\r-;"x\x00\xff'))
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        at = data.draw(st.integers(0, max(len(contents) - 1, 0)), "at")
        kind = data.draw(st.sampled_from(["replace", "insert", "delete", "cut"]), "kind")
        byte = bytes([data.draw(st.one_of(likely, st.integers(0, 255)), "byte")])
        if kind == "replace":
            contents = contents[:at] + byte + contents[at + 1 :]
        elif kind == "insert":
            contents = contents[:at] + byte + contents[at:]
        else:
            contents = contents[:at] + (contents[at + 1 :] if kind == "delete" else b"")
    return contents


def strictly_read(contents: bytes) -> tuple[list[list[int]], list[list[int]]]:
    """Another reader of the format, which says nothing of what is wrong."""
    text = contents.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    header, *lines = text.replace('"', "").rstrip().split("\n")
    assert header == "seed,input,target"
    columns = [line.split(",") for line in lines]
    inputs = [[int(token) for token in row[1].split(" ")] for row in columns]
    return inputs, [[int(token) for token in row[2].split(" ")] for row in columns]


@given(data=st.data())
@settings(RANDOM, max_examples=150)
def test_a_damaged_file_is_refused_or_still_right(data, tmp_path):
    name, inputs, targets, seed = draw_problem(data)
    path = tmp_path / "words.csv"
    write_word_file(path, seed, inputs, targets)
    path.write_bytes(damage(data, path.read_bytes()))
    group = parse_group(name)
    message = None
    try:
        words = read_word_file(path)
        check_word_file(path, words, group)
    except DamagedData as error:
        message = str(error)
    if message is not None:
        found = re.match(rf"{re.escape(str(path))}(?:, line (\d+))?: ", message)
        assert found
        lines = len(re.split(rb"\r\n|\r|\n", path.read_bytes()))
        assert 1 <= int(found[1] or 1) <= max(lines, 2)  # damaged gzip has no lines
        assert "\n" not in message
        return
    read = (words.inputs.tolist(), words.targets.tolist())
    assert read == strictly_read(path.read_bytes())
    assert len({tuple(row) for row in read[0]}) == len(read[0])
    for row, products in zip(*read, strict=True):
        product = group.identity
        for token, expected in zip(row, products, strict=True):
            product = int(group.table[product, token])
            assert product == expected


PAIRS = [
    ["task=a5", "model=mamba"],
    ["task=word_problem", "model=transformer"],
    ["task=word_problem", "model=linear_cde"],
    ["task=area", "model=linear_cde"],
    ["task=signature", "model=s5"],
    ["task=volume", "model=s4"],
    ["+experiment=figure1/linear_cde"],
    ["+experiment=figure2/mamba"],
]
WORDS = (
    "0 -1 1 2 3 7 64 1000000000000 1.5 nan inf -inf 1e-8 1e400 true null abc '' [] [1,2] [a] [[1]] "
    "{} {a:1} ??? ${train.steps} ${none} ${at:1} 1,2 [1, 'a ${ A5 S99 path last none dense full "
    "readout {_target_:ssm.cde.Euler} ssm.mixers.RNN"
)
VALUES = st.one_of(
    st.sampled_from(WORDS.split(" ")),
    st.integers(-5, 70).map(str),
    st.floats(-2, 2).map(str),
    st.text(alphabet="aA1.,:=[]{}'\"$ -", max_size=6),
)


def keys_of(node: object, prefix: str = "") -> list[str]:
    """The full keys of everything in a configuration, mappings too."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in keys_of(value, f"{prefix}{key}.")]


@functools.cache
def keys_with(*pair: str) -> list[str]:
    """Every key of a run, those of groups too, and one that does not exist."""
    return [*keys_of(dict(compose_run(pair, Path()).info.config)), "task.lenght"]


@given(data=st.data())
@settings(RANDOM, max_examples=50)
def test_any_override_builds_or_is_one_error_that_names_it(data):
    pair = data.draw(st.sampled_from(PAIRS), "pair")
    key = data.draw(st.sampled_from(keys_with(*pair)), "key")
    sign = data.draw(st.sampled_from(["", "", "", "", "+", "++", "~"]), "sign")
    value = data.draw(VALUES, "value")
    override = f"{sign}{key}" if sign == "~" else f"{sign}{key}={value}"
    try:
        compose_run([*pair, override], Path())
    except ConfigError as error:
        message = str(error)
    else:
        return
    names = [key.rpartition(".")[2], key.rpartition(".")[0] or key]
    assert any(name in message for name in names), message
    assert "\n" not in message
