"""The strength of one request as it is for the coming run: by the step, by the rows, by the noise."""

from __future__ import annotations

import pytest

from lib_adapters import Request
from lib_adapters.patching.patch import ScheduledStrength
from lib_adapters.prompt.schedule import Curve, Position, SamplingStep, Window
from tests.support.sample_adapters import adapter_for, lora
from tests.unit.patching.test_request_options import layer

RISE = Curve("share", ((0.0, 0.0), (1.0, 4.0)))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return adapter_for(layer(), tmp_path_factory.mktemp("dial") / "ink.safetensors", lambda *a: lora(*a, rank=4))


def turned(request, part="unet", step=0, timestep=None):
    dial = ScheduledStrength(request, part)
    dial.set_step(SamplingStep(step, 5, timestep=timestep))
    return dial


def test_the_unet_follows_curve_and_window_and_the_text_has_one_strength(adapter):
    request = Request(adapter, RISE, 0.75, window=Window(start=Position(2.0, "step")))
    assert [turned(request, step=step).value for step in range(5)] == [0, 0, 2, 3, 4]
    assert [turned(request, "te", step).value for step in range(5)] == [0.75] * 5


def test_ranks_follow_a_number_a_curve_and_the_noise(adapter):
    algorithm = next(iter(adapter.load().algorithms.values()))
    assert [turned(Request(adapter, dyn=RISE), step=step).rank for step in range(5)] == [1, 1, 2, 3, 4]
    assert turned(Request(adapter, dyn=3)).truncate(algorithm).rank == 3
    assert turned(Request(adapter)).truncate(algorithm) is algorithm
    noise = [
        turned(Request(adapter, dyn="timestep"), timestep=t).truncate(algorithm).rank for t in (1000, 700, 600, 300, 0)
    ]
    assert noise == [1, 1, 2, 3, 4]
    nearly = Curve("share", ((0.0, 3 - 1e-12), (1.0, 1.0)))
    assert turned(Request(adapter, dyn=nearly)).rank == 3


@pytest.mark.parametrize(
    ("scope", "rows", "factors", "share"),
    [
        (None, (0, 1), None, 1.0),
        ({0}, None, None, 1.0),
        ({0}, (0, 1), (1.0, 0.0), 1.0),
        ({0, 1}, (0, 1), None, 1.0),
        ({2}, (0, 1), None, 0.0),
        ({2}, (), None, 0.0),
    ],
)
def test_it_acts_on_the_rows_of_its_scope(adapter, scope, rows, factors, share):
    dial = turned(Request(adapter, 0.5, rows=None if scope is None else frozenset(scope)))
    dial.set_rows(rows)
    assert (dial.row_strengths, dial.progress, dial.value) == (factors, share, 0.5 * share)
    assert dial.state == (0.5 * share, None, None, factors)
