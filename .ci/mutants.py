"""What the tests would let pass: one file is broken in one place after another, and the tests are asked each time.

    .venv/bin/python .ci/mutants.py lib_adapters/prompt/*.py -- tests/test_prompt_*.py

The tests are collected and run once, to see which of them come through which function. Each mutant is a fork in which
one function has other code, and the tests that come through it are asked, the quickest first: so give it many. Linux,
one core; not a part of the normal checks. What lies outside functions, and text, is left as it is. Survivors are
printed one by one: each is a test to write, code that is not needed, or a change that nobody could see (a cache's size,
a loop's step).
"""

from __future__ import annotations

import ast
import copy
import gc
import os
import pickle
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.outcomes import Skipped
from _pytest.runner import CallInfo
from _pytest.tmpdir import tmppath_result_key

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
SECONDS = 30.0  # of tests for one mutant, as long as they take without it: the slower ones are not asked
LONGER = 3  # times as long, and a mutant is taken to go on for ever
Place = tuple[ast.AST, str, int | None]
Line = tuple[str, int]  # file, number
Known = tuple[float, set[Line]]  # of a test: its seconds, and where it comes through


def places(node: ast.AST) -> Iterator[tuple[Place, ast.AST]]:
    """Everything below the node and where it hangs; of functions the body alone, and no text of errors."""
    for name, value in ast.iter_fields(node):
        if name == "annotation" or (isinstance(node, ast.FunctionDef) and name != "body"):
            continue
        for n, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Raise):
                yield (node, name, n if isinstance(value, list) else None), child
                yield from places(child)


def others(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand there instead."""
    if isinstance(node, ast.Compare):
        yield from (_with(node, ops=_put(node.ops, n, SWAPS[type(op)]())) for n, op in enumerate(node.ops))
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield _with(node, op=SWAPS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        for n in range(len(node.values)):
            rest = node.values[:n] + node.values[n + 1 :]
            yield rest[0] if len(rest) == 1 else _with(node, values=rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    else:
        yield from _less(node)


def _less(node: ast.AST) -> Iterator[ast.AST]:
    """Without a choice, an end, a filter, a step."""
    if isinstance(node, ast.If | ast.IfExp):
        yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
    elif isinstance(node, ast.Slice):
        yield from (_with(node, **{end: None}) for end in ("lower", "upper") if getattr(node, end))
    elif isinstance(node, ast.comprehension):
        yield from (_with(node, ifs=node.ifs[:n] + node.ifs[n + 1 :]) for n in range(len(node.ifs)))
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    twin = copy.copy(node)
    for name, value in fields.items():
        setattr(twin, name, value)
    return twin


def _put(values: list[ast.cmpop], n: int, value: ast.AST) -> list[ast.AST]:
    return [*values[:n], value, *values[n + 1 :]]


def mutants(path: Path) -> Iterator[tuple[str, ast.FunctionDef, types.CodeType]]:
    """Where and what, the function it is in, and the whole file's code with it."""
    tree = ast.parse(path.read_text())
    outer = [part for node in tree.body for part in (node.body if isinstance(node, ast.ClassDef) else [node])]
    for function in (part for part in outer if isinstance(part, ast.FunctionDef)):
        for (owner, name, n), node in list(places(function)):
            for other in others(node):
                ast.copy_location(other, node)
                with_it = getattr(owner, name)
                setattr(owner, name, other if n is None else _put(with_it, n, other))
                said = f"{path}:{getattr(node, 'lineno', function.lineno)}: {ast.unparse(node)} -> {ast.unparse(other)}"
                yield said.splitlines()[0], function, compile(ast.fix_missing_locations(tree), path, "exec")
                setattr(owner, name, with_it)


def code_of(code: types.CodeType, line: int) -> types.CodeType | None:
    """Of the function that begins in this line."""
    inside = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    here = next((const for const in inside if const.co_firstlineno == line and const.co_flags & 1), None)
    return here or next((found for const in inside if (found := code_of(const, line))), None)


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
