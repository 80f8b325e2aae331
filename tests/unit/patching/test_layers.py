"""The layers that a model offers, made of a few modules: their names, their parameters, and who calls them."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.patching.layers import LayerTable, WeightView, flat


def tree(**modules):
    """`a__b` is the path a.b"""
    root = nn.Module()
    for path, module in modules.items():
        *parents, name = path.split("__")
        owner = root
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner._modules[parent]
        owner.add_module(name, module)
    return root


def unet_names(**modules):
    return LayerTable.from_model(tree(**modules), ()).unet


def text_names(**modules):
    return LayerTable.from_model(None, [tree(**modules)]).text_encoders[0]


MATRIX = torch.arange(24.0).view(6, 4)


@pytest.mark.parametrize(
    ("view", "part"),
    [
        (WeightView(), MATRIX),
        (WeightView(rows=(2, 4)), MATRIX[2:4]),
        (WeightView(transposed=True), MATRIX.T),
        (WeightView(channels=3), MATRIX[:, :3]),
        (WeightView(rows=(1, 3), transposed=True), MATRIX.T[1:3]),
        (WeightView(rows=(0, 2), channels=1), MATRIX[:2, :1]),
    ],
)
def test_a_view_is_a_part_of_the_same_memory(view, part):
    matrix = MATRIX.clone()
    assert torch.equal(view.apply(matrix), part)
    view.apply(matrix).zero_()
    assert int((matrix != MATRIX).sum()) == int((part != 0).sum())


def test_names_of_a_layer_are_all_its_spellings():
    model = tree(input_blocks__1__0__in_layers__2=nn.Conv2d(2, 3, 1), input_blocks__3__0__op=nn.Conv2d(3, 3, 1))
    names = LayerTable.from_model(model, ()).unet
    assert set(names) == {
        "input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1",
        "input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv",
    }  # fmt: skip
    layer = names["down_blocks_0_resnets_0_conv1"]
    assert (layer.path, layer.shape, layer.weight.name, layer.bias.name) == (
        "input_blocks.1.0.in_layers.2", (3, 2, 1, 1), "weight", "bias",
    )  # fmt: skip
    assert flat("a.b_c.0") == "a_b_c_0"


def test_what_is_around_the_model_and_around_a_layer_is_no_part_of_a_name():
    modules = {
        "model__diffusion_model__input_blocks__1__0__in_layers__2__base_layer": nn.Linear(2, 3),
        "model__diffusion_model__out__2__wrapped": nn.Linear(2, 3),
    }
    names = unet_names(**modules)
    assert {"input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1", "out_2", "conv_out"} == set(names)
    assert names["conv_out"].path == "model.diffusion_model.out.2.wrapped"
    clip = text_names(
        clip__text_model__encoder__layers__0__mlp__fc1=nn.Linear(2, 3),
        clip__vision__tower__text_model__encoder__layers__0__mlp__fc1=nn.Linear(2, 3),
    )
    assert clip["text_model_encoder_layers_0_mlp_fc1"].path == "clip.text_model.encoder.layers.0.mlp.fc1"


def test_parameters_of_all_kinds_are_layers_and_biases_are_not():
    attention = nn.MultiheadAttention(4, 2)
    root = tree(transformer__resblocks__0__attn=attention, ln_final=nn.LayerNorm(4))
    root.register_parameter("text_projection", nn.Parameter(torch.zeros(4, 6)))
    root.register_parameter("logit_bias", nn.Parameter(torch.zeros(1)))
    names = LayerTable.from_model(None, [root]).text_encoders[0]
    paths = {layer.path for layer in names.values()}
    ends = {"transformer.resblocks.0.attn.in_proj", "transformer.resblocks.0.attn.out_proj"}
    thirds = {f"transformer.resblocks.0.attn.in_proj[{letter}]" for letter in "qkv"}
    assert paths == {*ends, *thirds, "ln_final", "text_projection"}
    fused, out = names["transformer_resblocks_0_attn_in_proj"], names["transformer_resblocks_0_attn_out_proj"]
    assert (fused.weight.name, fused.bias.name) == ("in_proj_weight", "in_proj_bias")
    assert [fused.weight.reader(), out.weight.reader(), out.weight.module()] == [
        attention,
        attention,
        attention.out_proj,
    ]
    assert [names[f"encoder_layers_0_self_attn_{n}_proj"].view.rows for n in "qkv"] == [(0, 4), (4, 8), (8, 12)]
    projection = names["text_projection"]
    assert (projection.shape, projection.bias, projection.weight.root()) == ((6, 4), None, root)


def test_a_layer_that_is_gone_has_no_shape():
    model = nn.ModuleDict({"conv_in": nn.Conv2d(2, 3, 1)})
    layer = LayerTable.from_model(model, ()).unet["conv_in"]
    del model["conv_in"]
    gc.collect()
    assert (layer.shape, layer.weight.parameter()) == ((), None)


@pytest.mark.parametrize(
    ("part", "count", "family", "found"),
    [
        ("te", 3, "sd3", [0, 1, 2]),
        ("te1", 3, "sd3", [0]),
        ("te3", 3, "sd3", [2]),
        ("te2", 2, "sdxl", [1]),
        ("te3", 2, "sdxl", []),
        ("te4", 3, "sd3", []),
        ("te2", 1, "sd1", [0]),
        ("te1", 1, "sdxl-refiner", []),
        ("te2", 1, "sdxl-refiner", [0]),
        ("te", 1, "sdxl-refiner", [0]),
        ("unet", 2, "sdxl", []),
    ],
)
def test_which_encoders_a_part_of_a_file_means(part, count, family, found):
    encoders = tuple({"x": object()} for _ in range(count))
    table = LayerTable({"y": object()}, encoders, family)
    assert table.lookup(LayerKey(part, "x")) == [encoders[n]["x"] for n in found]
    assert table.lookup(LayerKey(part, "z")) == []
    assert table.lookup(LayerKey("unet", "y")) == [table.unet["y"]]


def test_the_last_joint_block_is_the_one_with_the_largest_number():
    blocks = {f"joint_blocks__{n}__context_block__adaLN_modulation__1": nn.Linear(2, 12) for n in (10, 2, 9)}
    names = unet_names(**blocks)
    spelled = {name for name in names if name.startswith("transformer_blocks_")}
    assert spelled == {f"transformer_blocks_{n}_norm1_context_linear" for n in (2, 9)}


def test_modules_that_share_a_parameter_know_the_first_of_them():
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("conv_in", "conv_out", "conv_norm_out")})
    model["conv_out"].weight = model["conv_in"].weight
    names = LayerTable.from_model(model, ()).unet
    assert names["conv_out"].weight.tied_to is names["conv_in"].weight
    assert [names[name].weight.tied_to for name in ("conv_in", "conv_norm_out")] == [None, None]
