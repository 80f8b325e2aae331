"""What a merge and a run beside are taken to cost: counted, and timed on what a layer really looks at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching import cost
from lib_adapters.patching.cost import (
    TEXT_SHAPE,
    LatentShape,
    bypass_seconds,
    cost_key,
    estimated_costs,
    merge_seconds,
)
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for, lora
from tests.support.tiny_models import diffusers_unet, ldm_unet

RAMP = parse_curve("0@0,1@1")
RUN = LatentShape(2, 6, 10)


def sd1_seen(x):
    model = ldm_unet()
    return model, lambda: model(x, torch.tensor([5]), torch.randn(1, TEXT_SHAPE, 24))


def sdxl_seen(x):
    model = diffusers_unet(family="sdxl")
    more = {"text_embeds": torch.randn(1, 16), "time_ids": torch.randn(1, 6)}
    return model, lambda: model(x, torch.tensor([5]), torch.randn(1, TEXT_SHAPE, 24), added_cond_kwargs=more)


@pytest.mark.parametrize(("family", "made"), [("sd1", sd1_seen), ("sdxl", sdxl_seen)])
def test_the_places_that_each_layer_looks_at(family, made):
    x = torch.randn(1, 4, 16, 32)
    model, run = made(x)
    seen = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(lambda _, given, path=path: seen.update({path: tuple(given[0].shape)}))
    with torch.no_grad():
        run()
    places = {path: cost._place(path, LatentShape(1, 16, 32), family) for path in seen}
    for path, shape in seen.items():
        height, width = places[path]
        if "upsamplers" in path or path.endswith("conv"):
            continue  # what comes in was made larger first
        found = shape[2:] if len(shape) == 4 else shape[1:-1] or (1,)
        assert found in {(height, width), (height * width,)}, path
    assert len(set(places.values())) == (6 if family == "sd1" else 5)


def test_the_places_of_a_model_that_has_no_levels():
    assert cost._place("joint_blocks.7.x_block.mlp.fc1", LatentShape(1, 64, 96), "sd3") == (32, 48)
    assert cost._place("joint_blocks.7.context_block.mlp.fc1", LatentShape(1, 64, 96), "sd3") == (TEXT_SHAPE, 1)
    assert cost._place("middle_block.0.in_layers.2", LatentShape(1, 4, 2), "sd1") == (
        1,
        1,
    )  # a picture too small for it


def layer_of(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, padding=1, stride=2) if kind == "conv" else nn.Linear(4, 8)
    return layer.requires_grad_(False)


def target_of(layer, tmp_path, *makers, still=()):
    """Everything that is added to the layer: what moves by the makers, and what stays."""
    model = nn.ModuleDict({"conv_in": layer})
    adapters = [adapter_for(model, tmp_path / f"{n}.safetensors", m, seed=n) for n, m in enumerate((*makers, *still))]
    asked = [Request(adapter, unet=RAMP if n < len(makers) else 0.5) for n, adapter in enumerate(adapters)]
    session = Session(unet=model)
    session.activate(asked, SamplingStep(0, 5))
    (target,) = session._controller._plan.dynamic.values()
    session.deactivate()
    return target  # it holds the layer weakly


def test_the_work_counted_by_hand(tmp_path):
    """Of rank 2; what stays is read and written once more for each number, in a merge alone."""
    whole, place = (2 + 64) * 8 * 36, 2 * (36 + 8) + 64 * 8
    conv, line = layer_of("conv"), layer_of("linear")
    assert estimated_costs(target_of(conv, tmp_path, lora), RUN, "sd1") == (whole, place * 2 * 3 * 5)
    more = target_of(conv, tmp_path, lora, still=(lora, MAKERS["Full"]))
    assert estimated_costs(more, RUN, "sd1") == (whole + 2 * 64 * 8 * 36, place * 2 * 3 * 5)
    assert estimated_costs(target_of(line, tmp_path, lora), RUN, "sd1") == (66 * 32, (2 * 12 + 512) * 2 * 6 * 10)


def test_equal_kinds_are_equal_work(tmp_path):
    def kind(layer="conv", maker=lora, run=RUN, still=(), dtype=torch.float32):
        there = layer_of(layer).to(dtype)
        return cost_key(target_of(there, tmp_path, maker, still=still), run, "sd1")

    assert kind() == kind()
    others = [
        kind(layer="linear"), kind(dtype=torch.bfloat16), kind(maker=MAKERS["LoKr"]), kind(still=(lora,)),
        kind(maker=lambda *given: lora(*given, rank=4)), kind(run=LatentShape(2, 6, 8)),
        kind(run=LatentShape(4, 6, 10)),
    ]  # fmt: skip
    assert len({kind(), *others}) == 1 + len(others)


def test_a_merge_is_timed_at_full_strength_and_nothing_is_merged(tmp_path, monkeypatch):
    layer, done = layer_of("conv"), []
    target, original = target_of(layer, tmp_path, lora, still=(lora,)), cost.merged_weight
    before, place = layer.weight.clone(), layer.weight.data_ptr()
    monkeypatch.setattr(cost, "merged_weight", lambda *given: done.append((given[1], original(*given))))
    assert merge_seconds(target, 3) > 0
    assert len(done) == 3
    (patches, made), *_ = done
    assert [(patch.strength, patch.scheduled) for patch in patches] == [(1.0, None), (0.5, None)]
    assert made.shape == before.shape
    assert torch.equal(layer.weight, before)
    assert layer.weight.data_ptr() == place != made.data_ptr()


@pytest.mark.parametrize(("kind", "shape"), [("conv", (2, 4, 6, 10)), ("linear", (2, 60, 4))])
def test_a_run_beside_is_timed_on_an_input_of_its_real_size(tmp_path, monkeypatch, kind, shape):
    layer, seen, original = layer_of(kind), [], cost.add_bypass
    target = target_of(layer, tmp_path, lora, MAKERS["LoKr"], lora, still=(lora,))
    monkeypatch.setattr(cost, "add_bypass", lambda *given: seen.append(given) or original(*given))
    assert bypass_seconds(target, 2, RUN, "sd1") > 0
    assert len(seen) == 2
    _, module, x, y, strengths = seen[0]
    assert module is layer
    assert tuple(x.shape) == shape
    assert y.shape == layer(x).shape
    assert strengths == [1.0] * 3


def test_the_quickest_of_some_tries_counts(monkeypatch):
    clock = iter((0.0, 5.0, 10.0, 12.0, 20.0, 29.0))
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    done = []
    assert cost._timed(lambda: done.append(1), torch.zeros(1), 3) == 2.0
    assert len(done) == 3


@pytest.mark.parametrize(("is_cuda", "done"), [(False, ["work"]), (True, ["cuda:1", "work", "cuda:1"])])
def test_on_a_gpu_the_clock_waits_until_all_before_and_all_of_it_is_done(monkeypatch, is_cuda, done):
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", seen.append)
    cost._timed(lambda: seen.append("work"), SimpleNamespace(is_cuda=is_cuda, device="cuda:1"), 1)
    assert seen == done
