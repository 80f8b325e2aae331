"""Something raises in the middle: at the n-th call of what computes, exchanges or remembers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lib_adapters.patching import live, merged

POINTS = (
    (merged, "merged_weight"),
    (merged, "merged_bias"),
    (merged, "point"),
    (merged, "samples"),
    (live, "LiveLayer"),
)


class Fault(BaseException):
    """As an interrupt is, or no memory."""


@contextmanager
def trapped(point: int, at: int) -> Iterator[None]:
    owner, name = POINTS[point]
    function, calls = getattr(owner, name), 0

    def trap(*given, **named):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Fault
        return function(*given, **named)

    setattr(owner, name, trap)
    try:
        yield
    finally:
        setattr(owner, name, function)
