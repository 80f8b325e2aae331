"""Small sums over an adapter's modules, and the sentences for what could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from lib_adapters.errors import brief

Value = TypeVar("Value", int, float)

PARTS = ("unet", "te", "te1", "te2", "te3")
_MOST_NAMED = 20


def strangers(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Keys that no spelling fits; a long list is cut, because nobody reads it."""
    named = [(key, "no known adapter has a tensor of this name") for key in keys[:_MOST_NAMED]]
    more = len(keys) - len(named)
    return [*named, (f"{more} more keys", "no known adapter has tensors of these names")] if more > 0 else named


def nothing_usable(unusable: Sequence[tuple[str, str]]) -> str:
    """Why a file without one usable module is refused; `unusable` has pairs of what and why."""
    if not unusable:
        return "holds no tensors of an adapter"
    name, reason = unusable[0]
    return f"holds nothing that can be used: {brief(name, 120)}: {reason}" + (
        f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
    )


def commonest(values: Iterable[Value | None]) -> Value | None:
    """None where nothing has one; the larger of two that are equally common."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)
