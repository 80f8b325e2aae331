"""What was tried is told at the end, also when the tests ran in workers and when one of them failed."""

from __future__ import annotations

from types import SimpleNamespace

from tests.support.trial_counter import MARK, Tally, summed


def report(rows, failed=False):
    return SimpleNamespace(user_properties=[(MARK, row) for row in rows], failed=failed)


def test_rows_of_one_harness_are_added():
    told = summed(
        [report([["faults", "points", 3, 0]]), report([["faults", "points", 4, 1], ["leaks", "switches", 9, 0]])]
    )
    assert told == ["faults: 7 points, 1 failed", "leaks: 9 switches, 0 failed"]


def test_a_failed_test_that_counted_no_failure_counts_as_one():
    assert summed([report([["a", "points", 3, 0], ["a", "routes", 2, 0]], failed=True)]) == [
        "a: 3 points, 0 failed",
        "a: 2 routes, 1 failed",
    ]


def test_counting_goes_into_the_report(tried, request):
    tally = tried("tally", "calls")
    assert isinstance(tally, Tally)
    tally.add()
    tally.add(2)
    assert (MARK, ["tally", "calls", 3, 0]) in request.node.user_properties
