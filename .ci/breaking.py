"""One file broken in one place after another, as code objects."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Iterator
from pathlib import Path

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
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
