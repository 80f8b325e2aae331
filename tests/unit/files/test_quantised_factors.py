"""Factors in 8 bits are the numbers that their scale makes of them, in every spelling and layout; else refused."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_adapters.app import main as app
from lib_adapters.app.key_conversion import convert_keys, keep_keys
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import open_adapter
from lib_adapters.hosts.diffusers.meta_models import MetaModel

PLACE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA, DOTTED = f"lora_unet_{PLACE.replace('.', '_')}", f"base_model.model.{PLACE}"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
PAIRS = {  # the pair's names, in each dialect
    "kohya": (f"{KOHYA}.lora_up", f"{KOHYA}.lora_down", ".weight"),
    "peft": (f"{DOTTED}.lora_B", f"{DOTTED}.lora_A", ".weight"),
    "named": (f"{DOTTED}.lora_B.default", f"{DOTTED}.lora_A.default", ".weight"),
    "text": (f"{TEXT}.lora_up", f"{TEXT}.lora_down", ".weight"),
    "bare": (f"{DOTTED}.lora_B", f"{DOTTED}.lora_A", ""),
}  # fmt: skip
LAYOUTS = {  # of the scale of a tensor [rows, columns]
    "one": lambda rows, columns: (),
    "one of one": lambda rows, columns: (1,),
    "one, two axes": lambda rows, columns: (1, 1),
    "rows": lambda rows, columns: (rows,),
    "rows, two axes": lambda rows, columns: (rows, 1),
    "blocks in a row": lambda rows, columns: (rows, columns // 2, 1),
    "grid": lambda rows, columns: (rows // 2, columns // 2),
}
TYPES = {"int8": torch.int8, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def quantised(shape, dtype, layout):
    """(stored, scale, the numbers that they mean)"""
    rows, columns = shape
    size = layout(rows, columns)
    scale = torch.rand(size) * 0.1 + 0.01
    stored = (torch.randn(shape) * 3).round().clamp(-100, 100).to(dtype)
    grid = scale.reshape(size[0] if len(size) else 1, -1)
    spread = torch.kron(grid, torch.ones(rows // grid.shape[0], columns // grid.shape[1]))
    return stored, scale, stored.float() * spread


def saved(path, dialect, dtype, spelling, layout):
    up, down, end = PAIRS[dialect]
    tensors, means = {}, []
    for base, shape in ((up, (8, 4)), (down, (4, 6))):
        stored, scale, meant = quantised(shape, TYPES[dtype], LAYOUTS[layout])
        tensors |= {f"{base}{end}": stored, f"{base}{spelling}": scale}
        means.append(meant)
    save_file(tensors, path)
    return means[0] @ means[1]


@pytest.mark.parametrize("dialect", PAIRS)
@pytest.mark.parametrize("spelling", [".scale_weight", ".weight_scale", ".scale"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_spelling_of_a_scale_is_read(dialect, spelling, dtype, tmp_path):
    expected = saved(tmp_path / "x.safetensors", dialect, dtype, spelling, "one")
    adapter = open_adapter(tmp_path / "x.safetensors")
    assert (adapter.skipped, adapter.notes) == ((), ())
    (algorithm,) = adapter.load().algorithms.values()
    torch.testing.assert_close(algorithm.delta(torch.zeros(8, 6)), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_scale_is_for_the_tensor_its_rows_or_its_blocks(layout, dtype, tmp_path):
    expected = saved(tmp_path / "x.safetensors", "kohya", dtype, ".scale_weight", layout)
    (algorithm,) = open_adapter(tmp_path / "x.safetensors").load().algorithms.values()
    torch.testing.assert_close(algorithm.delta(torch.zeros(8, 6)), expected)


def test_factors_without_weight_in_their_name_have_scales_too(tmp_path):
    shapes = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6)}
    parts = {leaf: quantised(shape, torch.int8, LAYOUTS["rows"]) for leaf, shape in shapes.items()}
    tensors = {f"{KOHYA}.{leaf}": stored for leaf, (stored, _, _) in parts.items()}
    save_file(tensors | {f"{KOHYA}.{leaf}.scale": scale for leaf, (_, scale, _) in parts.items()}, tmp_path / "x")
    (algorithm,) = open_adapter(tmp_path / "x").load().algorithms.values()
    meant = {leaf: numbers for leaf, (_, _, numbers) in parts.items()}
    expected = (meant["hada_w1_a"] @ meant["hada_w1_b"]) * (meant["hada_w2_a"] @ meant["hada_w2_b"])
    torch.testing.assert_close(algorithm.delta(torch.zeros(8, 6)), expected)


def test_the_whole_factor_of_a_layer_is_still_its_own_scale(tmp_path):
    save_file({f"{KOHYA}.lora_up.weight": torch.ones(8, 4), f"{KOHYA}.lora_down.weight": torch.ones(4, 6),
               f"{KOHYA}.scale": torch.tensor(0.5)}, tmp_path / "x")  # fmt: skip
    (algorithm,) = open_adapter(tmp_path / "x").load().algorithms.values()
    assert algorithm.scale == 0.5


def pair(up, **more):
    return {f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.lora_down.weight": torch.ones(4, 6),
            **{f"{KOHYA}.{name}": tensor for name, tensor in more.items()}}  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (pair(torch.ones(8, 4, dtype=torch.int8)), "lora_up.weight is stored as I8 without a scale"),
        (pair(torch.ones(8, 4, dtype=torch.uint8)), "lora_up.weight is stored as U8 without a scale"),
        (pair(torch.ones(8, 4, dtype=torch.int64)), "lora_up.weight is stored as I64 without a scale"),
        (pair(torch.ones(8, 4, dtype=torch.uint8), **{"lora_up.scale": torch.ones(1)}), "only I8 and F8 tensors"),
        (pair(torch.ones(8, 4), **{"lora_up.scale_weight": torch.ones(1)}), "stored as F32 with a scale"),
        (pair(torch.ones(8, 4, dtype=torch.int8), **{"lora_up.zero_point": torch.ones(1)}), "zero_point"),
    ],
)
def test_numbers_that_cannot_be_known_are_refused(tensors, words, tmp_path):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=words):
        open_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.ones(3), r"the scale \[3\] of lora_up.weight does not fit its shape \[8, 4\]"),
        (torch.ones(3, 4), "does not fit"),
        (torch.ones(1, 1, 2), "does not fit"),
        (torch.tensor(float("nan")), "the scale of lora_up.weight holds NaN or infinity"),
    ],
)
def test_a_scale_that_does_not_fit_is_a_problem_of_its_layer(scale, words, tmp_path):
    tensors = pair(torch.ones(8, 4, dtype=torch.int8), **{"lora_up.scale_weight": scale})
    save_file(tensors | {"lora_unet_y.diff": torch.ones(4, 4)}, tmp_path / "x.safetensors")
    loaded = open_adapter(tmp_path / "x.safetensors").load()
    assert len(loaded.algorithms) == 1
    ((name, reason),) = loaded.skipped
    assert name == KOHYA
    assert re.search(words, reason)


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_a_conversion_keeps_the_numbers_and_needs_no_scale(kind, tmp_path):
    leaves = {"lora": {"lora_up.weight": (320, 4), "lora_down.weight": (4, 320)},
              "lokr": {"lokr_w1": (4, 4), "lokr_w2": (80, 80)}}[kind]  # fmt: skip
    parts = {leaf: quantised(shape, torch.int8, LAYOUTS["rows"]) for leaf, shape in leaves.items()}
    tensors = {f"{KOHYA}.{leaf}": stored for leaf, (stored, _, _) in parts.items()}
    names = {leaf: f"{KOHYA}.{leaf.removesuffix('.weight')}.weight_scale" for leaf in leaves}
    scales = {names[leaf]: scale for leaf, (_, scale, _) in parts.items()}
    save_file(tensors | scales, tmp_path / "x.safetensors")
    adapter = open_adapter(tmp_path / "x.safetensors")
    save_file(convert_keys(adapter, "kohya", MetaModel.for_family(adapter.family)).tensors, tmp_path / "y.safetensors")
    other = open_adapter(tmp_path / "y.safetensors")
    assert not any("scale" in key for key in keep_keys(other).tensors)
    base = torch.zeros(320, 320)
    deltas = [next(iter(one.load().algorithms.values())).delta(base) for one in (adapter, other)]
    torch.testing.assert_close(deltas[1], deltas[0])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_another_dtype_is_of_the_numbers_that_8_bits_stand_for(dtype, tmp_path):
    parts = {leaf: quantised(shape, dtype, LAYOUTS["rows"]) for leaf, shape in (("up", (320, 4)), ("down", (4, 320)))}
    tensors = {f"{KOHYA}.lora_{leaf}.weight": stored for leaf, (stored, _, _) in parts.items()}
    scales = {f"{KOHYA}.lora_{leaf}.weight_scale": scale for leaf, (_, scale, _) in parts.items()}
    save_file(tensors | scales, tmp_path / "x.safetensors")
    files = (str(tmp_path / name) for name in ("x.safetensors", "y.safetensors"))
    assert app.main(["convert", *files, "--dtype", "bf16"]) == 0
    found = load_file(tmp_path / "y.safetensors")
    assert {key: tensor.dtype for key, tensor in found.items()} == dict.fromkeys(tensors, torch.bfloat16)
    for leaf, (_, _, numbers) in parts.items():
        torch.testing.assert_close(found[f"{KOHYA}.lora_{leaf}.weight"].float(), numbers, rtol=1e-2, atol=1e-3)
