"""Whoever reads a public name of the library's own layers finds a docstring there, and at each algorithm its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lib_adapters"
LAYERS = ("ops", "algorithms", "prompt", "files", "patching", "conditioning")
FILES = sorted(path for layer in LAYERS for path in (PACKAGE / layer).rglob("*.py"))
INTERFACES = {  # what other programs call: here the methods too
    "algorithms/base.py": "Algorithm",
    "algorithms/low_rank.py": "AdditiveAlgorithm",
    "library/library.py": "AdapterLibrary",
    "conditioning/hypernetwork_patcher.py": "HypernetworkPatcher",
    "files/adapter.py": "Adapter",
    "session.py": "Session",
}
INHERITED = {"AdditiveAlgorithm": {"delta", "add_delta_"}}  # told at Algorithm
SOURCE = re.compile(r"arXiv:\d{4}\.\d{5}|\b(LyCORIS|kohya|PEFT|OneTrainer|ai-toolkit|ComfyUI)\b")
Named = ast.ClassDef | ast.FunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def public(node: ast.Module | ast.ClassDef) -> Iterator[Named]:
    for found in node.body:
        if isinstance(found, Named) and not found.name.startswith("_") and not is_overload(found):
            yield found


def is_overload(node: Named) -> bool:
    """One of several signatures; the function itself has the docstring."""
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def class_named(tree: ast.Module, name: str) -> ast.ClassDef:
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return found


def registered() -> list[tuple[Path, str]]:
    """(file, class) of each algorithm, from the text of the registry alone."""
    tree = tree_of(PACKAGE / "algorithms" / "__init__.py")
    files = {
        alias.name: PACKAGE.parent.joinpath(*node.module.split(".")).with_suffix(".py")
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    (names,) = (
        [item.id for item in node.value.elts if isinstance(item, ast.Name)]
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ALGORITHMS"
        if isinstance(node.value, ast.Tuple)
    )
    return [(files[name], name) for name in names]


def test_every_public_class_and_function_has_a_docstring(tried):
    tally, silent = tried("docstrings", "names"), []
    for path in FILES:
        for node in public(tree_of(path)):
            tally.add()
            if not ast.get_docstring(node):
                silent.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}")
    tally.fail(len(silent))
    assert not silent
    assert tally.row[2] > 200  # else the wrong place was looked at


@pytest.mark.parametrize(("file", "name"), INTERFACES.items())
def test_every_method_that_others_call_has_a_docstring(file, name, tried):
    tally = tried("docstrings", "names")
    methods = [node for node in public(class_named(tree_of(PACKAGE / file), name)) if isinstance(node, ast.FunctionDef)]
    own = [node for node in methods if node.name not in INHERITED.get(name, ())]
    tally.add(len(own))
    assert own
    assert [node.name for node in own if not ast.get_docstring(node)] == []


@pytest.mark.parametrize(("path", "name"), registered(), ids=lambda value: getattr(value, "stem", value))
def test_every_algorithm_names_its_source(path, name, tried):
    tried("docstrings", "algorithms").add()
    tree = tree_of(path)
    said = f"{ast.get_docstring(tree)} {ast.get_docstring(class_named(tree, name))}"
    assert SOURCE.search(said)
