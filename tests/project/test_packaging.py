"""The package as pip makes it, what it needs of other packages; and no text depends on a machine's own encoding."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    ROOT / "install.py",
    *(p for f in ("lib_adapters", "benchmarks", "scripts") for p in (ROOT / f).rglob("*.py")),
]
OWN = "sd-webui-lycoris-bundle"
COMMANDS = ("generate", "page", "inspect", "list", "merge", "convert", "verify", "aesthetic")
OPENERS = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"}
OTHERS = {"Generator", "Image", "webbrowser", "os", "self"}  # their `open` opens no text
ALONE = """
import importlib.metadata, sys
allowed = set(sys.argv[1].split(","))
theirs = {name for name, by in importlib.metadata.packages_distributions().items() if not allowed & set(by)}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in theirs:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from lib_adapters.app.main import main

for line in sys.argv[2:]:
    try:
        code = main(line.split())
    except SystemExit as stop:
        code = stop.code
    print("ended", code)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """What is installed; made from a copy, because building leaves things behind."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "lib_adapters", place / "source" / "lib_adapters", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(place), str(place / "source")], check=True)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        wheel.extractall(place / "installed")
    return place / "installed"


def run(unpacked: Path, *lines: str) -> str:
    """What these command lines print and end with, where nothing but what the package declares is installed."""
    command = [sys.executable, "-c", ALONE, ",".join(sorted(declared(unpacked))), *lines]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.stdout + done.stderr


def declared(unpacked: Path) -> set[str]:
    """Distributions that come with the package: what it requires, and what those require."""
    metadata = next(unpacked.glob("*.dist-info")) / "METADATA"
    waiting = requirements(re.findall(r"^Requires-Dist: (.*)", metadata.read_text(encoding="utf-8"), re.MULTILINE))
    installed = {normal(found.name): found for found in importlib.metadata.distributions()}
    found = {OWN}
    while waiting:
        name = waiting.pop()
        if name in installed and installed[name].name not in found:
            found.add(installed[name].name)
            waiting |= requirements(installed[name].requires or ())
    return found


def requirements(lines) -> set[str]:
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines if "extra ==" not in line}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(unpacked):
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lib_adapters").rglob("*") if path.is_file()}
    packed = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {path for path in tracked - packed if "__pycache__" not in path} == set()


def test_the_wheel_can_be_made_for_every_python_that_the_readme_names(unpacked):
    metadata = (next(unpacked.glob("*.dist-info")) / "METADATA").read_text(encoding="utf-8")
    assert "Requires-Python: >=3.10" in metadata


@pytest.mark.slow
def test_the_command_line_needs_nothing_that_the_package_does_not_require(unpacked, tried):
    """What only some commands need is named when it is missing."""
    lines = ["--help", *(f"{command} --help" for command in COMMANDS)]
    tried("packaging", "command lines").add(len(lines) + 2)
    said = run(unpacked, *lines, "inspect lib_adapters/demo/adapters/gold_lora.safetensors", "generate house")
    assert re.findall(r"^ended (\d)", said, re.MULTILINE) == [*"0" * (len(lines) + 1), "2"], said
    assert "LoRA (148 layers)" in said
    assert "This needs the package diffusers, which is not installed here (pip install diffusers)." in said


def test_every_text_is_opened_with_an_encoding(tried):
    """The default is another one on Windows."""
    files = tried("platforms", "source files")
    assert len(SHIPPED) > 200
    for path in SHIPPED:
        files.add()
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        assert [f"{path.name}:{call.lineno}" for call in calls if lacks_encoding(call)] == []


@pytest.mark.parametrize(
    ("call", "lacks"),
    [
        ("open(p)", 1), ("open(p, 'w')", 1), ("p.open()", 1), ("p.open(mode='a')", 1), ("os.fdopen(h, 'w')", 1),
        ("p.read_text()", 1), ("p.write_text(t)", 1), ("run(c, text=True)", 1), ("open(p, 'rb')", 0),
        ("p.open('wb')", 0), ("open(p, encoding='utf-8')", 0), ("p.read_text('utf-8-sig')", 0), ("Image.open(p)", 0),
        ("p.write_text(t, encoding='utf-8')", 0), ("run(c, text=True, encoding='utf-8')", 0),
    ],
)  # fmt: skip
def test_which_calls_lack_an_encoding(call, lacks):
    assert lacks_encoding(ast.parse(call, mode="eval").body) == bool(lacks)


def lacks_encoding(call: ast.Call) -> bool:
    called = call.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    keys = {word.arg: word.value for word in call.keywords}
    if "encoding" in keys:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in OPENERS:
        owner = getattr(called, "value", None)
        return not (isinstance(owner, ast.Name) and owner.id in OTHERS and name == "open") and not binary(call, keys)
    return (
        name in ("run", "Popen", "check_output")
        and isinstance(keys.get("text"), ast.Constant)
        and keys["text"].value is True
    )


def binary(call: ast.Call, keys: dict[str | None, ast.expr]) -> bool:
    """Any argument that reads like a mode decides; a path is no constant of these letters."""
    given = [*call.args, *([keys["mode"]] if "mode" in keys else [])]
    return any(
        isinstance(one, ast.Constant) and "b" in str(one.value) and set(str(one.value)) <= set("rwaxb+")
        for one in given
    )
