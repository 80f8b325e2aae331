"""install.py: silent and harmless for the web UI, reproducible for the two commands."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.trainer_oracles import RELEASES

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"


@pytest.fixture
def install(monkeypatch, tmp_path):
    """The script as a module whose environments would lie in a folder of this test."""
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def calls(install, monkeypatch):
    """Every command that would have been run; all of them succeed."""
    found: list[list[str]] = []

    def call(command, **_):
        found.append(command)
        if command[1:3] == ["-m", "venv"]:
            (Path(command[3]) / "bin").mkdir(parents=True)
            (Path(command[3]) / "bin" / "python").touch()
        if "--target" in command:
            Path(command[command.index("--target") + 1]).mkdir(parents=True)
        return 0

    monkeypatch.setattr(install.subprocess, "call", call)
    monkeypatch.setattr(install, "torch_arguments", lambda python, version: [f"torch=={version}"])
    return found


def test_the_web_ui_hears_nothing_and_waits_less_than_a_second():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / "install.py")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.perf_counter() - started < 5  # under a second on a machine that does nothing else


@pytest.mark.parametrize("found", ["1.13.1+cu117", "none", ""])
def test_an_old_torch_is_one_line_and_no_failure(install, monkeypatch, capsys, found):
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: found if name == "torch" else "0.4.2")
    assert install.main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert "torch 2.0" in said[0]
    assert "safetensors" not in said[0]


def test_a_missing_package_is_no_failure_either(install, monkeypatch, capsys):
    def missing(name):
        raise install.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(install.importlib.metadata, "version", missing)
    assert install.main([]) == 0
    assert "torch 2.0, safetensors 0.3.1" in capsys.readouterr().out


def test_demo_installs_once_and_then_draws(install, calls):
    for _ in range(2):
        assert install.main(["demo", "--no-page", "--out", "sheet.png"]) == 0
    installs = [command for command in calls if "install" in command]
    assert [command[-1] for command in installs] == [str(REQUIREMENTS / "demo.txt")]
    assert "torch==2.13.0" in installs[0]
    draws = [command[1:] for command in calls if "generate" in command]
    assert draws == [["-m", "lib_adapters", "generate", "--compare", "--out", "sheet.png"]] * 2
    assert not any("page" in command for command in calls)


def test_demo_ends_with_the_page(install, calls):
    more = ["--model", "m", "--adapters", "a", "b", "--port", "80", "--host", "0.0.0.0", "--no-browser", "--steps", "2"]
    assert install.main(["demo", *more]) == 0
    shared = ["--model", "m", "--adapters", "a", "b"]
    assert [command[1:] for command in calls if command[1:3] == ["-m", "lib_adapters"]] == [
        ["-m", "lib_adapters", "generate", "--compare", "--steps", "2", *shared],
        ["-m", "lib_adapters", "page", *shared, "--host", "0.0.0.0", "--port", "80", "--no-browser"],
    ]


def test_no_page_follows_a_failure(install, calls, monkeypatch):
    call = install.subprocess.call
    monkeypatch.setattr(install.subprocess, "call", lambda command, **more: call(command) or 2 * ("--bad" in command))
    assert install.main(["demo", "--bad"]) == 2
    assert not any("page" in command for command in calls)


def test_test_runs_the_tools_and_fetches_each_oracle_once(install, calls):
    for _ in range(2):
        assert install.main(["test", "-k", "word", "tests/x.py"]) == 0
    assert [command[2:] for command in calls if command[2] in ("ruff", "mypy", "pytest")] == 2 * [
        ["ruff", "check", "."],
        ["mypy", "--strict", "--python-version", "3.10"],
        ["mypy", "--strict", "--python-version", "3.12"],
        ["pytest", "-n", "2", "-k", "word", "tests/x.py"],
    ]
    fetched = [command[-1] for command in calls if "--target" in command]
    assert len(fetched) == len(set(fetched))
    assert {f"lycoris-lora=={version}" for version in RELEASES} <= set(fetched)
    assert all("--no-deps" in command for command in calls if "--target" in command)


@pytest.mark.parametrize("case", [("current", "2.13.0"), ("host", "2.13.0"), ("floor", "2.1.2")])
def test_other_pins_have_an_environment_of_their_own(install, calls, monkeypatch, tmp_path, case):
    pins, torch = case
    monkeypatch.setattr(install.sys, "version_info", (3, 11, 7, "final", 0))
    assert install.main(["test", "--pins", pins, "tests/x.py"]) == 0
    assert (tmp_path / f".venv-{pins}").is_dir()
    assert [command[-3:] for command in calls if str(REQUIREMENTS / f"{pins}.txt") in command] == [
        [f"torch=={torch}", "-r", str(REQUIREMENTS / f"{pins}.txt")]
    ]
    assert not (tmp_path / ".venv").exists()
    assert not any("--target" in command or "ruff" in command for command in calls)


def test_a_failing_tool_fails_the_command(install, calls, monkeypatch, capsys):
    monkeypatch.setattr(install, "run_logged", lambda command: int("mypy" in command))
    assert install.main(["test"]) == 1
    types = "mypy --strict --python-version"
    assert capsys.readouterr().err == f"Failed: {types} 3.10, {types} 3.12\n"


@pytest.mark.parametrize(
    "case", [((), (3, 9)), ((), (3, 13)), (("--pins", "host"), (3, 12)), (("--pins", "floor"), (3, 12))]
)
def test_a_python_that_cannot_work_is_refused_in_one_sentence(install, calls, monkeypatch, capsys, case):
    pins, version = case
    monkeypatch.setattr(install.sys, "version_info", (*version, 0, "final", 0))
    assert install.main(["test", *pins]) == 2
    assert "This needs Python 3.1" in capsys.readouterr().err
    assert calls == []


def test_an_interrupted_installation_is_not_taken_for_a_whole_one(install, calls, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "pip", stop)
    assert install.main(["demo"]) == 130
    assert not list(tmp_path.rglob("installed-*"))


@pytest.mark.parametrize(
    ("gpu", "works", "chosen"),
    [
        (True, 0, ["torch==2.13.0"]),
        (False, 1, ["torch==2.13.0+cpu"]),
        (False, 2, ["torch==2.13.0+cpu", "--extra-index-url", "https://download.pytorch.org/whl/cpu"]),
        (False, 3, ["torch==2.13.0"]),
    ],
)
def test_which_torch(install, monkeypatch, gpu, works, chosen):
    """`works` is the number of the attempt that pip can follow."""
    attempts: list[list[str]] = []

    def trial(command, **_):
        attempts.append(command)
        return subprocess.CompletedProcess(command, int(len(attempts) != works))

    monkeypatch.setattr(install, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(install.subprocess, "run", trial)
    monkeypatch.setattr(install.sys, "platform", "linux")
    assert install.torch_arguments("python", "2.13.0") == chosen
    assert all("--dry-run" in command for command in attempts)


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda file: file.name)
def test_every_requirement_is_pinned(file):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith(("#", "-r "))]
    pattern = r"[\w.]+" if file.name == "oracles.txt" else r"[\w.-]+==[\w.+]+(; .+)?"
    assert lines
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    assert len({line.split("==")[0].lower() for line in lines}) == len(lines)
