"""Whether a moving delta is merged anew or runs beside its layer, and how little is measured to know it."""

from __future__ import annotations

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.patching import apply_mode
from lib_adapters.prompt.schedule import SamplingStep, parse_curve, parse_window
from tests.support.sample_adapters import adapter_for
from tests.support.tiny_models import ldm_unet
from tests.unit.patching.test_scheduled_strength import run_unet

STEPS = 20
RAMP, LATE = {"unet": parse_curve("0.1@0,1@1")}, {"window": parse_window("5", None, None)}


@pytest.fixture(scope="module")
def unet():
    return ldm_unet()


@pytest.fixture
def asked(monkeypatch):
    """What was measured, with how many tries; on this machine the one is as quick as the other."""
    found = {"merge": [], "beside": []}
    monkeypatch.setattr(apply_mode, "merge_seconds", lambda target, tries: found["merge"].append(tries) or 1.0)
    monkeypatch.setattr(apply_mode, "bypass_seconds", lambda target, tries, *_: found["beside"].append(tries) or 1.0)
    return found


def ways(session):
    return set(session._controller._plan.modes.values())


def test_one_change_is_a_merge_without_a_doubt(unet, tmp_path, asked):
    adapter = adapter_for(unet, tmp_path / "a.safetensors", only=("input_blocks.1.1.",))
    with Session(unet=unet) as session, torch.no_grad():
        session.activate([Request(adapter, **LATE)], SamplingStep(0, STEPS))
        run_unet(unet)
        assert ways(session) == {"merged"}
        assert asked["merge"]
        assert set(asked["merge"]) == {apply_mode.ROUGHLY}
        assert len(asked["merge"]) < len(adapter.layers)  # each kind of layer once


def test_what_is_open_is_measured_well_and_once(unet, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(apply_mode, "OBVIOUS_RATIO", 1e9)
    adapter = adapter_for(unet, tmp_path / "a.safetensors", only=("input_blocks.1.1.",))
    with Session(unet=unet) as session, torch.no_grad():
        for _ in range(2):
            session.activate([Request(adapter, **RAMP)], SamplingStep(0, STEPS))
            run_unet(unet)
            assert ways(session) == {"merged"}  # where both are alike
            session.deactivate()
    assert set(asked["merge"]) == set(asked["beside"]) == {apply_mode.WELL}
    assert len(asked["merge"]) == len(asked["beside"]) < len(adapter.layers)


def test_before_the_first_run_the_work_tells(unet, tmp_path, asked):
    """Nothing is merged in vain; a layer that looks at one vector is not worth a merge at each step."""
    time = adapter_for(unet, tmp_path / "t.safetensors", only=("emb_layers",))
    picture = adapter_for(unet, tmp_path / "p.safetensors", only=("input_blocks.1.1.proj_in",))
    for adapter, way in ((time, "beside"), (picture, "merged")):
        with Session(unet=unet) as session:
            session.activate([Request(adapter, **RAMP)], SamplingStep(0, STEPS))
            assert ways(session) == {way}
    assert asked == {"merge": [], "beside": []}
