"""A failure while strengths move leaves the model wholly as it was, or wholly its own."""

from __future__ import annotations

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.patching import forward_patcher, weight_patcher
from lib_adapters.prompt.schedule import SamplingStep
from tests.support.sample_adapters import MAKERS, adapter_for
from tests.support.tiny_models import ldm_unet
from tests.unit.patching.test_scheduled_strength import STEPS, moments, request, run_unet

SOME = ("middle_block", "input_blocks.4", "out.2")


@pytest.fixture(scope="module")
def unet():
    return ldm_unet()


def failing(original, calls, last):
    def call(*given, **named):
        calls.append(1)
        if len(calls) > last:
            raise MemoryError("no room")
        return original(*given, **named)

    return call


def requests_of(unet, tmp_path):
    """On layers of their own: some in groups of rows, some merged at each step, some beside."""
    kinds = zip(("LoRA", "OFT", "LoRA"), SOME, strict=True)
    made = [adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS[k], (at,)) for n, (k, at) in enumerate(kinds)]
    rows = Request(made[2], unet=0.5, rows=frozenset({1}))
    return [rows, request(made[1], "bump", mode="merged"), request(made[0], "bump", mode="live")]


@pytest.mark.parametrize("last", [0, 5])
@pytest.mark.parametrize("place", ["PatchedForward", "merged_weight"])
def test_an_activation_that_fails_changes_nothing_or_restores_the_original(unet, tmp_path, monkeypatch, place, last):
    """The weights of what was active before are gone as soon as new ones are merged into their memory."""
    before = adapter_for(unet, tmp_path / "before.safetensors", MAKERS["LoKr"], SOME)
    plain = run_unet(unet)
    session = Session(unet=unet)
    session.activate([Request(before, unet=0.7)])
    there = run_unet(unet)
    module = forward_patcher if place == "PatchedForward" else weight_patcher
    monkeypatch.setattr(module, place, failing(getattr(module, place), [], last))
    with pytest.raises(MemoryError):
        session.activate(requests_of(unet, tmp_path), SamplingStep(0, STEPS))
    overwritten = place == "merged_weight"
    assert torch.equal(run_unet(unet), plain if overwritten else there)
    assert len(session.active) == (not overwritten)
    monkeypatch.undo()
    session.activate(requests_of(unet, tmp_path), SamplingStep(0, STEPS))
    assert not torch.equal(run_unet(unet), there)
    session.deactivate()
    assert torch.equal(run_unet(unet), plain)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_step_that_fails_gives_the_model_back(unet, tmp_path, monkeypatch, step):
    plain = run_unet(unet)
    session = Session(unet=unet)
    session.activate(requests_of(unet, tmp_path), SamplingStep(0, STEPS))
    for moment in moments()[:step]:
        session.set_step(moment, [0, 1])
        run_unet(unet)
    monkeypatch.setattr(weight_patcher, "merged_weight", failing(weight_patcher.merged_weight, [], 3))
    with pytest.raises(MemoryError):
        session.set_step(moments()[step], [0, 1])
    assert torch.equal(run_unet(unet), plain)
    assert session.active == ()
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in unet.modules())
