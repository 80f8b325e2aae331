"""Which way each parameter goes whose strength moves, and what of it is in the weights and what runs live."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters import Request, open_adapter
from lib_adapters.patching.layers import LayerTable
from lib_adapters.patching.match_requests import build_plan
from lib_adapters.patching.schedule_plan import SchedulePlan
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_file, adapter_for, full, lora
from tests.unit.patching.test_algorithms_in_session import EXAMPLES, model_of, opened

RAMP, ONE = parse_curve("1@0,0@1"), frozenset({1})
MOVES, ROWS = {"unet": RAMP}, {"rows": ONE}


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3)})


@pytest.fixture
def asked(unet, tmp_path):
    made = {kind: adapter_for(unet, tmp_path / f"{kind}.safetensors", maker) for kind, maker in MAKERS.items()}
    return lambda kind, **more: Request(made[kind], **more)


def motion_of(model, requests, *, live=False, encoders=()):
    fitted = build_plan(requests, LayerTable.from_model(model, encoders), lambda adapter: adapter.load())
    assert not any(report.error for report in fitted.reports)
    return SchedulePlan(fitted.params, fitted.strengths, live)


def seen(motion):
    """For each parameter its way, and whether another may be chosen."""
    return [(way, key in motion.undecided) for key, way in motion.modes.items()]


def sizes(targets):
    return [len(target.patches) for target in targets.values()]


@pytest.mark.parametrize(
    ("requests", "way", "is_open"),
    [
        ([("LoRA", MOVES)], "merged", True),
        ([("LoKr", MOVES)], "merged", True),
        ([("OFT", MOVES)], "merged", False),
        ([("LoRA", {**MOVES, "mode": "merged"})], "merged", False),
        ([("LoRA", {**MOVES, "mode": "live"})], "beside", False),
        ([("OFT", {**MOVES, "mode": "live"})], "live", False),
        ([("LoRA", ROWS)], "beside", False),
        ([("OFT", ROWS)], "live", False),
        ([("LoRA", {"dyn": parse_curve("1@0,2@1")})], "merged", False),
        ([("LoRA", {"dyn": "timestep", "mode": "live"})], "live", False),
        ([("LoRA", MOVES), ("OFT", {})], "merged", True),  # only what moves must have the form
        ([("LoRA", MOVES), ("LoKr", MOVES)], "merged", True),
        ([("LoRA", MOVES), ("OFT", MOVES)], "merged", False),
        ([("LoRA", MOVES), ("LoKr", {**MOVES, "mode": "merged"})], "merged", False),
        ([("LoRA", MOVES), ("LoKr", ROWS)], "beside", False),
        ([("LoRA", {"mode": "live"}), ("LoKr", MOVES)], "beside", False),
    ],
)
def test_what_must_be_and_what_may_be_chosen(unet, asked, requests, way, is_open):
    motion = motion_of(unet, [asked(kind, **more) for kind, more in requests])
    assert seen(motion)[0] == (way, is_open)


def test_what_does_not_move_is_merged_or_all_of_it_live(unet, asked):
    motion = motion_of(unet, [asked("LoRA")])
    assert (sizes(motion.merged()), motion.live(), motion.modes) == ([1], {}, {})
    motion = motion_of(unet, [asked("LoRA")], live=True)
    assert (motion.merged(), sizes(motion.live()), seen(motion)) == ({}, [1], [("live", False)])
    motion = motion_of(unet, [asked("LoRA", **MOVES), asked("LoKr")], live=True)
    assert (motion.merged(), sizes(motion.live()), seen(motion)) == ({}, [2], [("live", False)])


def test_beside_its_layer_what_stays_is_merged(unet, asked):
    motion = motion_of(unet, [asked("OFT"), asked("LoRA", **MOVES), asked("LoKr", **MOVES)])
    (key,) = motion.modes
    motion.set_step(SamplingStep(1, 3))
    assert (sizes(motion.merged()), sizes(motion.live()), motion.bypassed) == ([3], [], {})
    motion.modes[key] = "beside"
    assert (sizes(motion.merged()), sizes(motion.live()), list(motion.bypassed)) == ([1], [2], [key])
    motion.modes[key] = "live"
    assert (sizes(motion.merged()), sizes(motion.live()), motion.bypassed) == ([], [3], {})
    motion.modes[key] = "merged"
    motion.set_step(SamplingStep(2, 3))
    assert sizes(motion.merged()) == [1]  # at a strength of 0
    alone = motion_of(unet, [asked("LoRA", **MOVES)])
    alone.modes[key] = "beside"
    assert (alone.merged(), sizes(alone.live())) == ({}, [1])


@pytest.mark.parametrize("mode", ["auto", "live"])
def test_parts_of_a_weight_biases_and_other_layers_cannot_run_beside(tmp_path, mode):
    attention = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)})
    model = nn.Module()
    model.add_module("transformer", nn.ModuleDict({"resblocks": nn.ModuleList([attention])}))
    shapes = {f"text_model.encoder.layers.0.self_attn.{n}_proj": (8, 8) for n in ("q", "out")}
    file = adapter_file(tmp_path / "a.safetensors", shapes, prefix="lora_te_")
    voice = motion_of(None, [Request(open_adapter(file), rows=ONE, mode=mode)], encoders=[model])
    assert seen(voice) == [("merged" if mode == "auto" else "live", False)] * 2
    wide = nn.ModuleDict({"conv_in": nn.Conv2d(9, 8, 3)})
    narrow = adapter_file(tmp_path / "b.safetensors", {"conv_in": (8, 4, 3, 3)})
    motion = motion_of(wide, [Request(open_adapter(narrow), unet=RAMP, mode=mode)])
    assert seen(motion) == [("merged" if mode == "auto" else "live", False)]
    both = adapter_for(wide, tmp_path / "c.safetensors", full)
    motion = motion_of(wide, [Request(both, unet=RAMP, mode=mode)])
    assert seen(motion) == [("merged" if mode == "auto" else "live", False)] * 2


@pytest.mark.parametrize(("mode", "ways"), [("auto", ["merged", "merged"]), ("live", ["beside", "live"])])
def test_the_bias_of_a_pair_of_factors_is_no_pair_of_factors(unet, tmp_path, mode, ways):
    biased = adapter_for(unet, tmp_path / "b.safetensors", lambda *a: {**lora(*a), "lora_up.bias": torch.ones(8)})
    motion = motion_of(unet, [Request(biased, unet=RAMP, mode=mode)])
    assert [(slot.ref.name, way) for slot, way in zip(motion.dynamic.values(), motion.modes.values(), strict=True)] == [
        ("weight", ways[0]), ("bias", ways[1]),
    ]  # fmt: skip
    assert [target.ref.name for target in motion.undecided.values()] == (["weight"] if mode == "auto" else [])


def test_texts_are_followed_by_themselves(tmp_path):
    """An adapter with a scope has rows in the UNet, and in a text encoder a voice."""
    encoder = nn.ModuleDict({"final_layer_norm": nn.Linear(4, 4)})
    adapter = adapter_for(encoder, tmp_path / "te.safetensors", prefix="lora_te_")
    motion = motion_of(None, [Request(adapter, rows=ONE)], encoders=[encoder])
    assert seen(motion) == [("merged", False)]
    motion.set_step(SamplingStep(0, 1))
    motion.set_rows([0, 1])  # rows are none of its business
    assert sizes(motion.merged()) == [1]
    changes = [motion.set_text_row(voice) for voice in (1, 1, 0, None, 2, 1)]
    assert changes == [False, False, True, False, False, True]
    assert motion.text_row == 1
    motion.set_text_row(None)
    assert motion.merged() == {}


def test_a_turn_tells_whether_anything_changed(unet, asked):
    motion = motion_of(unet, [asked("LoRA", unet=parse_curve("0@1,1@2"))])
    assert [motion.set_step(SamplingStep(step, 4)) for step in range(4)] == [False, False, True, False]
    assert motion.step == SamplingStep(3, 4)
    assert not motion.set_text_row(1)  # no text encoder


def test_the_way_of_a_file_in_words(tmp_path):
    model = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3), "conv_out": nn.Conv2d(8, 4, 3)})
    one, two = (
        adapter_for(model, tmp_path / f"{n}.safetensors", only=only) for n, only in enumerate(((), ["conv_in"]))
    )
    motion = motion_of(model, [Request(one, unet=RAMP), Request(two)])
    first, second = motion.modes
    assert (motion.modes_of(one.cache_key), motion.modes_of(two.cache_key), motion.modes_of("other")) == (
        "merged at each change", "merged at each change", "merged",
    )  # fmt: skip
    for ways, words, counts in (
        (("beside", "live"), "live", {"beside": 1, "live": 1}),
        (("live", "merged"), "live and merged at each change", {"merged": 1, "live": 1}),
        (("beside", "beside"), "live", {"beside": 2}),
    ):
        motion.modes[first], motion.modes[second] = ways
        assert motion.modes_of(one.cache_key) == words
        assert (motion.counts(), list(motion.counts())) == (counts, list(counts))


def test_what_depends_on_the_weight_alone_is_computed_once_where_it_moves(tmp_path):
    name = next(name for name in EXAMPLES if name.startswith("tlora"))
    model, adapter, asked = model_of(EXAMPLES[name].shape), opened(name, tmp_path), []
    (layer,) = model.values()

    def base_of(slot):
        asked.append(slot.path)
        return layer.weight.data

    for more, count in (({}, 0), (MOVES, 1)):
        motion = motion_of(model, [Request(adapter, **more)], live=True)
        (target,) = motion.dynamic.values()
        before = target.patches[0].algorithm
        motion.precompute(base_of)
        assert len(asked) == count
        assert (target.patches[0].algorithm is before) == (count == 0)
        found, wanted = (one.delta(layer.weight.data) for one in (target.patches[0].algorithm, before))
        torch.testing.assert_close(found, wanted)
    motion = motion_of(model, [Request(adapter, **MOVES)])
    motion.precompute(lambda _: None)  # a layer that is gone meanwhile
    plain = motion_of(model_of((6, 8)), [Request(opened("lora", tmp_path), **MOVES)])
    plain.precompute(lambda _: pytest.fail("a pair of factors has nothing to compute"))
