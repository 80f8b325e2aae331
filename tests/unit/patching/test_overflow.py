"""Merged weights beyond the range of their type: the parameter keeps its original one, and the report says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching.overflow import overflowing
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.fake_webui.sample_files import put
from tests.fake_webui.webui import Job
from tests.support.sample_adapters import adapter_for, full, lora

BAD = (float("inf"), -float("inf"), float("nan"))
HALVES = (torch.float16, torch.bfloat16)
HUGE = 1e8
SAID = "keep their original values, because at this strength the merged values overflow the model's dtype"


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = {"conv_in": nn.Linear(8, 16), "conv_out": nn.Linear(16, 8, bias=False), "time_embed_0": nn.Linear(8, 8)}
    return nn.ModuleDict(layers).half().requires_grad_(False)


@pytest.fixture
def adapter(model, tmp_path):
    return adapter_for(model, tmp_path / "ink.safetensors", full, ("conv_in", "conv_out"))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float8_e5m2, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("shape", [(3,), (300, 700), (8, 4, 3, 3)], ids=str)
def test_one_element_is_enough_wherever_it_is(dtype, shape):
    sound = torch.randn(shape).clamp(-8, 8).to(dtype)
    for place in (0, sound.numel() // 3, sound.numel() - 1):
        for bad in BAD if dtype != torch.float8_e4m3fn else BAD[2:]:  # that has no infinity
            tensor = sound.clone()
            tensor.view(-1)[place] = bad
            assert overflowing([sound, tensor, sound]) == [False, True, False]
    edge = torch.full(shape, torch.finfo(dtype).max)
    assert overflowing([edge.to(dtype), (-edge).to(dtype)]) == [False, False]


def test_wide_types_are_known_by_samples_and_no_tensor_is_no_answer():
    sound = torch.randn(40, 40)
    assert overflowing([sound, sound.half(), sound * float("nan"), sound.double()]) == [False, False, True, False]
    assert overflowing([]) == []


def test_what_no_half_can_hold_keeps_its_own_and_is_told(model, adapter, tmp_path):
    own = state(model)
    other = adapter_for(model, tmp_path / "blur.safetensors", lora, ("time_embed",))
    session = Session(unet=model)
    report = session.activate([Request(adapter, unet=HUGE), Request(other, unet=0.5)])
    strong, weak = report.adapters
    assert strong.summary().startswith("ink: 2 of 2 layers (Full 2)")
    assert f"; 4 weights or biases {SAID}" in strong.summary()
    assert strong.incomplete
    assert SAID not in weak.summary()
    changed = {name for name, tensor in model.state_dict().items() if name not in own or not tensor.equal(own[name])}
    assert changed == {"time_embed_0.weight"}
    assert session.activate([Request(other, unet=0.5), Request(adapter, unet=1.0)]).adapters[1].out_of_range == 0
    fresh = {name: tensor for name, tensor in model.state_dict().items()}
    assert all(bool(tensor.isfinite().all()) for tensor in fresh.values())
    session.deactivate()
    assert same(state(model), own)
    assert session.verify()


def test_a_weight_that_was_merged_before_gets_its_original_back(model, adapter):
    own = state(model)
    session = Session(unet=model)
    session.activate([Request(adapter, unet=1.0)])
    assert "conv_out.bias" in model.state_dict()
    assert session.activate([Request(adapter, unet=HUGE)]).adapters[0].out_of_range == 4
    assert same(state(model), own)


def test_a_step_that_leaves_the_range_is_told_and_the_others_are_drawn(model, adapter):
    own, ramp = state(model), parse_curve(f"0.5@0,{HUGE:.0f}@1,0.5@2")
    session = Session(unet=model)
    report = session.activate([Request(adapter, unet=ramp, mode="merged")], SamplingStep(0, 3))
    first = state(model)
    for step, wanted in enumerate((first, own, first)):
        session.set_step(SamplingStep(step, 3))
        assert same(state(model), wanted), step
        assert session.report.adapters[0].out_of_range == (4 if step else 0)
    assert report is session.report
    session.deactivate()
    assert same(state(model), own)


def test_one_parameter_at_a_time_is_as_careful(model, adapter):
    own = state(model)
    session = Session(unet=model, offload=True)
    assert session.activate([Request(adapter, unet=HUGE)]).adapters[0].out_of_range == 4
    assert same(state(model), own)


def test_the_webui_says_it_under_the_image(webui):
    put(webui)
    webui.model.unet.half()
    job = Job(webui, [f"x <lyco:ink:{HUGE:.0f}>"])
    job.activate()
    assert any(SAID in line for line in job.comments), job.comments


def test_a_model_that_was_broken_before_is_not_blamed_on_the_adapter(model, adapter):
    model["conv_in"].weight.data[0, 0] = float("nan")
    report = Session(unet=model).activate([Request(adapter, unet=1.0)])
    assert report.adapters[0].out_of_range == 0
    assert float(model["conv_in"].weight.isnan().sum()) == 1
