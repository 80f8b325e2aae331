"""Requests on a model become patches of its parameters: of which layer and part, how strong, in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib_adapters import Request, open_adapter
from lib_adapters.patching.layers import LayerTable, WeightView
from lib_adapters.patching.patch import ParamPatches, Patch, ScheduledStrength
from lib_adapters.patching.plan import group_by_parameter, match_adapter, merge_tied
from lib_adapters.prompt.block_weights import BlockWeights
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_file, adapter_for, full, lora

RAMP = parse_curve("0@0,1@1")


def unet(channels=4):
    return nn.ModuleDict({"conv_in": nn.Conv2d(channels, 8, 3), "conv_out": nn.Conv2d(8, 4, 3, bias=False)})


def encoder(width):
    return nn.ModuleDict({"final_layer_norm": nn.Linear(width, 8), "text_projection": nn.Linear(width, 4)})


@pytest.fixture
def adapter(tmp_path):
    return adapter_for(unet(), tmp_path / "ink.safetensors", lambda *a: lora(*a, rank=4))


def fitted(request, model, encoders=()):
    table = LayerTable.from_model(model, encoders)
    return match_adapter(request, request.adapter.load(), table), table


def patches(found):
    return {(slot.path, slot.name): patch for slot, patch in found.patches}


def test_all_of_a_file_by_its_layers(tmp_path):
    model = unet()
    found, _ = fitted(Request(adapter_for(model, tmp_path / "a.safetensors", full), unet=0.5), model)
    got = patches(found)
    assert list(got) == [(path, name) for path in ("conv_in", "conv_out") for name in ("weight", "bias")]
    assert [patch.is_bias for patch in got.values()] == [False, True] * 2
    assert {patch.strength for patch in got.values()} == {0.5}
    assert (found.layers, found.unmatched_count, found.disabled_by_blocks, found.matched) == (2, 0, 0, {"Full": 2})
    assert (found.unmatched, found.strengths) == ([], {})


def test_block_weights_multiply_and_zero_is_absence(adapter):
    for given, strengths, silenced in ((0.5, [0.25, 0.5], 0), (0.0, [0.5], 1)):
        request = Request(adapter, unet=0.5, blocks=BlockWeights((("IN00", given),)))
        found, _ = fitted(request, unet())
        assert [patch.strength for patch in patches(found).values()] == strengths
        assert (found.layers, found.disabled_by_blocks, found.matched) == (2, silenced, {"LoRA": 2 - silenced})
    found, _ = fitted(Request(adapter, unet=0.0), unet())
    assert (found.patches, found.disabled_by_blocks, found.layers, found.matched) == ([], 0, 2, {})


def test_a_dial_turns_what_moves_and_the_factor_stays(adapter):
    request = Request(adapter, unet=RAMP, blocks=BlockWeights((("IN00", 0.5),)))
    found, _ = fitted(request, unet())
    got = patches(found)
    assert list(found.strengths) == ["unet"]
    assert [(patch.strength, patch.scheduled) for patch in got.values()] == [
        (0.5, found.strengths["unet"]),
        (1.0, found.strengths["unet"]),
    ]
    found.strengths["unet"].set_step(SamplingStep(1, 5))
    assert [patch.resolve().strength for patch in got.values()] == [0.125, 0.25]
    assert [patch.resolve().scheduled for patch in got.values()] == [None, None]


@pytest.mark.parametrize(("dyn", "rank"), [(None, 4), (3, 3), (9, 4)])
def test_ranks_are_cut_where_they_stand_still(adapter, dyn, rank):
    for unet_strength in (1.0, RAMP):
        request = Request(adapter, unet=unet_strength, dyn=dyn)
        found, _ = fitted(request, unet())
        patch = patches(found)["conv_in", "weight"]
        assert patch.algorithm.rank == (rank if unet_strength == 1.0 else 4)
        for dial in found.strengths.values():
            dial.set_step(SamplingStep(2, 5))
        assert patch.resolve().algorithm.rank == rank
        assert patch.resolve().key[3] == (dyn or 0 if unet_strength == 1.0 else 0 if rank == 4 else rank)


@pytest.mark.parametrize(
    ("channels", "view"),
    [(4, WeightView()), (9, WeightView(channels=4)), (5, WeightView(channels=4)), (3, None), (1, None)],
)
def test_the_first_four_channels_of_a_wider_input(adapter, channels, view):
    found, _ = fitted(Request(adapter), unet(channels))
    got = patches(found)
    if view is not None:
        assert (got["conv_in", "weight"].view, found.unmatched_count, found.unmatched) == (view, 0, [])
        return
    assert ("conv_in", "weight") not in got
    assert (found.unmatched_count, found.layers) == (1, 1)
    assert found.unmatched == [("lora_unet_conv_in", f"conv_in: {mismatch((8, 4, 3, 3), (8, channels, 3, 3))}")]


def mismatch(mine, weight):
    return f"a delta of {list(mine)} does not fit a weight of {list(weight)}"


def test_only_the_layer_that_takes_the_picture_may_be_wider(adapter):
    model = unet()
    model["conv_out"] = nn.Conv2d(9, 4, 3)
    found, _ = fitted(Request(adapter), model)
    assert found.unmatched == [("lora_unet_conv_out", f"conv_out: {mismatch((4, 8, 3, 3), (4, 9, 3, 3))}")]


@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(9, 8, 3)], ids=["no picture", "other channels"])
def test_what_fits_neither_all_channels_nor_the_first_four(tmp_path, layer):
    shape = (8, 4) if isinstance(layer, nn.Linear) else (8, 5, 3, 3)
    file = adapter_file(tmp_path / "a.safetensors", {"conv_in": shape})
    found, _ = fitted(Request(open_adapter(file)), nn.ModuleDict({"conv_in": layer}))
    assert (found.patches, found.unmatched_count) == ([], 1)
    ((_, why),) = found.unmatched
    assert str(list(layer.weight.shape)) in why  # the model's own, not the four channels of it


def test_a_layer_without_a_bias_is_told_of_only_where_there_is_one_for_it(tmp_path):
    model = nn.ModuleDict({"conv_in": nn.Embedding(8, 4)})
    for maker, told in ((lora, []), (full, [("lora_unet_conv_in", "conv_in takes no bias")])):
        found, _ = fitted(
            Request(adapter_for(nn.ModuleDict({"conv_in": nn.Linear(4, 8)}), tmp_path / "a", maker)), model
        )
        assert (found.unmatched, list(patches(found))) == (told, [("conv_in", "weight")])


def test_a_bias_alone(tmp_path):
    only = {"diff_b": torch.ones(8)}
    found, _ = fitted(Request(adapter_for(unet(), tmp_path / "a", lambda *_: only, ["conv_in"])), unet())
    assert (list(patches(found)), found.matched.total()) == ([("conv_in", "bias")], 1)


def test_ranks_that_follow_the_noise_are_the_unets_alone(tmp_path):
    text = encoder(6)
    adapter = adapter_for(text, tmp_path / "a", prefix="lora_te_")
    for dyn in ("timestep", parse_curve("1@0,2@1")):
        found, _ = fitted(Request(adapter, dyn=dyn), None, [text])
        assert [(patch.algorithm.rank, patch.scheduled) for _, patch in found.patches] == [(2, None)] * 2


def test_keys_tell_apart_what_moves_in_several_ways_and_nothing_else(adapter):
    model = unet()
    found = [
        group_by_parameter([fitted(Request(adapter, **more), model)[0] for more in two])
        for two in (({"unet": RAMP}, {"unet": parse_curve("1@0,0@1")}), ({"te": 0.1}, {"te": 0.9}))
    ]
    assert [[len(set(target.signature)) for target in targets.values()] for targets in found] == [[2, 2], [1, 1]]


def test_of_two_encoders_the_first_that_fits(tmp_path):
    file = adapter_file(tmp_path / "a.safetensors", {"text_model.final_layer_norm": (8, 6)}, prefix="lora_te_")
    request = Request(open_adapter(file), te=0.25)
    wide, right, other = encoder(9), encoder(6), encoder(6)
    for encoders, owner in (([wide, right, other], right), ([other, right], other)):
        found, _ = fitted(request, None, encoders)
        ((slot, patch),) = found.patches
        assert slot.module() is owner["final_layer_norm"]
        assert (patch.strength, found.unmatched) == (0.25, [])
    right.to("meta")
    found, _ = fitted(request, None, [right, other])
    assert found.patches[0][0].module() is other["final_layer_norm"]
    found, _ = fitted(request, None, [right, wide])
    assert found.unmatched[0][1] == "its weight is not loaded, it is on torch's meta device"
    found, _ = fitted(request, None, [wide, right])
    assert found.unmatched[0][1] == f"final_layer_norm: {mismatch((8, 6), (8, 9))}"


@pytest.mark.parametrize(
    ("file", "model", "encoders", "why"),
    [
        ("lora_unet_", None, [encoder(6)], "no UNet was given"),
        ("lora_te_", unet(), [], "no text encoder was given"),
        ("lora_unet_", unet(), [], "this model has no such layer"),
        ("lora_te_", None, [encoder(6)], "this model has no such layer"),
    ],
)
def test_why_there_is_no_layer_for_it(tmp_path, file, model, encoders, why):
    path = adapter_file(tmp_path / "a.safetensors", {"time_embed_0": (8, 6)}, prefix=file)
    found, _ = fitted(Request(open_adapter(path)), model, encoders)
    assert [reason for _, reason in found.unmatched] == [why]
    assert (found.unmatched_count, found.layers) == (1, 0)


def test_weights_that_are_no_floats_are_named(adapter):
    model = unet()
    model["conv_in"].weight = nn.Parameter(torch.zeros(8, 4, 3, 3, dtype=torch.int8), requires_grad=False)
    (found, _) = fitted(Request(adapter), model)
    sentence = "its weight is stored as torch.int8, and only floating-point weights can be changed"
    assert found.unmatched == [("lora_unet_conv_in", sentence)]


def test_patches_of_one_parameter_have_an_order_of_their_own(tmp_path):
    model = unet()
    made = [adapter_for(model, tmp_path / f"{n}.safetensors", MAKERS[kind]) for n, kind in enumerate(("LoRA", "IA3"))]
    fits = [fitted(Request(adapter, unet=strength), model)[0] for adapter in made for strength in (0.5, -1.0)]
    orders = [group_by_parameter(order) for order in (fits, fits[::-1], [fits[2], fits[0], fits[3], fits[1]])]
    signatures = [{key: target.signature for key, target in targets.items()} for targets in orders]
    assert signatures[0] == signatures[1] == signatures[2]
    weights = [signature for (_, name), signature in signatures[0].items() if name == "weight"]
    assert [len(set(signature)) for signature in weights] == [4, 4]


def test_tied_layers_are_one_parameter_with_all_that_is_added_to_it(tmp_path):
    model = nn.ModuleDict({"conv_in": nn.Linear(4, 4), "conv_out": nn.Linear(4, 4), "time_embed": nn.Linear(4, 4)})
    model["conv_out"].weight = model["conv_in"].weight
    asked = [Request(adapter_for(model, tmp_path / f"{name}.safetensors")) for name in "ab"]
    (found, table), (other, _) = (fitted(request, model) for request in asked)
    targets = group_by_parameter([found, other])
    together = merge_tied(targets)
    sizes = {target.ref.path: len(target.patches) for target in together.values()}
    assert sizes == {"conv_in": 4, "time_embed": 2}
    assert all(key == target.ref.key for key, target in together.items())
    (both,) = (target for target in together.values() if target.ref.path == "conv_in")
    assert list(both.signature) == sorted(both.signature)
    first, second = table.unet["conv_in"].weight, table.unet["conv_out"].weight
    assert (first.tied_to, second.tied_to) == (None, first)
    alone = {key: target for key, target in targets.items() if target.ref.path == "time_embed"}
    assert merge_tied(alone) is alone


def test_what_is_added_in_a_row_at_this_moment(adapter):
    found, _ = fitted(Request(adapter, unet=RAMP, rows=frozenset({1})), unet())
    slot, moving = found.patches[0]
    still = Patch(("z", *moving.key[1:]), moving.view, moving.algorithm, 2.0)
    early = Patch(("a", *moving.key[1:]), moving.view, moving.algorithm, 3.0)
    target, dial = ParamPatches(slot, [still, moving, early]), found.strengths["unet"]
    assert target.is_dynamic
    assert not ParamPatches(slot, [still]).is_dynamic
    dial.set_step(SamplingStep(2, 5))
    dial.set_rows([0, 1])
    rows = [[(patch.key[0][-1], patch.strength) for patch in target.resolve(row).patches] for row in (0, 1, None)]
    ink = moving.key[0][-1]
    assert [sorted(row) for row in rows] == [sorted(row) for row in (
        [("a", 3.0), ("z", 2.0)], [("a", 3.0), (ink, 0.5), ("z", 2.0)], [("a", 3.0), (ink, 0.5), ("z", 2.0)]
    )]  # fmt: skip
    assert all(list(now.signature) == sorted(now.signature) for now in (target.resolve(0), target.resolve(1)))
    assert ParamPatches(slot, [moving]).resolve(0) is None
    everywhere = ScheduledStrength(Request(adapter, unet=RAMP), "unet", strength=0.25)  # of another file, for all rows
    assert replace(moving, scheduled=everywhere).resolve(0).strength == 0.25
    stays, moves = target.split_static_dynamic()
    assert (stays.patches, moves.patches) == ([still, early], [moving])
    assert (
        ParamPatches(slot, [still]).split_static_dynamic()[1],
        ParamPatches(slot, [moving]).split_static_dynamic()[0],
    ) == (None, None)
    assert replace(moving, scheduled=None).resolve(0).strength == moving.strength


BOTH = ("down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_names_of_one_layer_the_first_is_used_and_the_other_told(order, tmp_path):
    names = [BOTH[n] for n in order]
    model = nn.ModuleDict({"down_blocks": nn.ModuleList([nn.ModuleDict({"attentions": nn.ModuleList(
        [nn.ModuleDict({"proj_in": nn.Linear(4, 4)})])})])})  # fmt: skip
    path = adapter_file(tmp_path / "a.safetensors", dict.fromkeys(names, (4, 4)), full)
    adapter = open_adapter(path)
    assert {module.name for module in adapter.layers} == {f"lora_unet_{name.replace('.', '_')}" for name in BOTH}
    found, _ = fitted(Request(adapter), model)
    used, other = (module.name for module in adapter.layers)
    assert [patch.is_bias for _, patch in found.patches] == [False, True]
    assert {patch.key[1].name for _, patch in found.patches} == {used.removeprefix("lora_unet_")}
    assert found.unmatched == [(other, f"names the same layer as {used}, {BOTH[0]}; only that one is used")]
    assert (found.layers, found.unmatched_count) == (1, 0)


def test_rows_of_one_parameter_are_layers_of_their_own(tmp_path):
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([nn.ModuleDict({"attn": Fused()})])})

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj_weight = nn.Parameter(torch.zeros(12, 4))
            self.in_proj_bias = nn.Parameter(torch.zeros(12))

    block = "text_model.encoder.layers.0.self_attn"
    shapes = {f"{block}.{name}_proj": (4, 4) for name in "qkv"}
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", shapes, full, prefix="lora_te_"))
    found, _ = fitted(Request(adapter), None, [Tower()])
    assert (found.layers, found.unmatched, len(found.patches)) == (3, [], 6)
    shapes["transformer.resblocks.0.attn.in_proj"] = (12, 4)  # all three once more
    adapter = open_adapter(adapter_file(tmp_path / "b.safetensors", shapes, full, prefix="lora_te_"))
    found, _ = fitted(Request(adapter), None, [Tower()])
    whole = [module.key.name.endswith("in_proj") for module in adapter.layers].index(True)
    assert (found.layers, len(found.unmatched)) == ((3, 1) if whole == 3 else (1, 3))


def test_tied_layers_each_have_their_own(tmp_path):
    model = nn.ModuleDict({"conv_in": nn.Linear(4, 4), "conv_out": nn.Linear(4, 4)})
    model["conv_out"].weight = model["conv_in"].weight
    found, _ = fitted(Request(adapter_for(model, tmp_path / "a.safetensors")), model)
    assert (found.layers, found.unmatched, len(found.patches)) == (2, [], 2)
