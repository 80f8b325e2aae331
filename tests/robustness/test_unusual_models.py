"""Models that are not as models should be, and files with one bad module: a reason, never a crash, nothing lost."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_adapters import AdapterError, Request, Session, open_adapter
from tests.support.sample_adapters import MAKERS, adapter_for, full, lora

MODES = ("merged", "live")


def small() -> nn.Module:
    """Three layers of a UNet, by names that every family has."""
    torch.manual_seed(0)
    attention = nn.ModuleDict({"to_q": nn.Linear(8, 8, bias=False), "to_k": nn.Linear(8, 8, bias=False)})
    model = nn.ModuleDict({"middle_block": nn.ModuleList([nn.ModuleDict({"attn1": attention})])})
    model["conv_in"] = nn.Conv2d(4, 8, 3)
    return model


def attention_of(model):
    return model["middle_block"][0]["attn1"]


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def use(model):
    attention = attention_of(model)
    return model["conv_in"](torch.ones(1, 4, 5, 5)).sum() + attention["to_k"](attention["to_q"](torch.ones(1, 8))).sum()


@pytest.fixture
def adapter(tmp_path):
    return adapter_for(small(), tmp_path / "ink.safetensors")


def activated(model, *requests, **options):
    session = Session(unet=model, **options)
    return session, session.activate(requests).adapters[0]


@pytest.mark.parametrize("mode", MODES)
def test_weights_on_the_meta_device_are_named(adapter, mode):
    model = small()
    model["conv_in"].to("meta")
    before = attention_of(model)["to_q"].weight.clone()
    session, report = activated(model, Request(adapter), mode=mode)
    assert report.matched == 2
    ((key, reason),) = report.unmatched
    assert "conv_in" in key
    assert "meta device" in reason
    session.deactivate()
    assert torch.equal(attention_of(model)["to_q"].weight, before)
    assert session.verify()


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_is_not_loaded_at_all_is_one_sentence(adapter, mode):
    _, report = activated(small().to("meta"), Request(adapter), mode=mode)
    assert report.matched == 0
    assert "meta device" in report.error


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_quantised_weights_are_left_alone(adapter, dtype, mode):
    model = small()
    layer = attention_of(model)["to_q"]
    layer.weight = nn.Parameter((layer.weight * 100).to(dtype), requires_grad=False)
    before = state(model)
    session, report = activated(model, Request(adapter), mode=mode)
    assert torch.equal(layer.weight, before["middle_block.0.attn1.to_q.weight"])
    assert report.matched == 2
    assert str(dtype) in report.unmatched[0][1]
    session.deactivate()
    assert same(state(model), before)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("order", [("to_q", "to_k"), ("to_k", "to_q")], ids="-".join)
def test_tied_weights_come_back_in_any_order(tmp_path, order, offload):
    model = small()
    attention_of(model)["to_k"].weight = attention_of(model)["to_q"].weight
    before = state(model)
    alone = [Request(adapter_for(model, tmp_path / f"{n}.safetensors", only=[n], seed=ord(n[-1]))) for n in order]
    session = Session(unet=model, offload=offload)
    session.activate(alone[:1])
    first = state(model)
    session.activate(alone)
    both = state(model)
    session.activate(alone[1:])
    session.activate(alone[::-1])
    assert same(state(model), both)
    session.activate(alone[:1])
    assert same(state(model), first)
    session.deactivate()
    assert same(state(model), before)
    assert session.verify()
    weights = [one["middle_block.0.attn1.to_q.weight"] for one in (before, first, both)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inside", [False, True])
def test_a_model_made_in_inference_mode(adapter, inside, mode):
    with torch.inference_mode():
        model = small()
    before = state(model)
    with torch.inference_mode(inside), torch.no_grad():
        plain = use(model)
        session, report = activated(model, Request(adapter), mode=mode)
        assert report.matched == 3
        assert not torch.equal(use(model), plain)
        session.deactivate()
        assert torch.equal(use(model), plain)
    assert same(state(model), before)
    assert session.verify()


SURROUNDINGS = {"inference": torch.inference_mode, "autocast": lambda: torch.autocast("cpu", torch.bfloat16)}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_surrounds_us_changes_no_bit(tmp_path, kind, name):
    adapter = adapter_for(small(), tmp_path / "a.safetensors", MAKERS[kind])
    models = small(), small()
    before = state(models[0])
    activated(models[0], Request(adapter))
    with SURROUNDINGS[name]():
        session, _ = activated(models[1], Request(adapter))
    assert same(state(models[1]), state(models[0]))
    with SURROUNDINGS[name]():
        session.deactivate()
    assert same(state(models[1]), before)
    assert session.verify()


@pytest.mark.parametrize("mode", MODES)
def test_a_model_in_training_goes_on_training(adapter, mode):
    model = small().requires_grad_(True)
    parameters = list(model.parameters())
    session, _ = activated(model, Request(adapter), mode=mode)
    use(model).backward()
    session.deactivate()
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in parameters)


@pytest.mark.parametrize("name", ["base_layer", "wrapped"])
def test_a_layer_inside_another_is_found(adapter, name):
    model = small()
    around = nn.Module()
    around.add_module(name, attention_of(model)["to_q"])
    attention_of(model)["to_q"] = around
    assert activated(model, Request(adapter))[1].matched == 3


def test_a_weight_that_is_computed_is_no_layer(adapter):
    model = small()
    nn.utils.parametrizations.weight_norm(model["conv_in"])
    before = state(model)
    session, report = activated(model, Request(adapter))
    assert [key for key, _ in report.unmatched] == ["lora_unet_conv_in"]
    session.deactivate()
    assert same(state(model), before)


@pytest.mark.parametrize("mode", MODES)
def test_a_kind_of_linear_layer_of_somebodys_own(adapter, mode):
    class Loud(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    outputs = []
    for kind in (nn.Linear, Loud):
        model = small()
        layer = kind(8, 8, bias=False)
        layer.load_state_dict(attention_of(model)["to_q"].state_dict())
        attention_of(model)["to_q"] = layer
        activated(model, Request(adapter))
        outputs.append(layer(torch.ones(1, 8)))
    torch.testing.assert_close(outputs[1], 2 * outputs[0])


@pytest.mark.parametrize("strength", [1e39, -1e300, 10**400, math.nan, math.inf])
def test_a_strength_that_no_weight_can_hold(adapter, strength):
    with pytest.raises(AdapterError, match="ink: a strength must be a finite number"):
        Request(adapter, te=strength)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("strength", [1e9, -1e9, 1e-45, True, 3])
def test_any_other_strength_is_computed(tmp_path, kind, strength):
    adapter = adapter_for(small(), tmp_path / "a.safetensors", MAKERS[kind])
    for mode in MODES:
        model = small()
        before = state(model)
        session, report = activated(model, Request(adapter, unet=strength), mode=mode)
        assert report.error is None
        assert use(model).isfinite()
        session.deactivate()
        assert same(state(model), before)


@pytest.mark.parametrize("mode", MODES)
def test_twice_in_one_list_is_twice_as_strong(adapter, mode):
    models = small(), small()
    activated(models[0], Request(adapter, unet=0.5), Request(adapter, unet=0.5), mode=mode)
    activated(models[1], Request(adapter, unet=1.0), mode=mode)
    torch.testing.assert_close(use(models[0]), use(models[1]))


def test_a_strength_of_zero_is_no_adapter_to_the_bit(adapter):
    model = small()
    before = state(model)
    _, report = activated(model, Request(adapter, unet=0.0))
    assert (report.matched, report.error) == (0, None)
    assert same(state(model), before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_file_that_vanished_or_changed_says_so_and_the_rest_works(adapter, tmp_path):
    gone, changed = (adapter_for(small(), tmp_path / f"{name}.safetensors") for name in ("gone", "changed"))
    gone.path.unlink()
    adapter_for(small(), changed.path, full)
    model = small()
    report = Session(unet=model).activate([Request(gone), Request(changed), Request(adapter)])
    assert [one.matched for one in report.adapters] == [0, 0, 3]
    assert "gone.safetensors can no longer be read" in report.lines()[0]
    assert "changed.safetensors has changed" in report.lines()[1]


BAD = {
    "unknown": ({"mystery": torch.ones(2)}, "mystery"),
    "half": ({"lora_up.weight": torch.ones(8, 2)}, "without lora_down.weight"),
    "nan": ({"lora_up.weight": torch.full((8, 2), math.nan), "lora_down.weight": torch.ones(2, 8)}, "NaN"),
    "shape": ({"lora_up.weight": torch.ones(4, 2), "lora_down.weight": torch.ones(2, 16)}, "[8, 8]"),
    "rank": ({"lora_up.weight": torch.ones(8, 3), "lora_down.weight": torch.ones(2, 8)}, "do not fit each other"),
    "alpha": ({**lora((8, 8), torch.Generator()), "alpha": torch.tensor(1e30)}, "alpha is damaged"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", BAD)
def test_one_bad_module_is_named_and_the_rest_is_right(adapter, tmp_path, kind, mode):
    leaves, reason = BAD[kind]
    good = {key: value for key, value in load_file(adapter.path).items() if "to_k" not in key}
    bad = {f"lora_unet_middle_block_0_attn1_to_k.{leaf}": value for leaf, value in leaves.items()}
    for name, tensors in (("bad", {**good, **bad}), ("good", good)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    models, reports = (small(), small()), []
    for model, name in zip(models, ("bad", "good"), strict=True):
        reports.append(activated(model, Request(open_adapter(tmp_path / f"{name}.safetensors")), mode=mode)[1])
    assert [one.matched for one in reports] == [2, 2]
    assert [one.error for one in reports] == [None, None]
    assert torch.equal(use(models[0]), use(models[1]))
    named = [f"{key} {why}" for key, why in reports[0].unmatched]
    assert len(named) == 1
    assert "attn1_to_k" in named[0]
    assert reason in named[0]
    assert reports[1].unmatched == []
