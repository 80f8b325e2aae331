"""Selection of tests for the short run: enough to see that the product works, in a few minutes.

The short run leaves out tests marked `slow` and takes of each remaining test only some of its cases, evenly spread over
its parameters. Of the browser tests it takes the first of each module, which is one for each dialog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = ("browser", "oracle", "robustness")  # each is a marker, too
CASES = {"unit": 6, "project": 6, "integration": 2, "oracle": 1, "robustness": 1, "browser": 1}  # of one test


def folder_of(item: pytest.Item) -> str:
    """Return the name of the folder below tests/ in which a test is, such as `unit`."""
    return item.path.relative_to(TESTS).parts[0]


def mark_by_folder(items: Sequence[pytest.Item]) -> None:
    """Give the tests of some folders the marker of the same name."""
    for item in items:
        if (folder := folder_of(item)) in FOLDERS:
            item.add_marker(folder)


def selected(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the tests of the short run in their order."""
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    seen: set[Path] = set()
    for (path, _), cases in groupby(quick, lambda item: (item.path, getattr(item, "originalname", item.name))):
        if folder_of(first := (group := list(cases))[0]) == "browser":
            if path not in seen:
                yield first
            seen.add(path)
            continue
        yield from spread(group, CASES[folder_of(first)])


def spread(cases: Sequence[pytest.Item], count: int) -> list[pytest.Item]:
    """Return at most `count` of the cases, the first and the last among them."""
    if len(cases) <= count:
        return list(cases)
    if count == 1:
        return [cases[0]]
    return [cases[round(n * (len(cases) - 1) / (count - 1))] for n in range(count)]
