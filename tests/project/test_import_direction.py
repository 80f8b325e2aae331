"""Imports point one way, and only the outer layers know programs that we do not bring along."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lib_adapters"
ORDER = (
    "errors",
    "filesystem",
    "ops",
    "prompt",
    "algorithms",
    "files",
    "patching",
    "conditioning",
    "session",
    "library",
    "hosts",
)
OUTER = {"app", "demo", "__main__", "__init__"}  # may import everything
HOSTS = {"modules", "gradio", "fastapi", "diffusers", "transformers", "ldm", "sgm"}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Also inside functions: a late import is a dependency too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports break in the host's loader"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    layer, names = layer_of(path), list(imported(path))
    if layer not in OUTER:
        ours = {name.split(".")[1] for name in names if name.startswith("lib_adapters.")}
        assert ours <= set(ORDER[: ORDER.index(layer) + 1])
    if layer not in {"hosts", "app", "demo"}:
        assert {name.split(".")[0] for name in names}.isdisjoint(HOSTS)


def test_every_layer_is_there():
    assert {layer_of(path) for path in FILES} == {*ORDER, *OUTER}
