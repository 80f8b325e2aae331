"""Names: both spellings of every layer of the real model classes, and the layers that only look alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.patching.key_maps import diffusers_to_ldm, ldm_to_diffusers
from lib_adapters.patching.layers import LayerTable
from tests.support.tiny_models import clip, diffusers_unet, ldm_unet, open_clip


def test_ldm_and_diffusers_models_answer_to_the_same_names_with_the_same_shapes():
    ldm, diffusers = LayerTable.from_model(ldm_unet(), []).unet, LayerTable.from_model(diffusers_unet(), []).unet
    assert set(ldm) == set(diffusers)
    assert {name for name in ldm if ldm[name].shape != diffusers[name].shape} == set()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner"])
def test_the_family_is_told_by_structure_at_any_width(family):
    assert LayerTable.from_model(diffusers_unet(family=family), []).family == family


def test_stable_diffusion_2_of_the_web_ui():
    assert LayerTable.from_model(ldm_unet(linear=True), [open_clip()]).family == "sd2"


@pytest.mark.parametrize(
    ("encoders", "family"),
    [((12,), "sd1"), ((23,), "sd2"), ((12, 32), "sdxl")],
)
def test_without_a_unet_the_text_encoders_tell(encoders, family):
    assert LayerTable.from_model(None, [clip(layers=depth) for depth in encoders]).family == family


@pytest.mark.parametrize(
    ("family", "ldm", "diffusers"),
    [  # formats.md 2.6; the upsampler's number depends on its block's attention
        ("sd1", "output_blocks_2_1_conv", "up_blocks_0_upsamplers_0_conv"),
        ("sd1", "output_blocks_5_2_conv", "up_blocks_1_upsamplers_0_conv"),
        ("sdxl", "output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("sdxl", "output_blocks_5_2_conv", "up_blocks_1_upsamplers_0_conv"),
        ("sdxl-refiner", "output_blocks_2_1_conv", "up_blocks_0_upsamplers_0_conv"),
        ("sdxl", "label_emb_0_2", "add_embedding_linear_2"),
        ("sdxl", "input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        (
            "sdxl",
            "input_blocks_8_1_transformer_blocks_2_attn2_to_k",
            "down_blocks_2_attentions_1_transformer_blocks_2_attn2_to_k",
        ),
        ("sd1", "out_0", "conv_norm_out"),
        ("sd1", "middle_block_2_in_layers_0", "mid_block_resnets_1_norm1"),
        ("sd1", "output_blocks_11_0_skip_connection", "up_blocks_3_resnets_2_conv_shortcut"),
    ],
)
def test_known_pairs(family, ldm, diffusers):
    names = LayerTable.from_model(diffusers_unet(family=family), []).unet
    assert names[ldm] is names[diffusers]


def test_spelling_there_and_back_for_every_path():
    paths = [path for path, module in diffusers_unet(family="sdxl").named_modules() if not list(module.children())]
    spelled = {path: ldm for path in paths if (ldm := diffusers_to_ldm(path, _has(paths)))}
    assert len(spelled) > 400
    assert {path: ldm_to_diffusers(ldm) for path, ldm in spelled.items()} == {path: path for path in spelled}


def _has(paths):
    return lambda prefix: any(path.startswith(f"{prefix}.") for path in paths)


def test_hugging_face_names_resolve_on_open_clip_with_the_same_shapes():
    ours = LayerTable.from_model(None, [clip(layers=24, projection=True)]).text_encoders[0]
    fused = LayerTable.from_model(None, [open_clip()]).text_encoders[0]
    names = [name for name in ours if name.startswith("text_model_encoder_layers_")]
    assert len(names) == 24 * 8
    assert {name for name in names if fused[name].shape != ours[name].shape} == set()


def test_a_third_of_a_fused_matrix():
    tower = open_clip()
    q, k, v = (_find(tower, f"text_model_encoder_layers_3_self_attn_{n}_proj") for n in "qkv")
    matrix = tower.get_submodule("transformer.resblocks.3.attn").in_proj_weight
    seen = [layer.view.apply(matrix) for layer in (q, k, v)]
    assert torch.equal(torch.cat(seen), matrix)
    assert k.bias is not None
    assert k.bias.name == "in_proj_bias"


def _find(model, name):
    return LayerTable.from_model(None, [model]).lookup(LayerKey("te", name))[0]


def test_open_clips_projection_is_the_other_way_round():
    tower = open_clip()
    layer = _find(tower, "text_projection")
    assert layer.shape == tuple(tower.text_projection.shape)[::-1]


@pytest.mark.parametrize("drop", ["", "text_model."])
def test_transformers_5_dropped_a_level(drop):
    """The same names must resolve whether the live CLIP has `text_model.` or not."""
    root = nn.ModuleDict({"encoder": nn.Module()})
    layer = nn.Linear(4, 4)
    model = nn.Module()
    parent = model
    for part in f"{drop}encoder.layers.0.self_attn".split("."):
        child = nn.Module()
        parent.add_module(part, child)
        parent = child
    parent.add_module("q_proj", layer)
    root.clear()
    for name in ("text_model_encoder_layers_0_self_attn_q_proj", "encoder_layers_0_self_attn_q_proj"):
        assert _find(model, name).weight.parameter() is layer.weight


def test_wrappers_are_looked_through():
    wrapper = nn.Module()
    wrapper.add_module("diffusion_model", ldm_unet())
    assert set(LayerTable.from_model(wrapper, []).unet) == set(LayerTable.from_model(ldm_unet(), []).unet)
    encoder = nn.Module()
    encoder.add_module("transformer", clip())
    assert set(LayerTable.from_model(None, [encoder]).text_encoders[0]) == set(
        LayerTable.from_model(None, [clip()]).text_encoders[0]
    )


@pytest.mark.parametrize(
    ("part", "encoders", "found"),
    [
        ("te", 1, [0]),
        ("te1", 1, [0]),
        ("te2", 1, [0]),
        ("te", 2, [0, 1]),
        ("te1", 2, [0]),
        ("te2", 2, [1]),
        ("te3", 2, []),
    ],
)
def test_which_encoder_a_prefix_means(part, encoders, found):
    models = [clip(), clip(layers=32)][:encoders]
    table = LayerTable.from_model(None, models)
    layers = table.lookup(LayerKey(part, "text_model_encoder_layers_0_mlp_fc1"))
    owners = [next(n for n, model in enumerate(models) if layer.weight.module() in model.modules()) for layer in layers]
    assert owners == found


def test_te1_is_not_the_refiners_only_encoder():
    table = LayerTable.from_model(diffusers_unet(family="sdxl-refiner"), [clip(layers=32)])
    assert table.lookup(LayerKey("te1", "text_model_encoder_layers_0_mlp_fc1")) == []
    assert len(table.lookup(LayerKey("te2", "text_model_encoder_layers_0_mlp_fc1"))) == 1


class _Block(nn.Module):
    """The attention of a Stable Diffusion 3 block: one matrix for q, k and v."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))


