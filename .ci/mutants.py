"""What the tests would let pass: one file is broken in one place after another, and the tests are asked each time.

    .venv/bin/python .ci/mutants.py lib_adapters/prompt/*.py -- tests/test_prompt_*.py

The tests are collected and run once, to see which of them come through which function. Each mutant is a fork in which
one function has other code, and the tests that come through it are asked, the quickest first: so give it many. Linux,
one core; not a part of the normal checks. What lies outside functions, and text, is left as it is. Survivors are
printed one by one: each is a test to write, code that is not needed, or a change that nobody could see (a cache's size,
a loop's step).
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.outcomes import Skipped
from _pytest.runner import CallInfo
from _pytest.tmpdir import tmppath_result_key
from breaking import code_of, mutants

SECONDS = 30.0  # of tests for one mutant, as long as they take without it: the slower ones are not asked
LONGER = 3  # times as long, and a mutant is taken to go on for ever
Line = tuple[str, int]  # file, number
Known = tuple[float, set[Line]]  # of a test: its seconds, and where it comes through


def fails(items: list[pytest.Item], watch: Callable[[pytest.Item], None] = lambda _: None) -> str:
    """The first test that fails, "" where all pass. `watch` is told of each one that has ended."""
    for item, following in zip(items, [*items, None][1:], strict=True):
        item._initrequest()  # type: ignore[attr-defined]
        item.stash[tmppath_result_key] = {}
        for when, more in (("setup", {}), ("call", {}), ("teardown", {"nextitem": following})):
            hook = getattr(item.ihook, f"pytest_runtest_{when}")
            done = CallInfo.from_call(lambda hook=hook, more=more, item=item: hook(item=item, **more), when=when)
            if done.excinfo is not None and not done.excinfo.errisinstance(Skipped):
                return item.nodeid
        watch(item)
    return ""


def forked(work: Callable[[], object], seconds: float = 0) -> tuple[int, object]:
    """Its exit status, and what `work` gave where that is 0."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            with os.fdopen(write, "wb") as told:
                pickle.dump(work(), told)
        finally:  # nothing goes on in here, whatever happens
            os._exit(sys.exc_info()[0] is not None)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        said = told.read()
    status = os.waitpid(child, 0)[1]
    return status, None if status else pickle.loads(said)


class Watch:
    """Through which lines, that begin a function of the files, each test comes; and how long it takes."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = {str(path) for path in paths}
        self.lines, self.found, self.since = set[Line](), dict[str, Known](), time.monotonic()

    def __call__(self, item: pytest.Item) -> None:
        self.found[item.nodeid] = time.monotonic() - self.since, self.lines
        self.lines, self.since = set(), time.monotonic()

    def run(self, items: list[pytest.Item]) -> tuple[str, dict[str, Known]]:
        sys.setprofile(self.see)
        return fails(items, self), self.found

    def see(self, frame: types.FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename in self.paths:
            self.lines.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))


class Asking:
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.counts = {"mutants": 0, "survivors": 0, "out of time": 0, "no test comes through": 0}
        self.killers: dict[str, int] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        everything = [one for one in gc.get_objects() if type(one) is types.FunctionType]
        where = [(one.__code__.co_filename, one.__code__.co_firstlineno, one) for one in everything]
        status, said = forked(lambda: Watch(self.paths).run(session.items))
        if status or said[0]:
            raise SystemExit(f"{said and said[0]} fails as it is ({status})")
        gc.freeze()
        for path in self.paths:
            before = dict(self.counts)
            for name, function, whole in mutants(path):
                first = min([function.lineno, *(mark.lineno for mark in function.decorator_list)])
                mine = [one for file, line, one in where if (file, line) == (str(path), first)]
                code = code_of(whole, first)
                if code is not None and all(one.__code__.co_freevars == code.co_freevars for one in mine):
                    lines = {(str(path), line) for line in range(first, function.end_lineno + 1)}
                    self.ask(name, mine, code, self.tests(session.items, said[1], lines))
            counts = ", ".join(f"{self.counts[what] - had} {what}" for what, had in before.items())
            print(f"{path.name}: {counts}", flush=True)
        return True

    def tests(
        self, items: list[pytest.Item], known: dict[str, Known], lines: set[Line]
    ) -> tuple[list[pytest.Item], float]:
        """Those that come through these lines, first what is quick and killed others; and their seconds."""
        through = [item for item in items if lines & known[item.nodeid][1]]
        chosen, seconds = [], 0.0
        for item in sorted(through, key=lambda one: known[one.nodeid][0] / (1 + self.killers.get(one.nodeid, 0))):
            if seconds + known[item.nodeid][0] < SECONDS or not chosen:
                chosen.append(item)
                seconds += known[item.nodeid][0]
        return chosen, seconds

    def ask(
        self, name: str, mine: list[types.FunctionType], code: types.CodeType, tests: tuple[list[pytest.Item], float]
    ) -> None:
        status, killer = forked(lambda: swapped(mine, code, tests[0]), LONGER * tests[1] + 5)
        self.counts["mutants"] += 1
        self.counts["out of time"] += bool(status)
        self.counts["no test comes through"] += not tests[0]
        if killer:
            self.killers[killer] = self.killers.get(killer, 0) + 1
        elif not status:
            self.counts["survivors"] += 1
            print(f"{name}    ({len(tests[0])} tests)", flush=True)


def swapped(functions: list[types.FunctionType], code: types.CodeType, tests: list[pytest.Item]) -> str:
    """The test that fails with this code in the functions' place."""
    for function in functions:
        function.__code__ = code
    return fails(tests)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    at = sys.argv.index("--")
    plugin = Asking([Path(name).resolve() for name in sys.argv[1:at]])
    off = ("cacheprovider", "xdist", "unraisableexception", "threadexception")
    options = ["-q", "-s", "--assert=plain", *(f"-pno:{name}" for name in off)]
    pytest.main([*options, *sys.argv[at + 1 :]], plugins=[plugin])
    print(", ".join(f"{count} {what}" for what, count in plugin.counts.items()))
