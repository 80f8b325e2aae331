"""Block weights against the plainest definition: in each layer, its block's number times what the adapter changes."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from lib_adapters import Request, Session, open_adapter
from lib_adapters.files.blocks import weight_block
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.prompt.block_layouts import EDITOR_ROWS, LAYOUTS
from lib_adapters.prompt.block_presets import BUILT_IN
from lib_adapters.prompt.block_weights import BlockWeightSpec, Presets, resolve_block_weights
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_file, layers
from tests.support.tiny_models import clip, diffusers_unet, ldm_unet

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
UNETS = {
    "ldm": (ldm_unet, "sd1"),
    "diffusers": (diffusers_unet, "sd1"),
    "sdxl": (lambda: diffusers_unet(family="sdxl"), "sdxl"),
}


@cache
def unet_of(name):
    return UNETS[name][0]()


@cache
def block_of(name):
    """Path of each module that has weights -> its block, by counting."""
    found = {}
    for path, module in unet_of(name).named_modules():
        if module._parameters:
            found[path] = _ldm_block(path) if name == "ldm" else _diffusers_block(path, _places(name))
    return found


def _ldm_block(path):
    first, second, *_ = path.split(".")
    sides, others = {"input_blocks": "IN", "output_blocks": "OUT"}, {"middle_block": "M00", "out": "LAST"}
    return f"{sides[first]}{int(second):02}" if first in sides else others.get(first, "")


def _places(name):
    """The start of a path -> its block, in the order in which a picture passes them."""
    unet, places = unet_of(name), {"conv_in.": "IN00", "mid_block.": "M00"}
    ins, outs = 0, -1
    for number, down in enumerate(unet.down_blocks):
        for place in range(len(down.resnets)):
            ins += 1
            places |= {f"down_blocks.{number}.{kind}.{place}.": f"IN{ins:02}" for kind in ("resnets", "attentions")}
        if down.downsamplers:
            ins += 1
            places[f"down_blocks.{number}.downsamplers."] = f"IN{ins:02}"
    for number, up in enumerate(unet.up_blocks):
        for place in range(len(up.resnets)):
            outs += 1
            places |= {f"up_blocks.{number}.{kind}.{place}.": f"OUT{outs:02}" for kind in ("resnets", "attentions")}
        places[f"up_blocks.{number}.upsamplers."] = f"OUT{outs:02}"
    return places


def _diffusers_block(path, places):
    return next((block for start, block in places.items() if f"{path}.".startswith(start)), "")


def blocks(text, elements="", presets=BUILT_IN):
    return resolve_block_weights(BlockWeightSpec(text, elements), presets).weights


def parameters(model):
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}


def applied(model, adapter, **asked):
    """The report and the parameters while it is active."""
    with Session(unet=model) as session:
        (report,) = session.activate([Request(adapter, **asked)]).adapters
        return report, parameters(model)


def check(model, adapter, factor, strength=0.8, **asked):
    """`factor`: of a layer, by its path. Returns the report."""
    before = parameters(model)
    _, full = applied(model, adapter)
    report, found = applied(model, adapter, unet=strength, **asked)
    for name, (pointer, own) in before.items():
        share = strength * factor(name.rpartition(".")[0])
        wanted = own.double() + share * (full[name][1].double() - own.double())
        torch.testing.assert_close(found[name][1].double(), wanted, rtol=1e-5, atol=2e-6)
        if not share or full[name][0] == pointer:
            assert found[name][0] == pointer  # nothing was ever put there
    assert {name: pointer for name, (pointer, _) in parameters(model).items()} == {n: b[0] for n, b in before.items()}
    return report


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("name", UNETS)
def test_each_block_has_its_share_of_the_change(name, kind, tmp_path):
    model, ids = unet_of(name), EDITOR_ROWS[UNETS[name][1]]
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", layers(model), MAKERS[kind]))
    numbers = {block: (n * 7 % 11 - 3) / 4 for n, block in enumerate(ids)}  # some are 0, some below
    asked = blocks(",".join(f"{number:g}" for number in numbers.values()))
    report = check(model, adapter, lambda path: numbers.get(block_of(name).get(path, ""), 1.0), blocks=asked)
    zeros = sum(numbers.get(block_of(name)[path], 1.0) == 0 for path in layers(model))
    assert zeros > 20
    assert (report.disabled_by_blocks, report.matched) == (zeros, report.total - zeros)
    assert f", {zeros} at a block weight of 0" in report.summary()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_the_text_encoder_is_one_block(kind, tmp_path):
    model = clip(layers=3)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", layers(model), MAKERS[kind], prefix="lora_te_"))
    before, found = parameters(model), {}
    for base in (1.0, 0.5, 0.0):
        with Session(text_encoders=[model]) as session:
            numbers = [base, *(9.0 for _ in LAYOUTS[26][1:])]
            session.activate([Request(adapter, te=0.6, blocks=blocks(",".join(map(str, numbers))))])
            found[base] = parameters(model)
    for name, (pointer, own) in before.items():
        torch.testing.assert_close(found[0.5][name][1], own + (found[1.0][name][1] - own) / 2, rtol=1e-5, atol=2e-6)
        assert found[0.0][name][0] == pointer


@pytest.mark.parametrize("name", UNETS)
def test_a_block_that_is_named_is_the_only_one(name, tmp_path):
    model = unet_of(name)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", layers(model)))
    before = parameters(model)
    with Session(unet=model) as session:
        for block in EDITOR_ROWS[UNETS[name][1]][1:]:
            session.activate([Request(adapter, blocks=blocks(block))])
            moved = [path for path, p in model.named_parameters() if p.data_ptr() != before[path][0]]
            there = {path for path in layers(model) if block_of(name)[path] in (block, "", "LAST")}
            assert {path.rpartition(".")[0] for path in moved} == there, block
            assert len(there) > sum(block_of(name)[path] in ("", "LAST") for path in layers(model))


IN, OUT = ([f"{side}{n:02}" for n in range(12)] for side in ("IN", "OUT"))
DEEP_IN = ["IN05", "IN07", "IN08"]
PRESETS = {  # what each is for, after its author's table
    "NONE": [],
    "ALL": ["BASE", "IN01", "IN02", "IN04", *DEEP_IN, "M00", *OUT[3:]],
    "INS": ["BASE", "IN01", "IN02", "IN04"],
    "IND": ["BASE", *DEEP_IN],
    "INALL": ["BASE", "IN01", "IN02", "IN04", *DEEP_IN],
    "MIDD": ["BASE", *DEEP_IN, "M00", *OUT[3:7]],
    "OUTD": ["BASE", *OUT[3:7]],
    "OUTS": ["BASE", *OUT[7:]],
    "OUTALL": ["BASE", *OUT[3:]],
}


def test_presets_name_the_blocks_that_their_author_meant():
    for name, wanted in PRESETS.items():
        weights = blocks(name.lower())
        ones = [block for block in ("BASE", *IN, "M00", *OUT) if weights.factor_for(block, ()) == 1]
        assert ones == wanted, name
        assert {weights.factor_for(block, ()) for block in ("BASE", *IN, "M00", *OUT)} <= {0.0, 1.0}
    assert {blocks("ALL0.5").factor_for(block, ()) for block in PRESETS["ALL"]} == {0.5}


@pytest.mark.parametrize("text", ["OUTALL", "MIDD", "OUTALL,MID:0.5,IN00-IN02:-0.25", "IN03-M00:0.25,BASE:0", "MINE"])
def test_presets_and_rules_on_a_model(text, tmp_path):
    model, own = unet_of("ldm"), Presets({"MINE": "1,0,0,0,R,1,1,.5,U,0.1,0,0"}, {})
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", layers(model)))
    asked = blocks(text, presets=own if text == "MINE" else BUILT_IN)
    hand = {
        "OUTALL": {**dict.fromkeys(IN, 0), "M00": 0, **dict.fromkeys(OUT[:3], 0)},
        "MIDD": {**dict.fromkeys([b for b in (*IN, "M00", *OUT) if b not in PRESETS["MIDD"]], 0)},
        "IN03-M00:0.25,BASE:0": dict.fromkeys([*IN[3:], "M00"], 0.25),
        "MINE": {**dict.fromkeys([*IN, *OUT[6:]], 0), **dict(asked.factors)},
    }
    hand["OUTALL,MID:0.5,IN00-IN02:-0.25"] = {**hand["OUTALL"], "M00": 0.5, **dict.fromkeys(IN[:3], -0.25)}
    check(model, adapter, lambda path: hand[text].get(block_of("ldm").get(path, ""), 1.0), blocks=asked)


def test_with_a_schedule_and_beside_the_layers_it_is_the_same(tmp_path):
    model = unet_of("ldm")
    generator = torch.Generator().manual_seed(3)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    asked = blocks("OUTALL,MID:0.5", "IN00-OUT11:attn2:0.3")
    for kind, maker in MAKERS.items():
        adapter = open_adapter(adapter_file(tmp_path / f"{kind}.safetensors", layers(model), maker))
        pictures = []
        for unet, mode in ((0.4, "merged"), (0.4, "live"), (parse_curve("0@0,0.4@1"), "merged")):
            with Session(unet=model, mode=mode) as session:
                session.activate([Request(adapter, unet=unet, blocks=asked)])
                session.set_step(SamplingStep(2, 3))
                pictures.append(model(x, torch.full((2,), 5), context))
        for picture in pictures[1:]:
            torch.testing.assert_close(picture, pictures[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("joint_blocks_0_x_block_attn_qkv", "J00"),
        ("joint_blocks_23_context_block_mlp_fc1", "J23"),
        ("transformer_blocks_7_attn_add_q_proj", "J07"),
        ("context_embedder", ""),
        ("x_embedder_proj", ""),
        ("final_layer_linear", ""),
        ("down_blocks_2_attentions_1_transformer_blocks_9_ff_net_2", "IN08"),
        ("label_emb_0_2", "TIME"),
    ],
)
def test_blocks_by_name_alone(name, block):
    assert weight_block(LayerKey("unet", name)) == block
    assert weight_block(LayerKey("te2", name)) == "BASE"


def test_stable_diffusion_3_by_list_and_by_name():
    numbers = blocks(",".join(str(n) for n in range(25)))
    assert [numbers.factor_for(block, ()) for block in ("BASE", "J00", "J23")] == [0, 1, 24]
    assert blocks("J03-J05").factor_for("J04", ()) == 1
    assert blocks("J03-J05").factor_for("J06", ()) == 0
    assert blocks("", "J03:adaLN:0.5").factor_for("J03", ("joint_blocks_3_x_block_adaln_modulation_1",)) == 0.5
