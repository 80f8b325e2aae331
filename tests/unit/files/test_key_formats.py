"""Every key that any trainer writes finds its layer: complete files of every producer, for every base model."""

from __future__ import annotations

import pytest

from lib_adapters.files.adapter import open_adapter
from lib_adapters.files.key_formats import layer_key
from lib_adapters.files.tensor_keys import LayerKey, split_key
from tests.support.file_skeletons import trainer_keys as by
from tests.support.file_skeletons.base_model_layers import ldm, sd3, sd3_diffusers, text, unet
from tests.support.file_skeletons.trainer_keys import write

PEFT = by.renamed("lora_A.weight", "lora_B.weight")
NAMED = by.renamed("lora_A.default.weight", "lora_B.default.weight", magnitude="lora_magnitude_vector.default")
LINEAR = by.renamed("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
SHORT = by.renamed("lora.down.weight", "lora.up.weight")
BARE = by.renamed("lora_A", "lora_B", alpha="alpha")
HCP = by.renamed("layer.W_down", "layer.W_up", alpha="alpha")
OLD_HCP = by.renamed("layer.lora_down.weight", "layer.lora_up.weight", alpha="alpha")
TOOLKIT = by.renamed("lora_down.weight", "lora_up.weight", magnitude="magnitude")

SD1, SD2, SDXL, REFINER = (unet(family) for family in ("sd1", "sd2", "sdxl", "sdxl-refiner"))
CLIP_L, CLIP_H, CLIP_G = text("clip-l"), text("open-clip-h"), text("clip-g")
T5 = {f"encoder.block.{n}.layer.0.SelfAttention.{name}": (4096, 4096) for n in range(24) for name in "qkvo"}

# name -> (keys, family, {part: its layers})
FILES = {
    "kohya-sd1": (
        by.flattened("lora_unet_", SD1) | by.flattened("lora_te_", CLIP_L),
        "sd1",
        {"unet": SD1, "te": CLIP_L},
    ),
    "kohya-sd2": (
        by.flattened("lora_unet_", SD2) | by.flattened("lora_te_", CLIP_H),
        "sd2",
        {"unet": SD2, "te": CLIP_H},
    ),
    "kohya-sdxl": (
        by.flattened("lora_unet_", ldm(SDXL)) | by.flattened("lora_te1_", CLIP_L) | by.flattened("lora_te2_", CLIP_G),
        "sdxl",
        {"unet": ldm(SDXL), "te1": CLIP_L, "te2": CLIP_G},
    ),
    "kohya-refiner": (
        by.flattened("lora_unet_", ldm(REFINER)) | by.flattened("lora_te2_", CLIP_G),
        "sdxl-refiner",
        {"unet": ldm(REFINER), "te2": CLIP_G},
    ),
    "kohya-sd3": (
        by.flattened("lora_unet_", sd3()) | by.flattened("lora_te1_", CLIP_L) | by.flattened("lora_te3_", T5),
        "sd3",
        {"unet": sd3(), "te1": CLIP_L, "te3": T5},
    ),
    "kohya-oft": (by.flattened("oft_unet_", SD1, by.oft), "sd1", {"unet": SD1}),
    "lycoris-lokr": (by.flattened("lora_unet_", SD1, by.lokr), "sd1", {"unet": SD1}),
    "lycoris-loha-doubled": (by.flattened("lora_te_text_model_", CLIP_L, by.loha), "sd1", {"te": CLIP_L}),
    "lycoris-ia3": (by.flattened("lora_unet_", SD1, by.ia3), "sd1", {"unet": SD1}),
    "simpletuner": (by.flattened("lycoris_", SDXL, by.lokr), "sdxl", {"unet": SDXL}),
    "onetrainer-old": (
        by.flattened("lora_unet_", SDXL, by.dora) | by.flattened("lora_te1_", CLIP_L),
        "sdxl",
        {"unet": SDXL, "te1": CLIP_L},
    ),
    "onetrainer-diffusers": (
        by.dotted("unet.", SDXL, by.dora) | by.dotted("text_encoder.", CLIP_L) | by.dotted("text_encoder_2.", CLIP_G),
        "sdxl",
        {"unet": SDXL, "te1": CLIP_L, "te2": CLIP_G},
    ),
    "onetrainer-comfy": (
        by.dotted("diffusion_model.", ldm(SDXL))
        | by.dotted("text_encoders.clip_l.transformer.", CLIP_L)
        | by.dotted("text_encoders.clip_g.transformer.", CLIP_G),
        "sdxl",
        {"unet": ldm(SDXL), "te1": CLIP_L, "te2": CLIP_G},
    ),
    "onetrainer-sd3": (by.flattened("lora_transformer_", sd3_diffusers()), "sd3", {"unet": sd3_diffusers()}),
    "ai-toolkit": (by.dotted("transformer.", sd3_diffusers(), TOOLKIT), "sd3", {"unet": sd3_diffusers()}),
    "diffusers-0.20": (
        by.dotted("unet.", SD1, SHORT) | by.dotted("text_encoder.", CLIP_L, LINEAR),
        "sd1",
        {"unet": SD1, "te": CLIP_L},
    ),
    "diffusers-now": (
        by.dotted("unet.", SDXL, PEFT)
        | by.dotted("text_encoder.", CLIP_L, LINEAR)
        | by.dotted("text_encoder_2.", CLIP_G, LINEAR),
        "sdxl",
        {"unet": SDXL, "te1": CLIP_L, "te2": CLIP_G},
    ),
    "diffusers-sd3": (by.dotted("transformer.", sd3_diffusers(), PEFT), "sd3", {"unet": sd3_diffusers()}),
    "peft": (by.dotted("base_model.model.", SD2, PEFT), "sd2", {"unet": SD2}),
    "peft-text": (by.dotted("text_encoder.base_model.model.", CLIP_L, PEFT), "sd1", {"te": CLIP_L}),
    "peft-nested": (by.dotted("unet.base_model.model.", SD1, NAMED), "sd1", {"unet": SD1}),
    "peft-doubled": (by.dotted("base_model.model.base_model.model.", SD1, BARE), "sd1", {"unet": SD1}),
    "native": (by.dotted("model.diffusion_model.", ldm(SD1)), "sd1", {"unet": ldm(SD1)}),
    "sliders": (by.flattened("diffusion_model_", ldm(SDXL)), "sdxl", {"unet": ldm(SDXL)}),
    "hub": (by.flattened("unet_", SD1), "sd1", {"unet": SD1}),
    "two-underscores": (by.flattened("lora_unet__", SD1), "sd1", {"unet": SD1}),
    "no-prefix": (by.dotted("", SD1) | by.dotted("", CLIP_L), "sd1", {"unet": SD1, "te": CLIP_L}),
    "hcp": (by.dotted("", SD1, HCP, ".___."), "sd1", {"unet": SD1}),
    "hcp-old": (by.dotted("", CLIP_L, OLD_HCP, ".___."), "sd1", {"te": CLIP_L}),
}  # fmt: skip


def flat(layers) -> set[str]:
    return {path.replace(".", "_") for path in layers}


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_every_producer_finds_its_layer(name, tmp_path):
    keys, family, parts = FILES[name]
    adapter = open_adapter(write(tmp_path / "x.safetensors", keys))
    assert adapter.skipped == ()
    assert (adapter.family, set(adapter.components)) == (family, set(parts))
    for part, layers in parts.items():
        assert {m.key.name for m in adapter.layers if m.key.component == part} == flat(layers)
    assert sum(len(module.tensor_keys) for module in adapter.layers) == len(keys)


def test_old_attention_processors_mean_the_layers_beside_them(tmp_path):
    for prefix in ("", "unet."):
        adapter = open_adapter(write(tmp_path / "x.safetensors", by.processors(prefix, SD1)))
        assert {m.key.name for m in adapter.layers} == flat(path for path in SD1 if ".attn" in path)
        assert (adapter.family, adapter.skipped) == ("sd1", ())


LAYER = "text_model.encoder.layers.0"
FLAT = "text_model_encoder_layers_0"


@pytest.mark.parametrize(
    ("module", "stem"),
    [
        (f"text_encoder.{LAYER}.self_attn.to_q", LayerKey("te", f"{FLAT}_self_attn_q_proj")),
        (f"text_encoder.{LAYER}.self_attn.to_out", LayerKey("te", f"{FLAT}_self_attn_out_proj")),
        ("lora_prior_unet_down_blocks_0_0_channelwise_0", LayerKey("unet", "down_blocks_0_0_channelwise_0")),
        ("text_encoders.t5xxl.transformer.encoder.block.3.x.q", LayerKey("te3", "encoder_block_3_x_q")),
        ("lora_te2_text_projection", LayerKey("te2", "text_projection")),
        ("conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc", LayerKey("te2", "resblocks_0_mlp_c_fc")),
    ],
)  # fmt: skip
def test_rare_names(module, stem):
    assert layer_key(module) == stem


@pytest.mark.parametrize(
    ("key", "split"),
    [
        ("a.b_lora.up.weight", ("a.b", "lora_up.weight")),
        ("a.lora.up", ("a", "lora_up.weight")),
        ("a.lora_B.some_name.weight", ("a", "lora_up.weight")),
        ("a.lora_B.bias", ("a", "lora_up.bias")),
        ("a.lora_magnitude_vector", ("a", "dora_scale")),
        ("a.lora_up.2.weight", ("a", "lora_up.2.weight")),
        ("a.oft_R.default.weight", ("a", "oft_R.weight")),
        ("a.___.alpha", ("a", "scale")),
        ("alpha", None),
        ("", None),
        ("a.unheard_of", None),
    ],
)
def test_leaves_are_recognised_from_the_right(key, split):
    assert split_key(key) == split


def test_one_layer_under_two_spellings_is_used_once_and_told(tmp_path):
    keys = by.flattened("lora_unet_", ldm(SD1)) | by.dotted("diffusion_model.", ldm(SD1))
    adapter = open_adapter(write(tmp_path / "x.safetensors", keys))
    assert len(adapter.layers) == len(SD1)
    (note,) = adapter.notes
    assert f"(and {len(SD1) - 1} more) mean the same layer" in note


def test_one_tensor_under_two_spellings_is_used_once_and_told(tmp_path):
    keys = {"lora_unet_x.lora_up.weight": (4, 2), "lora_unet_x.lora_down.weight": (2, 4), "lora_unet_x.lora_B": (4, 2)}
    adapter = open_adapter(write(tmp_path / "x.safetensors", keys))
    assert adapter.layers[0].tensor_keys["lora_up.weight"] == "lora_unet_x.lora_up.weight"
    assert len(adapter.notes) == 1
    assert adapter.notes[0].startswith("lora_unet_x.lora_B repeats a tensor under another name")
