"""Something raises in the middle: at the n-th call of what computes, exchanges or remembers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lib_adapters.patching import forward_patcher, weight_patcher

POINTS = (
    (weight_patcher, "merged_weight"),
    (weight_patcher, "merged_bias"),
    (weight_patcher, "assign"),
    (weight_patcher, "sample_values"),
    (forward_patcher, "PatchedForward"),
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
