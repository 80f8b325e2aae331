"""What the tests would let pass: one file is broken in one place after another, and the tests are asked each time.

    .venv/bin/python .ci/mutants.py lib_adapters/prompt/edit.py tests/test_prompt_edit.py

The tests are collected once; each mutant is a fork in which one function has other code. Linux, one core; not a part
of the normal checks. What lies outside functions, and text, is left as it is. Survivors are printed one by one: each
is a test to write, code that is not needed, or a change that nobody could see (a cache's size, a loop's step).
"""

from __future__ import annotations

import ast
import copy
import gc
import os
import signal
import sys
import types
from collections.abc import Iterator
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
SECONDS = 60  # for all tests on one mutant
Place = tuple[ast.AST, str, int | None]


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


def fails(items: list[pytest.Item]) -> str:
    """The first test that fails, "" where all pass."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item._initrequest()  # type: ignore[attr-defined]
        item.stash[tmppath_result_key] = {}
        for when, more in (("setup", {}), ("call", {}), ("teardown", {"nextitem": following})):
            hook = getattr(item.ihook, f"pytest_runtest_{when}")
            done = CallInfo.from_call(lambda hook=hook, more=more, item=item: hook(item=item, **more), when=when)
            if done.excinfo is not None and not done.excinfo.errisinstance(Skipped):
                return item.nodeid
    return ""


def asked(items: list[pytest.Item], functions: list[types.FunctionType], code: types.CodeType) -> tuple[int, str]:
    """In a process of its own: its exit status (0 where all tests pass), and the test that failed."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        for function in functions:
            function.__code__ = code
        os.write(write, (failed := fails(items)).encode())
        os._exit(bool(failed))
    os.close(write)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(read) as told:
        return status, told.read()


class Asking:
    def __init__(self, path: Path) -> None:
        self.path, self.counts = path, {"mutants": 0, "survivors": 0, "out of time": 0}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = list(session.items)
        everything = [one for one in gc.get_objects() if type(one) is types.FunctionType]
        if broken := asked(items, [], self.pytest_runtestloop.__code__)[1]:
            raise SystemExit(f"{broken} fails as it is")
        gc.freeze()
        for said, function, whole in mutants(self.path):
            line = min([function.lineno, *(mark.lineno for mark in function.decorator_list)])
            codes = ((one, one.__code__) for one in everything)
            mine = [one for one, had in codes if (had.co_filename, had.co_firstlineno) == (str(self.path), line)]
            code = code_of(whole, line)
            if code is None or any(f.__code__.co_freevars != code.co_freevars for f in mine):
                continue
            status, killer = asked(items, mine, code)
            self.counts["mutants"] += 1
            self.counts["survivors"] += status == 0
            self.counts["out of time"] += os.WIFSIGNALED(status)
            if status == 0:
                print(said, flush=True)
            items.sort(key=lambda item: item.nodeid != killer)  # the next one's too, often
        return True


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    plugin = Asking(Path(sys.argv[1]).resolve())
    off = ("cacheprovider", "xdist", "unraisableexception", "threadexception")
    pytest.main(["-q", "-s", "--assert=plain", *(f"-pno:{name}" for name in off), *sys.argv[2:]], plugins=[plugin])
    print(", ".join(f"{count} {what}" for what, count in plugin.counts.items()))
