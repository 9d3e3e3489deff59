"""Groups against their definitions: axioms, orders, relations, products and names."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.groups import MAX_ORDER, parse_group, verify_group_axioms

NAMES = [
    "S1",
    "S2",
    "S3",
    "S5",
    "A1",
    "A2",
    "A3",
    "A4",
    "A5",
    "A6",
    "Z1",
    "Z2",
    "Z7",
    "Z60",
    "D3",
    "D4",
    "D7",
]
PRODUCTS = ["Z2xZ2", "S3xZ2", "A4xZ5", "S3xZ2xD5", "A5xZ2", "Z1xS3"]
# A Latin square with a neutral element and inverses that is not associative.
LOOP = [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
FACTORS = st.one_of(
    st.builds("S{}".format, st.integers(1, 4)),
    st.builds("A{}".format, st.integers(1, 5)),
    st.builds("Z{}".format, st.integers(1, 12)),
    st.builds("D{}".format, st.integers(3, 8)),
)


def associative_by_brute_force(table):
    everything = range(len(table))
    return all(
        table[table[a, b], c] == table[a, table[b, c]]
        for a, b, c in itertools.product(everything, repeat=3)
    )


@pytest.mark.parametrize("name", [*NAMES, *PRODUCTS, "S6", "A7"])
def test_axioms_hold_and_the_identity_and_inverses_are_right(name):
    group = parse_group(name)
    verify_group_axioms(group.table)
    everything = np.arange(group.order)
    assert np.array_equal(group.table[group.identity], everything)
    assert np.array_equal(group.table[:, group.identity], everything)
    assert np.all(group.table[everything, group.inverses] == group.identity)
    assert len(set(group.elements)) == group.order


@pytest.mark.parametrize(
    ("name", "order", "abelian"),
    [
        ("S1", 1, True), ("S2", 2, True), ("S3", 6, False), ("S4", 24, False), ("S5", 120, False),
        ("A2", 1, True), ("A3", 3, True), ("A4", 12, False), ("A5", 60, False), ("A6", 360, False),
        ("Z60", 60, True), ("D3", 6, False), ("D5", 10, False), ("S3xZ2xD5", 120, False),
        ("A4xZ5", 60, False), ("Z3xZ4", 12, True), ("S7", 5040, False), ("Z5040", 5040, True),
    ],
)  # fmt: skip
def test_orders_and_commutativity(name, order, abelian):
    group = parse_group(name)
    assert (group.order, group.is_abelian) == (order, abelian)


@pytest.mark.parametrize(
    ("name", "census"),
    [
        ("A5", {1: 1, 2: 15, 3: 20, 5: 24}),
        ("A4", {1: 1, 2: 3, 3: 8}),
        ("S4", {1: 1, 2: 9, 3: 8, 4: 6}),
        ("D4", {1: 1, 2: 5, 4: 2}),
        ("D6", {1: 1, 2: 7, 3: 2, 6: 2}),
        ("Z12", {1: 1, 2: 1, 3: 2, 4: 2, 6: 2, 12: 4}),
        ("Z2xZ2", {1: 1, 2: 3}),
        ("Z3xZ4", {1: 1, 2: 1, 3: 2, 4: 2, 6: 2, 12: 4}),
    ],
)
def test_census_of_element_orders(name, census):
    orders, counts = np.unique(parse_group(name).element_orders(), return_counts=True)
    assert dict(zip(orders.tolist(), counts.tolist(), strict=True)) == census


def normal_closure_size(group, element):
    table, inverses = group.table, group.inverses
    members = {group.identity} | {
        int(table[table[g, element], inverses[g]]) for g in range(group.order)
    }
    while True:
        grown = members | {int(table[a, b]) for a in members for b in members}
        if grown == members:
            return len(members)
        members = grown


def test_a5_is_simple_and_a4_is_not():
    a5, a4 = parse_group("A5"), parse_group("A4")
    assert {normal_closure_size(a5, element) for element in range(1, 60)} == {60}
    assert {normal_closure_size(a4, element) for element in range(1, 12)} == {4, 12}


@pytest.mark.parametrize("n", [3, 4, 5])
def test_permutations_are_lexicographic_and_compose_right_to_left(n):
    def sign(p):
        return round(np.linalg.det(np.eye(n)[list(p)]))

    everything = sorted(itertools.permutations(range(n)))
    for name, members in (
        (f"S{n}", everything),
        (f"A{n}", [p for p in everything if sign(p) == 1]),
    ):
        group = parse_group(name)
        assert list(group.elements) == members
        for (a, p), (b, q) in itertools.product(enumerate(members), repeat=2):
            assert members[group.table[a, b]] == tuple(p[q[i]] for i in range(n))


@pytest.mark.parametrize("n", [3, 4, 9])
def test_dihedral_group_is_the_symmetries_of_the_polygon(n):
    group = parse_group(f"D{n}")
    angle = 2 * np.pi / n
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([1.0, -1.0])
    power = np.linalg.matrix_power
    matrices = np.array([power(turn, k) @ power(mirror, j) for k, j in group.elements])
    products = np.einsum("aij,bjk->abik", matrices, matrices)
    np.testing.assert_allclose(products, matrices[group.table], atol=1e-12)
    r, s = group.elements.index((1, 0)), group.elements.index((0, 1))
    assert (r, s) == (1, n)
    assert group.table[s, r] == group.table[group.inverses[r], s]


def test_direct_product_multiplies_factor_by_factor():
    product, left, right = parse_group("S3xZ2xD5"), parse_group("S3"), parse_group("Z2xD5")
    for a, b in itertools.product(range(0, 120, 7), range(120)):
        (i, j), (k, m) = divmod(a, 20), divmod(b, 20)
        assert product.table[a, b] == 20 * left.table[i, k] + right.table[j, m]
    assert product.elements[21] == ((0, 2, 1), 0, (1, 0))


@given(st.lists(FACTORS, min_size=1, max_size=3))
@settings(deadline=None)
def test_parser_agrees_with_the_factors(factors):
    groups = [parse_group(factor) for factor in factors]
    order = math.prod(group.order for group in groups)
    name = "x".join(factors)
    assume(order <= 600)
    product = parse_group(name)
    assert (product.name, product.order) == (name, order)
    assert product.is_abelian == all(group.is_abelian for group in groups)
    exponents = [int(np.lcm.reduce(group.element_orders())) for group in groups]
    assert int(np.lcm.reduce(product.element_orders())) == math.lcm(*exponents)


@given(st.text(alphabet="SAZDxX0123 -", max_size=6))
@settings(deadline=None)
def test_parser_accepts_exactly_the_grammar(name):
    def denotes_a_factor(factor):
        kind, digits = factor[:1], factor[1:]
        smallest = {"S": 1, "A": 1, "Z": 1, "D": 3}
        good_number = digits.isascii() and digits.isdigit() and not digits.startswith("0")
        return kind in smallest and good_number and int(digits) >= smallest[kind]

    try:
        refusal = parse_group(name) and ""
    except ValueError as error:
        refusal = str(error)
    if all(denotes_a_factor(factor) for factor in name.split("x")):
        assert refusal in ("", f"group must have at most 5,040 elements, got {name!r}.")
    else:
        assert refusal.startswith("group must be one or more factors")


@pytest.mark.parametrize(
    "name", ["S8", "A8", "S10000000", "Z5041", "D2521", "A7xZ3", "Z" + "9" * 9999]
)
def test_large_groups_are_refused_before_anything_is_built(name):
    with pytest.raises(ValueError, match=f"at most {MAX_ORDER:,} elements"):
        parse_group(name)


def test_tables_are_read_only():
    group = parse_group("S3")
    with pytest.raises(ValueError, match="read-only"):
        group.table[0, 0] = 1


@pytest.mark.parametrize("name", ["S3", "Z4", "D4", "Z2xZ2", "A4"])
def test_every_single_corruption_of_a_table_is_caught(name):
    table = parse_group(name).table
    order = len(table)
    for a, b in itertools.product(range(order), repeat=2):
        damaged = table.copy()
        damaged[a, b] = (damaged[a, b] + 1) % order
        with pytest.raises(ValueError, match="fail"):
            verify_group_axioms(damaged)


def test_corruption_of_a_large_table_is_caught():
    damaged = parse_group("S6").table.copy()
    damaged[[400, 400], [500, 600]] = damaged[[400, 400], [600, 500]]
    with pytest.raises(ValueError, match="associativity fails"):
        verify_group_axioms(damaged)


@pytest.mark.parametrize(
    ("table", "axiom"),
    [
        ([[0, 1], [1, 2]], "closure"),
        ([[0, 1], [1, -1]], "closure"),
        ([[1, 0], [0, 0]], "identity"),
        ([[0, 0], [1, 1]], "identity"),
        ([[0, 1], [1, 1]], "inverses"),
        (LOOP, "associativity"),
    ],
)  # fmt: skip
def test_the_failed_axiom_is_named(table, axiom):
    with pytest.raises(ValueError, match=f"^{axiom} fails?"):
        verify_group_axioms(np.array(table))


@given(st.integers(2, 5), st.randoms(use_true_random=False))
def test_associativity_check_agrees_with_brute_force(order, random):
    table = np.array([[random.randrange(order) for _ in range(order)] for _ in range(order)])
    table[0] = table[:, 0] = np.arange(order)
    for a in range(1, order):
        table[a, a] = 0
    try:
        verify_group_axioms(table)
    except ValueError:
        assert not associative_by_brute_force(table)
    else:
        assert associative_by_brute_force(table)


def test_running_products_match_permutations_applied_one_by_one():
    group = parse_group("S4")
    words = np.random.default_rng(0).integers(24, size=(50, 9), dtype=np.uint8)
    products = group.running_products(words)
    assert products.dtype == np.uint8
    for word, product in zip(words, products, strict=True):
        accumulated = (0, 1, 2, 3)
        for token, index in zip(word, product, strict=True):
            accumulated = tuple(accumulated[i] for i in group.elements[token])
            assert group.elements[index] == accumulated


def test_running_products_refuse_tokens_outside_the_group():
    with pytest.raises(
        ValueError, match="words must hold elements 0 to 5 of S3, got values from 0"
    ):
        parse_group("S3").running_products(np.array([[0, 6]]))
