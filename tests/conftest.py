"""Model folders are made once for the whole run; tests that change one work on a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from lib_adapters.hosts.webui import name_resolver
from tests.fake_webui.webui import WebUI
from tests.support import no_network, short_run
from tests.support.tiny_pipelines import model_folder
from tests.support.torch_modes import Modes
from tests.support.trial_counter import Tried, opened, summed

no_network.begin()
torch.set_num_threads(1)  # the models are tiny: threads that wait for each other cost more than they give
# no test asserts a time, not even by hypothesis's default: a busy machine is no reason to be red
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run all tests and all their cases, not only the short run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the short run, unless all tests are wanted or the caller names files."""
    short_run.mark_by_folder(items)
    if config.getoption("--all") or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    kept = list(short_run.selected(items))
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny-sd1", "sd1")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny-sdxl", "sdxl")


@pytest.fixture(autouse=True)
def no_other_machine() -> Iterator[None]:
    """Also where whoever asked took the refusal for an answer."""
    yield
    assert no_network.taken() == []


@pytest.fixture(autouse=True)
def modes_of_torch() -> Iterator[None]:
    """A test that leaves a global mode of torch changed fails itself, instead of a test after it."""
    before = Modes.now()
    yield
    after = Modes.now()
    before.restore()
    assert after == before


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    """A name that is not there is looked for each time, however soon after the last one a test asks."""
    monkeypatch.setattr(name_resolver, "RESCAN_INTERVAL", -1.0)
    return WebUI(tmp_path / "models", monkeypatch)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    """The web UI with its built-in Lora disabled."""
    monkeypatch.setattr(name_resolver, "RESCAN_INTERVAL", -1.0)
    return WebUI(tmp_path / "models", monkeypatch, builtin_lora=False)


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """Counts what a harness tries: `tried("faults", "points").add()`; the sums stand at the end of the run."""
    return lambda harness, unit: opened(request.node, harness, unit)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ()) if r.when == "call"]
    if lines := summed(reports):
        terminalreporter.section("tried")
        for line in lines:
            terminalreporter.write_line(line)
