"""Names of one module in both spellings, and the family that they tell of, as tables of text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lib_adapters.patching.base_model import family_of
from lib_adapters.patching.key_maps import (
    diffusers_to_ldm,
    ldm_to_diffusers,
    openclip_to_hf,
    resnets_per_level,
    sd3_to_diffusers,
)

PAIRS = [  # LDM, diffusers; two resnets to a level
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("input_blocks.1.0.in_layers.2", "down_blocks.0.resnets.0.conv1"),
    ("input_blocks.2.0.emb_layers.1", "down_blocks.0.resnets.1.time_emb_proj"),
    ("input_blocks.1.1.proj_in", "down_blocks.0.attentions.0.proj_in"),
    ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
    ("input_blocks.4.1.norm", "down_blocks.1.attentions.0.norm"),
    ("input_blocks.11.0.skip_connection", "down_blocks.3.resnets.1.conv_shortcut"),
    ("middle_block.0.out_layers.3", "mid_block.resnets.0.conv2"),
    ("middle_block.1.proj_out", "mid_block.attentions.0.proj_out"),
    ("middle_block.1", "mid_block.attentions.0"),
    ("middle_block.2.out_layers.0", "mid_block.resnets.1.norm2"),
    ("output_blocks.0.0.in_layers.0", "up_blocks.0.resnets.0.norm1"),
    ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),  # a level without attention
    ("output_blocks.5.1.proj_in", "up_blocks.1.attentions.2.proj_in"),
    ("output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
    ("output_blocks.5.2", "up_blocks.1.upsamplers.0"),
    ("output_blocks.11.1.proj_in", "up_blocks.3.attentions.2.proj_in"),
]
OTHER_LEVELS = [  # resnets to a level, LDM, diffusers
    (1, "input_blocks.2.0.op", "down_blocks.0.downsamplers.0.conv"),
    (1, "input_blocks.3.0.in_layers.2", "down_blocks.1.resnets.0.conv1"),
    (1, "output_blocks.1.2.conv", "up_blocks.0.upsamplers.0.conv"),
    (1, "output_blocks.3.0.in_layers.2", "up_blocks.1.resnets.1.conv1"),
    (3, "input_blocks.3.1.norm", "down_blocks.0.attentions.2.norm"),
    (3, "input_blocks.8.0.op", "down_blocks.1.downsamplers.0.conv"),
    (3, "output_blocks.7.2.conv", "up_blocks.1.upsamplers.0.conv"),
]


def has(*levels):
    return {f"up_blocks.{level}.attentions.0" for level in levels}.__contains__


@pytest.mark.parametrize(("ldm", "diffusers"), PAIRS)
def test_both_ways_with_two_resnets_to_a_level(ldm, diffusers):
    assert ldm_to_diffusers(ldm) == diffusers
    assert diffusers_to_ldm(diffusers, has(1, 2, 3)) == ldm


def test_a_sampler_itself_has_a_name_too():
    assert ldm_to_diffusers("input_blocks.3.0") == "down_blocks.0.downsamplers.0.conv"
    assert diffusers_to_ldm("down_blocks.0.downsamplers.0", has()) == "input_blocks.3.0"


@pytest.mark.parametrize(("levels", "ldm", "diffusers"), OTHER_LEVELS)
def test_both_ways_with_other_numbers_of_resnets(levels, ldm, diffusers):
    assert ldm_to_diffusers(ldm, levels) == diffusers
    assert diffusers_to_ldm(diffusers, has(0, 1), levels) == ldm


@pytest.mark.parametrize(
    "path", ["", "input_blocks", "middle_block.3.x", "conv", "up_blocks.0.other.0", "mid_block.other.0"]
)
def test_what_is_no_place_has_no_other_name(path):
    assert ldm_to_diffusers(path) is None
    assert diffusers_to_ldm(path, has()) is None


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["input_blocks.3.0.op", "input_blocks.6.0.op"], 2),
        (["input_blocks.8.0.op", "input_blocks.4.0.op", "input_blocks.1.0.op.x"], 3),
        (["down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1"], 2),
        (["down_blocks.0.resnets.2.conv1", "down_blocks.0.resnets.0.conv1", "down_blocks.1.resnets.7.conv1"], 3),
        (["down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.conv2"], 2),  # a part of a model
        (["down_blocks.0.resnets.4.conv1"], 2),
        (["x.down_blocks.0.resnets.0", "x.down_blocks.0.resnets.3"], 2),
        ([], 2),
    ],
)
def test_resnets_to_a_level_are_read_off_the_model(paths, found):
    assert resnets_per_level(paths) == found


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ln_final", "text_model.final_layer_norm"),
        ("text_projection", "text_projection"),
        ("transformer.resblocks.11.mlp.c_fc", "text_model.encoder.layers.11.mlp.fc1"),
        ("transformer.resblocks.0.attn.out_proj", "text_model.encoder.layers.0.self_attn.out_proj"),
        ("transformer.resblocks.0.attn.in_proj", None),
        ("resblocks.0.ln_1", None),
        ("logit_scale", None),
    ],
)
def test_open_clips_names_in_hugging_faces(path, name):
    assert openclip_to_hf(path) == name


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("x_embedder.proj", ("pos_embed.proj",)),
        ("joint_blocks.7.x_block.mlp.fc1", ("transformer_blocks.7.ff.net.0.proj",)),
        ("joint_blocks.7.context_block.adaLN_modulation.1", ("transformer_blocks.7.norm1_context.linear",)),
        ("joint_blocks.23.context_block.adaLN_modulation.1", ()),  # scale and shift are the other way round
        ("joint_blocks.23.x_block.adaLN_modulation.1", ("transformer_blocks.23.norm1.linear",)),
        ("joint_blocks.7.x_block.attn.qkv", tuple(f"transformer_blocks.7.attn.to_{n}" for n in "qkv")),
        ("joint_blocks.7.other", ()),
        ("other", ()),
    ],
)
def test_sd3s_names_in_diffusers(path, names):
    assert sd3_to_diffusers(path, 23) == names


def names(*given, shape=(8, 8)):
    return {name: SimpleNamespace(shape=shape) for name in given}


def text(depth, *, level="text_model_"):
    return names(*(f"{level}encoder_layers_{n}_self_attn_q_proj" for n in range(depth)), "final_layer_norm")


SHALLOW, DEEP = "down_blocks_0_attentions_0_norm", "down_blocks_1_attentions_0_norm"


@pytest.mark.parametrize(
    ("unet", "encoders", "family"),
    [
        (names("joint_blocks_0_x_block_mlp_fc1", SHALLOW), [], "sd3"),
        (names(SHALLOW) | names("down_blocks_0_attentions_0_proj_in", shape=(8, 8, 1, 1)), [text(23)], "sd1"),
        (names(SHALLOW) | names("down_blocks_0_attentions_0_proj_in"), [text(12)], "sd2"),
        (names(SHALLOW) | names("a_attn2_to_k", shape=(320, 1024)), [], "sd2"),
        (names(SHALLOW) | names("a_attn2_to_k", shape=(320, 768)), [text(23)], "sd1"),
        (names(SHALLOW) | names("a_attn2_to_k", shape=(1024, 768)), [], "sd1"),
        (names(SHALLOW), [text(23)], "sd2"),
        (names(SHALLOW), [text(12)], "sd1"),
        (names(SHALLOW), [], "sd1"),
        (names(DEEP), [], "sdxl"),
        (names(DEEP, "down_blocks_3_resnets_0_conv1"), [], "sdxl-refiner"),
        (names(DEEP, "up_blocks_3_resnets_0_conv1"), [], "sdxl-refiner"),
        (names("conv_in"), [text(12)], "unknown"),
        ({}, [text(12)], "sd1"),
        ({}, [text(23)], "sd2"),
        ({}, [text(24, level="")], "sd2"),
        ({}, [text(32)], "sdxl-refiner"),
        ({}, [text(13)], "unknown"),
        ({}, [text(0)], "unknown"),
        ({}, [text(12), text(32)], "sdxl"),
        ({}, [text(12), text(32), {}], "sd3"),
        ({}, [], "unknown"),
    ],
)
def test_the_family_by_names_and_depths(unet, encoders, family):
    assert family_of(unet, encoders) == family
