"""Feed untrusted input to every reader: it returns or raises one of our errors, at bounded cost, and runs no code.

`python -m tests.robustness.fuzz` searches for as long as you like. This module runs the inputs that were kept of such
searches, some random inputs of a fixed seed, and a few seconds of the search itself.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import platform
import sys
from pathlib import Path

import pytest

from tests.robustness.fuzz.__main__ import guided
from tests.robustness.fuzz.inputs import KEPT, changed, kept
from tests.robustness.fuzz.registry import NAMES, load
from tests.support.input_bounds import Bound, Broken, counted, patience, watched, within

RANDOM = {
    "headers": 4500, "pictures": 4500, "tags": 6000, "pickles": 1800, "presets": 800, "edits": 800, "dialects": 1500,
    "routes": 1200, "sidecars": 800, "programs": 400, "index": 120,
}  # fmt: skip
SECONDS = 1  # of each target's search
SMALL = 300_000  # bytes of all that is kept


@pytest.fixture(autouse=True)
def quiet_only_here():
    """Targets silence the log, as their inputs would fill it; the tests after these want to read it."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_were_kept_hold(name, tried):
    target, inputs = load(name), tried(f"fuzz: {name}", "kept inputs")
    target.warm()
    for data in [*target.seeds(), *kept(target)]:
        inputs.add()
        target.check(data)


@pytest.mark.parametrize("name", NAMES)
def test_random_inputs_hold(name, tried):
    target, inputs = load(name), tried(f"fuzz: {name}", "random inputs")
    target.warm()
    for number, data in enumerate(changed(target, RANDOM[name], seed=1)):
        inputs.add()
        try:
            target.check(data)
        except Exception as error:
            raise AssertionError(f"number {number} of {name}: {error!r} by {data!r}") from error


@pytest.mark.slow
def test_inputs_that_coverage_leads_to_hold(tried, tmp_path):
    if importlib.util.find_spec("atheris") is None:
        there = sys.platform == "linux" and platform.machine() == "x86_64" and (3, 11) <= sys.version_info < (3, 13)
        pytest.skip(f"{'oracle: ' if there else ''}atheris is not installed")
    results = list(guided(NAMES, SECONDS, tmp_path))
    for result in results:
        tried(f"fuzz: {result.name}", "guided inputs").add(result.inputs)
    assert [result.name for result in results] == list(NAMES)
    assert not [f"{path}: {result.log[-3000:]}" for result in results for path in result.failed]
    assert all(result.inputs > 0 < result.features for result in results)


def test_little_is_kept():
    assert sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) < SMALL
    assert {path.name for path in KEPT.iterdir()} <= NAMES.keys()
    assert RANDOM.keys() == NAMES.keys()
    assert sum(RANDOM.values()) >= 20_000


def endless() -> None:
    while True:
        pass


def test_what_costs_too_much_is_seen():
    with pytest.raises(Broken, match="calls where 10 may be"):
        counted(lambda: [len("") for _ in range(20)] and None, 10)
    with pytest.raises(Broken, match="not done after 1 seconds"), patience(1):
        endless()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_what_takes_too_much_memory_is_seen():
    gc.collect()  # what earlier tests left would be given back in the middle, and hide as much
    with pytest.raises(Broken, match="MB of memory where 8 may be"), within(8 << 20):
        assert len(b"x" * (256 << 20))


@pytest.mark.parametrize("act", ["eval('1')", "open('/etc/hostname').close()", "__import__('os').system('true')"])
def test_what_does_something_is_seen(act, tmp_path):
    compiled = compile(act, "act", "eval")
    with pytest.raises(Broken, match="it does"), watched(tmp_path):
        eval(compiled)


def test_a_bound_grows_with_the_input():
    assert Bound().calls_per_byte * 100 < Bound().calls