@pytest.fixture
def sd3():
    model = nn.Module()
    blocks = [nn.ModuleDict({"x_block": _Block(8), "context_block": _Block(8)}) for _ in range(2)]
    model.add_module("joint_blocks", nn.ModuleList(blocks))
    return model


@pytest.mark.parametrize(
    ("name", "path", "rows"),
    [
        ("transformer_blocks_1_attn_to_k", "joint_blocks.1.x_block.attn.qkv", (8, 16)),
        ("transformer_blocks_0_attn_add_v_proj", "joint_blocks.0.context_block.attn.qkv", (16, 24)),
        ("transformer_blocks_0_attn_to_add_out", "joint_blocks.0.context_block.attn.proj", None),
        ("joint_blocks_1_context_block_attn_qkv", "joint_blocks.1.context_block.attn.qkv", None),
        ("transformer_blocks_0_norm1_context_linear", "joint_blocks.0.context_block.adaLN_modulation.1", None),
    ],
)
def test_stable_diffusion_3(sd3, name, path, rows):
    table = LayerTable.from_model(sd3, [])
    layer = table.unet[name]
    assert table.family == "sd3"
    assert layer.weight.path == path
    assert layer.view.rows == rows


def test_the_last_context_block_has_another_layout_in_diffusers(sd3):
    assert "transformer_blocks_1_norm1_context_linear" not in LayerTable.from_model(sd3, []).unet


class _Motion(nn.Module):
    """AnimateDiff's: a transformer over the frames, with a norm and projections of its own."""

    def __init__(self):
        super().__init__()
        self.temporal_transformer = nn.ModuleDict({"norm": nn.GroupNorm(1, 4), "proj_in": nn.Linear(4, 4)})


def with_motion(model):
    """As the web UI's extension does it: behind a block's layers, but before its upsampler."""
    for n, block in enumerate(model.input_blocks):
        if n % 3:
            block.append(_Motion())
    for block in model.output_blocks:
        block.insert(len(block) - any(hasattr(layer, "conv") for layer in block), _Motion())
    model.middle_block.insert(len(model.middle_block) - 1, _Motion())
    return model


def test_modules_inserted_by_animatediff_take_no_layers_name():
    plain, moving = (LayerTable.from_model(model, []).unet for model in (ldm_unet(), with_motion(ldm_unet())))
    assert plain.keys() <= moving.keys()
    names = [name for name in plain if "upsamplers" in name or "resnets" in name or "attentions" in name]
    assert {name for name in plain if moving[name].shape != plain[name].shape} == set()
    assert moving["output_blocks_5_2_conv"] is moving["up_blocks_1_upsamplers_0_conv"]
    assert moving["output_blocks_5_2_conv"].path == "output_blocks.5.3.conv"
    assert moving["output_blocks_2_1_conv"].path == "output_blocks.2.2.conv"
    assert all(("temporal" in moving[name].path) == ("temporal" in name) for name in names)


def test_an_output_without_a_number_has_one_in_older_files():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_out = nn.Linear(4, 4)

    model = nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.ModuleDict({"attn": Attention()})])})
    names = LayerTable.from_model(model, []).unet
    assert names["transformer_blocks_0_attn_to_out_0"] is names["transformer_blocks_0_attn_to_out"]
