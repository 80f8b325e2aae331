"""What the harnesses tried and how much of it failed, told at the end of a run, also where workers ran the tests.

A harness takes the fixture `tried` and counts: `points = tried("faults", "points")`, then `points.add()` for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

Tried = Callable[[str, str], "Tally"]
MARK = "tried"


@dataclass
class Tally:
    """Written into the test's own report, so that it reaches the terminal from any worker."""

    row: list[str | int]  # harness, unit, tried, failed

    def add(self, count: int = 1) -> None:
        self.row[2] += count

    def fail(self, count: int = 1) -> None:
        self.row[3] += count


def opened(item: pytest.Item, harness: str, unit: str) -> Tally:
    row: list[str | int] = [harness, unit, 0, 0]
    item.user_properties.append((MARK, row))
    return Tally(row)


def summed(reports: Iterable[pytest.TestReport]) -> list[str]:
    """One line for each harness and unit."""
    tried: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    for report in reports:
        rows = [row for name, row in report.user_properties if name == MARK]
        for harness, unit, count, lost in rows:
            tried[harness, unit] += count
            failed[harness, unit] += max(lost, int(report.failed and row_is_last(rows, harness, unit)))
    return [
        f"{harness}: {tried[harness, unit]:,} {unit}, {failed[harness, unit]:,} failed"
        for harness, unit in sorted(tried)
    ]


def row_is_last(rows: list[list[str | int]], harness: str, unit: str) -> bool:
    """A test that fails without having counted its failure failed in what it counted last."""
    return bool(rows) and rows[-1][:2] == [harness, unit]
