"""Keep names in the field's terms: the glossary and the rules are in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [file for folder in ("lib_adapters", "benchmarks", "scripts") for file in sorted((ROOT / folder).rglob("*.py"))]
# fmt: off
FORBIDDEN = frozenset(  # metaphors and private words, and what the glossary replaces
    [
        "anew", "asked", "dial", "dials", "ear", "ears", "hears", "letters", "motion", "nobody", "pace",
        "picture", "pristine", "rival", "rivals", "shelf", "somebody", "speak", "spoken", "stand",
        "strangers", "studio", "told", "twin", "twins", "voice", "voices", "whoever",
    ]
)
# fmt: on
ALLOWED = {"demo"}  # names of subjects that the bundled model draws
SHARED = {  # modules of one job in several packages
    "__init__", "__main__", "aesthetic_encoder", "base_model", "clip_projection", "errors", "merge",
    "previews", "textual_inversion",
}  # fmt: skip


def words_of(name: str) -> list[str]:
    """Return the words of an identifier in snake or camel case."""
    return re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower())


def identifiers(file: Path) -> Iterator[tuple[int, str]]:
    """Yield every name that a file defines: modules, classes, functions, parameters, attributes and variables."""
    yield 0, file.stem
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def test_no_identifier_has_a_private_word():
    named = [file for file in FILES if not ALLOWED & set(file.parts)]
    wrong = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in named
        for line, name in identifiers(file)
        if FORBIDDEN & set(words_of(name))
    ]
    assert wrong == []
    assert len(named) > 200  # else the wrong place was searched


def test_no_two_packages_share_the_name_of_a_module():
    names = Counter(file.stem for file in FILES if file.is_relative_to(ROOT / "lib_adapters"))
    assert sorted(name for name, count in names.items() if count > 1 and name not in SHARED) == []


def test_no_two_modules_differ_by_a_plural_s():
    for folder in {file.parent for file in FILES}:
        names = {file.stem for file in folder.glob("*.py")}
        assert sorted(name for name in names if f"{name}s" in names) == []
