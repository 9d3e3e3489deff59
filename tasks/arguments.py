"""Constructor arguments: each check returns the value, or raises a sentence that names it."""

import math
from typing import Any

MAX_NUMBERS = 2**32
"""Of the largest data set."""


def integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Returns `value` if it is an int (a bool is not) in [minimum, maximum].

    Raises:
        TypeError: for another type.
        ValueError: outside the range; `maximum=None` means no upper end.
    """
    upper = "" if maximum is None else f" and at most {maximum:,}"
    valid = f"an integer of at least {minimum:,}{upper}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {valid}, got {value!r}.")
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(f"{name} must be {valid}, got {value!r}.")
    return value


def real(name: str, value: Any, valid: str, low: float, high: float, ends: str) -> float:
    """Returns `value` as a float if it is a number between `low` and `high`.

    Arguments:
        name: the argument's name, for the message.
        value: what was given.
        valid: what is valid, in words, for the message.
        low: the lower end.
        high: the upper end.
        ends: which ends belong to the interval: "()", "(]", "[)" or "[]".

    Raises:
        TypeError: for something other than an int or a float.
        ValueError: outside the interval, or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {valid}, got {value!r}.")
    above = value >= low if ends[0] == "[" else value > low
    below = value <= high if ends[1] == "]" else value < high
    if math.isnan(value) or not (above and below):
        raise ValueError(f"{name} must be {valid}, got {value!r}.")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be {valid}, got an integer beyond any float.") from error


def memory(names: str, examples: int, each: int) -> None:
    """Checks that `examples` of `each` numbers are a data set that some memory holds.

    Raises:
        ValueError: above 2**32 numbers, 16 GiB in float32.
    """
    if examples * each > MAX_NUMBERS:
        raise ValueError(
            f"{names} must make at most {MAX_NUMBERS:,} numbers in all, got {examples:,} examples "
            f"of {each:,} numbers."
        )


def train_size(train_fraction: float, examples: int) -> int:
    """Returns int(train_fraction · examples), the number of leading examples that are trained on.

    Raises:
        ValueError: if the training or the validation split would be empty.
    """
    size = int(train_fraction * examples)
    if not 0 < size < examples:
        raise ValueError(
            f"train_fraction must leave examples on both sides, got {train_fraction!r}, "
            f"which splits {examples:,} examples into {size:,} and {examples - size:,}."
        )
    return size
