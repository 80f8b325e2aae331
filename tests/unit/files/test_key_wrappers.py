"""Words that wrap a name say nothing about the layer: compiled, parallel, nested and old files find their layers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.files.adapter import open_adapter
from tests.support.file_skeletons import trainer_keys as by
from tests.support.file_skeletons.base_model_layers import text, unet
from tests.support.file_skeletons.trainer_keys import write

PEFT = by.renamed("lora_A.weight", "lora_B.weight")
SD1, CLIP = unet("sd1"), text("clip-l")
ATTENTION = {path: shape for path, shape in SD1.items() if ".attn" in path}
COMPILED = {path.replace(".attentions.", "._orig_mod.attentions.", 1): shape for path, shape in ATTENTION.items()}
WRAPPED = {  # prefix, layers as written, the rest of a name
    "torch.compile": by.dotted("_orig_mod.", ATTENTION, PEFT),
    "torch.compile under a component": by.dotted("unet._orig_mod.", ATTENTION, PEFT),
    "torch.compile under PEFT": by.dotted("base_model.model._orig_mod.", ATTENTION, PEFT),
    "torch.compile of blocks": by.dotted("unet.", COMPILED, PEFT),
    "torch.compile, flat": by.flattened("lora_unet__orig_mod_", ATTENTION),
    "LyCORIS on a compiled model": by.flattened("lycoris__orig_mod_", ATTENTION, by.lokr),
    "DataParallel": by.dotted("module.", ATTENTION, PEFT),
    "DataParallel under a component": by.dotted("unet.module.", ATTENTION, PEFT),
    "both": by.dotted("module._orig_mod.", ATTENTION, PEFT),
    "a pipeline in a model": by.dotted("model.unet.", ATTENTION, PEFT),
    "PhotoMaker": by.dotted("lora_weights.unet.", ATTENTION, PEFT),
    "PhotoMaker's processors": by.processors("lora_weights.unet.", ATTENTION),
    "base layer": by.dotted("unet.", {f"{path}.base_layer": shape for path, shape in ATTENTION.items()}, PEFT),
    "compiled blocks, flat": by.flattened(
        "lora_unet_", {path.replace(".", "._orig_mod.", 1): shape for path, shape in ATTENTION.items()}
    ),
}


def flat(layers):
    return {path.replace(".", "_") for path in layers}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_layer_is_found_under_its_wrappers(name, tmp_path):
    adapter = open_adapter(write(tmp_path / "x.safetensors", WRAPPED[name]))
    assert {module.key.name for module in adapter.layers} == flat(ATTENTION)
    assert (adapter.family, adapter.skipped, adapter.components) == ("sd1", (), ("unet",))


@pytest.mark.parametrize("prefix", ["unet.", "module.unet.", "model.unet.", "unet._orig_mod.", "lora_weights.unet."])
def test_a_config_for_one_part_is_read_through_its_wrappers(prefix, tmp_path):
    keys = {f"{prefix}mid.proj.lora_{half}.weight": torch.ones(shape) for half, shape in (("A", (2, 8)), ("B", (8, 2)))}
    packed = json.dumps({"unet.r": 2, "unet.lora_alpha": 8, "text_encoder.lora_alpha": 2})
    save_file(keys, tmp_path / "x.safetensors", {"lora_adapter_metadata": packed})
    assert open_adapter(tmp_path / "x.safetensors").alpha == 8.0


def test_the_first_text_encoder_may_have_a_number(tmp_path):
    keys = by.dotted("text_encoder_1.", CLIP, PEFT) | by.dotted("text_encoder_2.", text("clip-g"), PEFT)
    assert open_adapter(write(tmp_path / "x.safetensors", keys)).components == ("te1", "te2")


TREES = {
    "params": lambda inner: {"params": inner},
    "model": lambda inner: {"model": inner, "epoch": 3},
    "weights": lambda inner: {"weights": inner},
    "network": lambda inner: {"network": inner},
    "lora_state_dict": lambda inner: {"lora_state_dict": inner},
    "two": lambda inner: {"model": {"state_dict": inner}},
    "components": lambda inner: {"params": {"unet": inner}},
}


@pytest.mark.parametrize("name", TREES)
def test_tables_in_pickles_are_opened(name, tmp_path):
    layers = [*ATTENTION][:3]
    inner = {f"{path}.lora_{half}.weight": torch.ones(4, 4) for path in layers for half in ("up", "down")}
    torch.save(TREES[name](inner), tmp_path / "x.pth")
    adapter = open_adapter(tmp_path / "x.pth")
    assert {module.key.name for module in adapter.layers} == flat(layers)
    assert adapter.skipped == ()


def test_ed_loras_file_is_a_lora_of_both_parts_with_its_concepts(tmp_path):
    factors = {f"lora_{half}.weight": torch.ones(4, 4) for half in ("up", "down")}
    params = {
        "new_concept_embedding": {"<cat1>": torch.ones(16, 768), "<cat2>": torch.ones(16, 768)},
        "text_encoder": {f"{path}.{leaf}": value for path in [*CLIP][:2] for leaf, value in factors.items()},
        "unet": {f"{path}.{leaf}": value for path in [*ATTENTION][:2] for leaf, value in factors.items()},
    }
    torch.save({"params": params}, tmp_path / "x.pth")
    adapter = open_adapter(tmp_path / "x.pth")
    assert (adapter.components, len(adapter.layers), adapter.skipped) == (("unet", "te"), 4, ())
    assert set(adapter.bundled_embeddings) == {"cat1", "cat2"}


TO_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q"
ALPHAS = {  # diffusers 0.18-0.23 put alpha behind the name of a factor, or of the pair
    "processor, down": (f"{TO_Q}_lora.down.weight", f"{TO_Q}_lora.up.weight", f"{TO_Q}_lora.down.weight.alpha"),
    "processor, up": (f"{TO_Q}_lora.down.weight", f"{TO_Q}_lora.up.weight", f"{TO_Q}_lora.up.weight.alpha"),
    "processor, pair": (f"{TO_Q}_lora.down.weight", f"{TO_Q}_lora.up.weight", f"{TO_Q}_lora.alpha"),
    "pair": ("unet.conv_in.lora.down.weight", "unet.conv_in.lora.up.weight", "unet.conv_in.lora.alpha"),
    "layer": ("unet.conv_in.lora.down.weight", "unet.conv_in.lora.up.weight", "unet.conv_in.lora.down.weight.alpha"),
    "linear layer": tuple(
        f"text_encoder.{next(iter(CLIP))}.lora_linear_layer.{end}"
        for end in ("down.weight", "up.weight", "down.weight.alpha")
    ),
    "PEFT": tuple(f"unet.conv_in.{end}" for end in ("lora_A.weight", "lora_B.weight", "lora_A.weight.alpha")),
    "PEFT, named": tuple(
        f"unet.conv_in.{end}" for end in ("lora_A.default.weight", "lora_B.default.weight", "lora_B.default.alpha")
    ),
}


@pytest.mark.parametrize("name", ALPHAS)
def test_alpha_under_old_names_scales_its_layer(name, tmp_path):
    down, up, alpha = ALPHAS[name]
    save_file({down: torch.ones(4, 6), up: torch.ones(8, 4), alpha: torch.tensor(1.0)}, tmp_path / "x.safetensors")
    adapter = open_adapter(tmp_path / "x.safetensors")
    assert (adapter.skipped, adapter.notes, adapter.alpha) == ((), (), 1.0)
    (algorithm,) = adapter.load().algorithms.values()
    assert algorithm.scale == 0.25


OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out"


@pytest.mark.parametrize(
    "name", [f"unet.{OUT}", f"lora_unet_{OUT.replace('.', '_')}", f"unet.{OUT.replace('.to_', '.processor.to_')}"]
)
def test_an_attentions_output_may_lack_its_number(name, tmp_path):
    save_file({f"{name}.lora_A.weight": torch.ones(4, 6), f"{name}.lora_B.weight": torch.ones(8, 4)}, tmp_path / "x")
    (module,) = open_adapter(tmp_path / "x").layers
    assert module.key.name == f"{OUT.replace('.', '_')}_0"


def test_a_magnitude_joins_the_factors_that_spell_the_layer_otherwise(tmp_path):
    name = f"unet.{OUT.replace('.to_', '.processor.to_')}"
    tensors = {f"{name}_lora.down.weight": torch.ones(4, 6), f"{name}_lora.up.weight": torch.ones(8, 4)}
    save_file(tensors | {f"unet.{OUT}.lora_magnitude_vector": torch.ones(8)}, tmp_path / "x.safetensors")
    adapter = open_adapter(tmp_path / "x.safetensors")
    assert (adapter.algorithms, adapter.notes) == ({"DoRA": 1}, ())
    twice = tensors | {f"{name}_lora.alpha": torch.tensor(1.0), f"unet.{OUT}.0.alpha": torch.tensor(2.0)}
    save_file(twice, tmp_path / "y.safetensors")
    adapter = open_adapter(tmp_path / "y.safetensors")
    assert (adapter.alpha, len(adapter.notes)) == (1.0, 1)
