"""The two commands, and the web UI's check.

    python install.py demo [--no-page]             pictures with every bundled adapter, then a page to draw your own
    python install.py test [pytest's arguments]    ruff, mypy and the tests
    python install.py test --pins current|host|floor ... the same tests under other releases of what we stand on

Both make a virtual environment beside this file the first time; nothing outside this folder is changed. Without
arguments (that is how the web UI runs it) nothing is installed: it only looks whether the host's packages are new
enough.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements"
TORCH = "2.13.0"
FLOOR = "2.1.2"  # the web UI's own since 1.8
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
MIN_VERSIONS = {"torch": (2, 0), "safetensors": (0, 3, 1)}  # the web UI 1.6 brings these
PINS = ("current", "host", "floor")
# minor versions, first and last
PYTHON_VERSIONS = {"demo": (10, 12), "test": (10, 12), "current": (11, 12), "host": (10, 11), "floor": (10, 11)}
REQUIREMENT_FILES = {
    "demo": ["demo"],
    "test": ["test", "models-no-deps", "trainers-no-deps"],
    "current": ["current", "models-no-deps"],
    "host": ["host", "models-no-deps"],
    "floor": ["floor", "models-no-deps"],
}


class SetupError(Exception):
    """Something the user must do first, in one sentence."""


def main(arguments: list[str]) -> int:
    if not arguments:
        return check_versions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=("demo", "test"))
    parser.add_argument("--pins", choices=PINS, help="another set of releases, for `test`")
    given, rest = parser.parse_known_args(arguments)
    try:
        return demo(rest) if given.command == "demo" else test(given.pins, rest)
    except SetupError as reason:
        print(reason, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def check_versions() -> int:
    """One line at most, never an error: the web UI goes on whatever it says."""
    missing = []
    if sys.version_info < (3, 10):  # noqa: UP036 - an older one may well run this file
        missing.append("Python 3.10")
    for name, least in MIN_VERSIONS.items():
        try:
            found = str(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found = "0"
        if tuple(int(number) for number in re.findall(r"\d+", found)[:3]) < least:
            missing.append(f"{name} {'.'.join(map(str, least))}")
    if missing:
        print(f"LyCORIS bundle: this needs {', '.join(missing)} or newer; the web UI's own start script updates them.")
    return 0


def demo(arguments: list[str]) -> int:
    """First the sheet, then the page until Ctrl-C; what names a model or adapters is for both."""
    parser = argparse.ArgumentParser(prog="install.py demo", allow_abbrev=False, add_help=False)
    parser.add_argument("--no-page", action="store_true")
    for name in ("--host", "--port", "--model", "--device"):
        parser.add_argument(name)
    parser.add_argument("--adapters", nargs="+")
    parser.add_argument("--no-browser", action="store_true")
    given, rest = parser.parse_known_args(arguments)
    both = [
        *as_arguments("--model", given.model),
        *as_arguments("--device", given.device),
        *as_arguments("--adapters", given.adapters),
    ]
    own = [
        *as_arguments("--host", given.host),
        *as_arguments("--port", given.port),
        *["--no-browser"] * given.no_browser,
    ]
    start = [prepare_environment("demo"), "-m", "lib_adapters"]
    code = subprocess.call([*start, "generate", "--compare", *rest, *both], cwd=ROOT)
    if code or given.no_page:
        return code
    return subprocess.call([*start, "page", *both, *own], cwd=ROOT)


def as_arguments(name: str, value: str | list[str] | None) -> list[str]:
    """As it stood on the command line."""
    if value is None:
        return []
    return [name, *([value] if isinstance(value, str) else value)]


def test(pins: str | None, arguments: list[str]) -> int:
    python = prepare_environment(pins or "test")
    tools = [["ruff", "check", "."], *(["mypy", "--strict", "--python-version", one] for one in ("3.10", "3.12"))]
    if not pins:
        install_oracles(python)
    failed = [" ".join(tool) for tool in ([] if pins else tools) if run_logged([python, "-m", *tool])]
    workers = [] if pins or "-n" in arguments else ["-n", "2"]
    if run_logged([python, "-m", "pytest", *workers, *arguments]):
        failed.append("pytest")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def prepare_environment(kind: str) -> str:
    """The interpreter of a ready environment. `demo` and `test` share one folder; what is already there is kept."""
    first, last = PYTHON_VERSIONS[kind]
    if not (3, first) <= sys.version_info[:2] <= (3, last):
        raise SetupError(f"This needs Python 3.{first} to 3.{last}; you ran it with {sys.version.split()[0]}.")
    folder = ROOT / (f".venv-{kind}" if kind in PINS else ".venv")
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    stamp, wanted = folder / f"installed-{kind}", fingerprint(kind)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    if not Path(python).is_file() and subprocess.call([sys.executable, "-m", "venv", str(folder)]):
        shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(
            "Python could not make a virtual environment (on Debian and Ubuntu: apt install python3-venv)."
        )
    print(f"Installing into {folder.name}; this happens once.", flush=True)
    for name in REQUIREMENT_FILES[kind]:
        first = ["--no-deps"] if name.endswith("no-deps") else torch_arguments(python, torch_version_of(kind))
        pip(python, *first, "-r", str(REQUIREMENTS / f"{name}.txt"))
    stamp.write_text(wanted, encoding="utf-8")
    return python


def fingerprint(kind: str) -> str:
    """Changes when the pins or the interpreter do."""
    files = sorted(path for path in REQUIREMENTS.glob("*.txt") if path.name != "oracles.txt")
    texts = [path.read_text(encoding="utf-8") for path in files]
    return hashlib.sha256("\n".join([sys.version, torch_version_of(kind), kind, *texts]).encode()).hexdigest()


def pip(python: str, *arguments: str) -> None:
    """Its progress is left visible; `--upgrade` is never used."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--prefer-binary"]
    if subprocess.call([*command, *arguments], cwd=ROOT):
        raise SetupError(
            "pip could not install what is needed; its last lines say why. Then run the same command again."
        )


def torch_version_of(kind: str) -> str:
    return FLOOR if kind == "floor" else TORCH


def torch_arguments(python: str, version: str) -> list[str]:
    """The small CPU build where no NVIDIA GPU is: from wherever the user's pip looks, else from PyTorch's own index."""
    plain, cpu = f"torch=={version}", f"torch=={version}+cpu"
    if sys.platform == "darwin" or has_nvidia_gpu():
        return [plain]
    for arguments in ([cpu], [cpu, "--extra-index-url", CPU_WHEELS]):
        trial = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-input", "--quiet", *arguments]
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return arguments
    return [plain]


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([str(tool), "-L"], capture_output=True, check=False).stdout.startswith(b"GPU")


def install_oracles(python: str) -> None:
    """Old releases of lycoris-lora, for the tests that compare with them; without one its tests say so and skip."""
    lines = (REQUIREMENTS / "oracles.txt").read_text(encoding="utf-8").splitlines()
    for version in (line for line in lines if line and not line.startswith("#")):
        folder = Path(python).parent.parent / "oracles" / f"lycoris-{version}"
        if folder.is_dir():
            continue
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [python, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--target", str(partial)]
        if subprocess.call([*command, f"lycoris-lora=={version}"]) == 0:
            partial.rename(folder)
        else:
            shutil.rmtree(partial, ignore_errors=True)
            print(f"lycoris-lora {version} could not be installed; the tests against it will be skipped.")


def run_logged(command: list[str]) -> int:
    print(f"\n== {' '.join(command[2:])}", flush=True)
    return subprocess.call(command, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
