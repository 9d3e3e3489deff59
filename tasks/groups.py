"""Finite groups as Cayley tables, from names such as "A5" or "S3xZ2"."""

import functools
import itertools
import math
import re
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer

MAX_ORDER = 5_040
GRAMMAR = (
    "one or more factors joined by 'x', each of them Sn (symmetric, n >= 1), An (alternating, "
    "n >= 1), Zn (cyclic, n >= 1) or Dn (dihedral of order 2n, n >= 3), for example 'A5' or 'S3xZ2'"
)


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group with elements 0, …, order − 1.

    Attributes:
        name: the name it was parsed from.
        table: Cayley table, table[a, b] is the index of a·b; read-only.
        identity: index of the neutral element.
        inverses: inverses[a] is the index of a⁻¹; read-only.
        elements: what each index stands for (a permutation, a residue, …; a tuple of them in a
            direct product).
    """

    name: str
    table: Int[np.ndarray, "order order"]
    identity: int
    inverses: Int[np.ndarray, " order"]
    elements: tuple[Hashable, ...]

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.table)

    @property
    def is_abelian(self) -> bool:
        """Whether a·b = b·a for all elements."""
        return bool(np.array_equal(self.table, self.table.T))

    def element_orders(self) -> Int[np.ndarray, " order"]:
        """Returns, for every a, the smallest n ≥ 1 with aⁿ = identity."""
        everything = np.arange(self.order)
        power, orders = everything, np.zeros(self.order, np.int64)
        for exponent in range(1, self.order + 1):
            orders[(orders == 0) & (power == self.identity)] = exponent
            if orders.all():
                break
            power = self.table[power, everything]
        return orders

    def running_products(
        self, words: Integer[np.ndarray, "words length"]
    ) -> Integer[np.ndarray, "words length"]:
        """Returns y with y_0 = x_0 and y_t = y_{t−1}·x_t for every row x, in the type of `words`.

        Raises:
            ValueError: if an entry is not an element of the group.
        """
        if words.size and (words.min() < 0 or words.max() >= self.order):
            raise ValueError(
                f"words must hold elements 0 to {self.order - 1} of {self.name}, "
                f"got values from {words.min()} to {words.max()}."
            )
        products = np.empty_like(words)
        accumulated = np.full(len(words), self.identity)
        for position in range(words.shape[1]):
            accumulated = self.table[accumulated, words[:, position]]
            products[:, position] = accumulated
        return products


def parse_group(name: str) -> Group:
    """Returns the group that `name` denotes, such as "S5", "A4", "Z60", "D4" or "S3xZ2xD5".

    Elements are numbered as follows, the identity first in every case:

    - Sn, An: all, or the even, permutations p of 0, …, n−1 in lexicographic order, with
      (p·q)(i) = p[q[i]].
    - Zn: the residues 0, …, n−1 under addition.
    - Dn: the 2n symmetries of the regular n-gon (n ≥ 3); rᵏ has index k and rᵏs index n + k, where
      r is the rotation, s a reflection and s·r = r⁻¹·s.
    - Direct products: tuples in lexicographic order, multiplied factor by factor.

    Raises:
        ValueError: if the name is not in this grammar, or the group has more than 5,040 elements
            (nothing is built).
    """
    factors = name.split("x") if isinstance(name, str) else [""]
    matches = [re.fullmatch(r"([SAZD])([1-9][0-9]*)", factor) for factor in factors]
    kinds = [(match[1], match[2]) for match in matches if match]
    if len(kinds) < len(factors) or any(k == "D" and n in ("1", "2") for k, n in kinds):
        raise ValueError(f"group must be {GRAMMAR}, got {name!r}.")
    if math.prod(_order(kind, digits) for kind, digits in kinds) > MAX_ORDER:
        raise ValueError(f"group must have at most {MAX_ORDER:,} elements, got {name!r}.")
    return _build(name, tuple((kind, int(digits)) for kind, digits in kinds))


def verify_group_axioms(table: Integer[np.ndarray, "order order"]) -> None:
    """Checks exactly that table[a, b] is the product of a group on 0, …, order − 1.

    Associativity is Light's test: the elements g with (x·g)·y = x·(g·y) for all x, y are closed
    under the product, so it is enough to try the members of a generating set.

    Raises:
        ValueError: naming the first axiom that fails: closure, identity, inverses or associativity.
    """
    order = len(table)
    if not order or np.any((table < 0) | (table >= order)):
        raise ValueError(f"closure fails: a table of {order} elements must hold 0 to {order - 1}.")
    everything = np.arange(order)
    neutral = (table == everything).all(axis=1) & (everything == table.T).all(axis=1)
    if not neutral.any():
        raise ValueError("identity fails: no element leaves every other unchanged on both sides.")
    to_identity = table == np.argmax(neutral)
    lonely = ~(to_identity & to_identity.T).any(axis=1)
    if lonely.any():
        raise ValueError(f"inverses fail: element {np.argmax(lonely)} has no two-sided inverse.")
    for generator in _generators(table):
        differ = table[table[:, generator]] != table[:, table[generator]]
        if differ.any():
            left, right = np.argwhere(differ)[0]
            raise ValueError(
                f"associativity fails: ({left}·{generator})·{right} is not "
                f"{left}·({generator}·{right})."
            )


def _generators(table: np.ndarray) -> list[int]:
    """A set whose iterated right products reach every element, taken greedily."""
    generators: list[int] = []
    reached = np.zeros(len(table), bool)
    while not reached.all():
        generators.append(int(np.argmin(reached)))
        reached[generators[-1]] = True
        frontier = np.flatnonzero(reached)
        while len(frontier):
            products = np.unique(table[frontier][:, generators])
            frontier = products[~reached[products]]
            reached[frontier] = True
    return generators


def _order(kind: str, digits: str) -> int:
    """The order of one factor, or some number above the limit if it is larger than that."""
    n = int(digits) if len(digits) <= 5 else 10**5
    if kind in "SA":
        order = math.factorial(min(n, 10))
        return order if kind == "S" else max(order // 2, 1)
    return n if kind == "Z" else 2 * n


@functools.lru_cache(maxsize=4)
def _build(name: str, kinds: tuple[tuple[str, int], ...]) -> Group:
    builders = {"S": _symmetric, "A": _alternating, "Z": _cyclic, "D": _dihedral}
    table = np.zeros((1, 1), np.int32)
    elements: list[tuple[Hashable, ...]] = [()]
    for kind, n in kinds:
        factor, members = builders[kind](n)
        size = len(table) * len(factor)
        product = table[:, None, :, None] * np.int32(len(factor)) + factor[None, :, None, :]
        table = product.reshape(size, size)
        elements = [(*left, right) for left in elements for right in members]
    inverses = np.argmax(table == 0, axis=1)
    table.setflags(write=False)
    inverses.setflags(write=False)
    labels = tuple(elements) if len(kinds) > 1 else tuple(element[0] for element in elements)
    return Group(name, table, 0, inverses, labels)


def _symmetric(n: int) -> tuple[np.ndarray, list[Hashable]]:
    return _permutation_table(list(itertools.permutations(range(n))))


def _alternating(n: int) -> tuple[np.ndarray, list[Hashable]]:
    def even(p: tuple[int, ...]) -> bool:
        return sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0

    return _permutation_table([p for p in itertools.permutations(range(n)) if even(p)])


def _permutation_table(members: list[tuple[int, ...]]) -> tuple[np.ndarray, list[Hashable]]:
    permutations = np.array(members)
    n = permutations.shape[1]
    place_values = n ** np.arange(n)
    index = np.zeros(n**n, np.int32)
    index[permutations @ place_values] = np.arange(len(members))
    table = np.empty((len(members), len(members)), np.int32)
    for row, p in enumerate(permutations):
        table[row] = index[p[permutations] @ place_values]
    return table, list(members)


def _cyclic(n: int) -> tuple[np.ndarray, list[Hashable]]:
    residues = np.arange(n, dtype=np.int32)
    return (residues[:, None] + residues) % np.int32(n), list(range(n))


def _dihedral(n: int) -> tuple[np.ndarray, list[Hashable]]:
    rotation, flip = np.arange(2 * n) % n, np.arange(2 * n) // n
    sign = 1 - 2 * flip
    turned = (rotation[:, None] + sign[:, None] * rotation) % n
    table = turned + n * (flip[:, None] ^ flip)
    return table.astype(np.int32), [(int(k), int(j)) for k, j in zip(rotation, flip, strict=True)]
