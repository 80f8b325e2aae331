"""One progress bar for a whole command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bar(total: int, what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yields the function that says how much is done: before the piece at hand, and of it."""
    with tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True) as line:

        def reached(before: int, done: int) -> None:
            line.update(before + done - line.n)

        yield reached
