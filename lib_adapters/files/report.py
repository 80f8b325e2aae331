"""Small sums over an adapter's modules, and the sentences for what could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from lib_adapters.errors import shorten
from lib_adapters.files import foreign

Value = TypeVar("Value", int, float)

PARTS = ("unet", "te", "te1", "te2", "te3")
_MOST_NAMED = 20
_WHOLE = "is a full weight of a model, not a change of one (IA3 also has on_input)"


def strangers(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the keys of no known format with a reason for each; a long list is truncated."""
    reasons = [foreign.kind_of(key) for key in keys[:_MOST_NAMED]]
    unknown = "no known adapter has a tensor of this name"
    named = [(key, f"is {reason}" if reason else unknown) for key, reason in zip(keys, reasons, strict=False)]
    return [*named, *_more(len(keys), "no known adapter has tensors of these names")]


def whole_weights(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the keys of a model's own parameters with a reason for each; a long list is truncated."""
    named = [(key, f"is {kind}" if (kind := foreign.kind_of(key)) else _WHOLE) for key in keys[:_MOST_NAMED]]
    return [*named, *_more(len(keys), _WHOLE)]


def noted(keys: Sequence[str], what: str) -> list[str]:
    """Return one note that names the first of the keys and counts the others; [] if there are none."""
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return [f"{keys[0]}{more} {what}"] if keys else []


def _more(count: int, reason: str) -> list[tuple[str, str]]:
    return [(f"{count - _MOST_NAMED} more keys", reason)] if count > _MOST_NAMED else []


def nothing_usable(unusable: Sequence[tuple[str, str]]) -> str:
    """Why a file without one usable module is refused; `unusable` has pairs of what and why."""
    if not unusable:
        return "holds no tensors of an adapter"
    name, reason = unusable[0]
    return f"holds nothing that can be used: {shorten(name, 120)}: {reason}" + (
        f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
    )


def commonest(values: Iterable[Value | None]) -> Value | None:
    """None where nothing has one; the larger of two that are equally common."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)
