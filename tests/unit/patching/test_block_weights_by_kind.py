"""Rules for kinds of layers (`lbwe=`): the same layers whatever spelling the file has and whichever model it meets."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from lib_adapters import Request, Session, open_adapter
from tests.support.sample_adapters import MAKERS, adapter_file, layers
from tests.support.tiny_models import clip, diffusers_unet, ldm_unet, open_clip
from tests.unit.patching.test_block_weights import block_of, blocks, check, unet_of

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
ATTENTIONS = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{n:02}" for n in range(3, 12))]
DEEP = {*(f"IN{n:02}" for n in range(5, 12)), "M00", *(f"OUT{n:02}" for n in range(6))}
RESNETS = 22
RULES = {  # how many of 282 layers each selects, by hand
    ":attn:0.5": 8 * len(ATTENTIONS),
    ":attn1:0": 4 * len(ATTENTIONS),
    ":to_q to_k:0.25": 4 * len(ATTENTIONS),
    ":ff:0": 2 * len(ATTENTIONS),
    ":proj_in:0": len(ATTENTIONS),
    ":proj:0.5": 3 * len(ATTENTIONS) + RESNETS,  # proj_in, proj_out, ff.net.0.proj; time_emb_proj
    ":conv:0": 2 * RESNETS + 14 + 6 + 2,  # shortcuts, samplers, the first and the last
    ":in_layers:0.5": RESNETS,
    ":emb_layers:0": RESNETS,
    ":conv_shortcut:0": 14,
    ":skip_connection:0": 14,
    ":op:0": 3,
    ":NOT attn:0": 282 - 8 * len(ATTENTIONS),
    "IN05-OUT05:attn:0": 8 * len(DEEP & set(ATTENTIONS)),
    "NOT IN05-OUT05:attn:0": 8 * len(set(ATTENTIONS) - DEEP),
    "IN01 M00:attn2:-0.5": 8,
    "ATTNDEEPOFF": 8 * len(DEEP & set(ATTENTIONS)),
    "PROJDEEPOFF": 3 * len(DEEP & set(ATTENTIONS)) + sum(2 if b == "M00" else b not in ("IN06", "IN09") for b in DEEP),
}


@cache
def twins():
    """Path in the web UI's model -> path in diffusers' one, as diffusers itself converts checkpoints."""
    own = list(ldm_unet().state_dict())
    numbered = {f"model.diffusion_model.{key}": torch.tensor(n) for n, key in enumerate(own)}
    found = convert_ldm_unet_checkpoint(numbered, dict(diffusers_unet().config))
    assert len(found) == len(own)
    return {own[int(n)].rpartition(".")[0]: key.rpartition(".")[0] for key, n in found.items()}


def selected(rule):
    """Paths in the web UI's model; presets are written out here."""
    rule = {"ATTNDEEPOFF": "IN05-OUT05:attn:0", "PROJDEEPOFF": "IN05-OUT05:proj:0"}.get(rule, rule)
    where, kinds, _ = rule.split(":")
    wanted = DEEP if "OUT05" in where else set(where.split())
    words = kinds.removeprefix("NOT ").split()

    def holds(ldm, diffusers):
        names = [name.replace(".", "_") for name in (ldm, diffusers)]
        there = not where or (block_of("ldm")[ldm] in wanted) != where.startswith("NOT")
        return there and any(word in name for word in words for name in names) != kinds.startswith("NOT")

    able = layers(unet_of("ldm"))
    return {ldm for ldm, diffusers in twins().items() if ldm in able and holds(ldm, diffusers)}


@pytest.mark.parametrize("model", ["ldm", "diffusers"])
@pytest.mark.parametrize("file", ["ldm", "diffusers"])
def test_a_rule_means_the_same_layers_in_each_spelling(file, model, tmp_path):
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", layers(unet_of(file))))
    unet, names = unet_of(model), twins() if model == "diffusers" else {path: path for path in twins()}
    before = {path: unet.get_parameter(f"{path}.weight").data_ptr() for path in layers(unet)}
    with Session(unet=unet) as session:
        for rule, count in RULES.items():
            assert len(selected(rule)) == count, rule
            off = re.sub(r":[-0-9.]+$", ":0", rule)
            (report,) = session.activate([Request(adapter, blocks=blocks("", off))]).adapters
            assert report.disabled_by_blocks == count, rule
            still = {path for path in layers(unet) if unet.get_parameter(f"{path}.weight").data_ptr() == before[path]}
            assert still == {names[path] for path in selected(rule)}, rule


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_rule_is_a_factor_and_wins_over_the_block(kind, tmp_path):
    model = unet_of("diffusers")
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", layers(model), MAKERS[kind]))
    attn = {twins()[path] for path in selected(":attn:0")}
    asked = blocks("OUTALL,MID:0.25", ":attn:0.5,IN04:attn:-1")

    def factor(path):
        block = block_of("diffusers").get(path, "")
        if path in attn:
            return -1 if block == "IN04" else 0.5
        return {"M00": 0.25, "": 1, "LAST": 1}.get(block, float(block.startswith("OUT") and block >= "OUT03"))

    check(model, adapter, factor, blocks=asked)


def test_kinds_of_layers_in_a_text_encoder_of_either_make(tmp_path):
    theirs = clip(layers=24, intermediate_size=96)
    names = {path: shape for path, shape in layers(theirs).items() if ".layers.2." in path}
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", names, prefix="lora_te_"))
    for model in (theirs, open_clip()):
        with Session(text_encoders=[model]) as session:
            for rule, count in (("BASE:fc1:0", 1), ("BASE:mlp:0", 2), (":q_proj v_proj:0", 2), ("M00:mlp:0", 0)):
                (report,) = session.activate([Request(adapter, blocks=blocks("", rule))]).adapters
                assert (report.matched, report.disabled_by_blocks) == (6 - count, count), rule
