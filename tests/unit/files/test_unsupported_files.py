"""Sound files that belong elsewhere are named; base models are told by structure, at any width and from few layers."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.errors import AdapterError, UnsupportedFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.files.model_family import FAMILY_NAMES
from tests.support.file_skeletons import trainer_keys as by
from tests.support.file_skeletons.base_model_layers import UNETS, ldm, text, unet
from tests.support.file_skeletons.trainer_keys import write

UNET, TEXT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1", "text_model.encoder.layers.0.self_attn.q_proj"

FOREIGN = {
    "Control-LoRA": ["lora_controlnet", "input_blocks.0.0.up", "input_blocks.0.0.down"],
    "LLLite": ["lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight"],
    "IP-Adapter": ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
    "motion LoRA": ["down_blocks.0.motion_modules.0.temporal_transformer.proj_in_lora.down.weight"],
    "motion module": ["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"],
    "textual inversion": ["emb_params"],
    "textual inversion embedding": ["clip_l", "clip_g"],
    "Nunchaku": ["single_transformer_blocks.0.mlp_fc1.qweight", "single_transformer_blocks.0.mlp_fc1.proj_down"],
    "TSM": [f"lora_unet_{UNET.replace('.', '_')}.experts.0.1.down.weight"],
    "LoRA²": ["lora_unet_x.lora_up.weight", "lora_unet_x.lora_down.weight", "lora_unet_x.lora2_nu"],
    "X-LoRA": ["internal_xlora_classifier.layers.0.weight"],
    "XLabs": ["double_blocks.0.processor.qkv_lora1.down.weight"],
    "ControlNet": ["controlnet_cond_embedding.conv_in.weight", f"{UNET}.to_q.weight"],
    "T2I-Adapter": ["body.0.block1.weight"],
    "PEFT's GLoRA": [f"base_model.model.{UNET}.to_q.glora_A.weight"],
    "a whole checkpoint": [f"model.diffusion_model.{UNET}.to_q.weight", "first_stage_model.quant_conv.bias"],
    "a whole UNet": [f"{UNET}.to_q.weight", "conv_in.weight", "conv_in.bias"],
    "a VAE": ["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight"],
    "a text encoder": [f"{TEXT}.weight", f"{TEXT}.bias"],
    "a whole diffusion model": ["double_blocks.0.img_attn.qkv.weight"],
    "full weights": ["some.thing.weight", "some.thing.bias"],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_named(kind, tmp_path):
    with pytest.raises(UnsupportedFile) as caught:
        open_adapter(write(tmp_path / "x.safetensors", dict.fromkeys(FOREIGN[kind], (4, 4))))
    assert kind in str(caught.value)
    assert str(caught.value).startswith("x.safetensors ")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (torch.ones(1, 768), "aesthetic embedding"),
        (
            {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 768)}, "name": "x"},
            "textual inversion",
        ),
        ({"<cat>": torch.ones(768)}, "textual inversion"),
        ({768: [{"linear.0.weight": torch.ones(2, 2)}], "step": 1}, "hypernetwork"),
        ({"state_dict": {"model.diffusion_model.out.0.weight": torch.ones(2)}}, "whole checkpoint"),
    ],
)
def test_foreign_pickles_are_named(content, kind, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UnsupportedFile, match=kind):
        open_adapter(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [None, "text", [], [torch.ones(2)], [1, 2], {"a": "b"}, {}])
def test_pickles_without_an_adapter_say_so(content, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(AdapterError, match=r"holds no|not an adapter"):
        open_adapter(tmp_path / "x.pt")


def family(tmp_path, keys, metadata=None) -> str:
    return open_adapter(write(tmp_path / "x.safetensors", keys, metadata)).family


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sdxl-refiner"])
def test_a_tiny_model_of_real_structure_has_its_family(name, native, tmp_path):
    layers = unet(name, shrink=32)
    for leaves in (by.lora, by.lokr, by.oft, by.ia3):
        keys = by.flattened("lora_unet_", ldm(layers) if native else layers, leaves)
        assert family(tmp_path, keys) == name


@pytest.mark.parametrize("leaves", [by.lora, by.loha, by.lokr, by.full])
@pytest.mark.parametrize("name", UNETS)
def test_cross_attention_alone_is_enough(name, leaves, tmp_path):
    for place in ("down_blocks.1.attentions.0", "mid_block", "up_blocks.1"):
        layers = {path: shape for path, shape in unet(name).items() if path.startswith(place) and ".attn2.to_k" in path}
        if layers:
            assert family(tmp_path, by.flattened("lora_unet_", layers, leaves)) == name


def test_metadata_breaks_ties_and_never_overrules_shapes(tmp_path):
    layer = {"mid_block.resnets.0.conv1": (1280, 1280, 3, 3)}
    resnet = by.flattened("lora_unet_", layer)
    assert family(tmp_path, resnet) == "unknown"
    assert family(tmp_path, resnet, {"ss_base_model_version": "sdxl_base_v1-0"}) == "sdxl"
    assert family(tmp_path, resnet, {"ss_v2": "true"}) == "sd2"
    assert family(tmp_path, resnet, {"modelspec.architecture": "stable-diffusion-v1/lora"}) == "sd1"
    keys = by.flattened("lora_unet_", unet("sd1"))
    assert family(tmp_path, keys, {"ss_base_model_version": "sdxl_base_v1-0"}) == "sd1"


@pytest.mark.parametrize(
    ("kind", "prefix", "expected"),
    [
        ("clip-l", "lora_te_", "sd1"),
        ("tiny", "lora_te_", "sd1"),
        ("open-clip-h", "lora_te_", "sd2"),
        ("clip-g", "lora_te2_", "sdxl"),
        ("clip-l", "lora_te1_", "sdxl"),
    ],
)
def test_text_encoders_alone(kind, prefix, expected, tmp_path):
    assert family(tmp_path, by.flattened(prefix, text(kind))) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "flux"),
        ("diffusion_model.blocks.0.cross_attn.k_img", "wan"),
        ("diffusion_model.layers.0.attention.qkv", "lumina"),
        ("transformer.transformer_blocks.0.img_mlp.net.2", "qwen-image"),
        ("diffusion_model.double_stream_blocks.0.block.attn1.to_q", "hidream"),
        ("lora_unet_joint_blocks_0_context_block_attn_proj", "sd3"),
        ("lora_prior_unet_down_blocks_0_0_channelwise_0", "cascade"),
    ],
)
def test_other_base_models_open_under_their_own_name(module, expected, tmp_path):
    keys = {f"{module}.lora_down.weight": (4, 3072), f"{module}.lora_up.weight": (3072, 4)}
    assert family(tmp_path, keys) == expected
    assert expected in FAMILY_NAMES


def test_flux_and_sd3_share_names_but_not_widths(tmp_path):
    for width, expected in ((3072, "flux"), (1536, "sd3")):
        keys = by.dotted("transformer.", {"transformer_blocks.0.attn.to_q": (width, width)})
        assert family(tmp_path, keys) == expected


def test_one_text_encoder_of_a_file_for_two_is_found_by_its_width(tmp_path):
    for kind, part in (("clip-l", "te1"), ("clip-g", "te2")):
        keys = by.flattened("lora_unet_", ldm(unet("sdxl"))) | by.flattened("lora_te_", text(kind))
        assert open_adapter(write(tmp_path / "x.safetensors", keys)).components == ("unet", part)


LEFT_OPEN = {path: shape for path, shape in unet("sd2").items() if ".attn1." in path or path.endswith("attn2.to_q")}


@pytest.mark.parametrize("leaves", [by.lora, by.loha, by.lokr, by.full, by.ia3, by.oft])
def test_sd2_without_a_layer_of_its_own_is_told_by_its_text_encoder_or_its_metadata(leaves, tmp_path):
    keys = by.flattened("lora_unet_", LEFT_OPEN, leaves)
    assert family(tmp_path, keys) == "sd1"
    assert family(tmp_path, keys, {"ss_v2": "True"}) == "sd2"
    assert family(tmp_path, keys, {"ss_v2": "False"}) == "sd1"
    assert family(tmp_path, keys, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}) == "sd2"
    for kind, expected in (("open-clip-h", "sd2"), ("clip-l", "sd1")):
        words = by.flattened("lora_te_", text(kind))
        assert family(tmp_path, keys | words) == expected
        assert family(tmp_path, keys | words, {"ss_v2": str(expected == "sd1")}) == expected  # tensors come first


def test_metadata_of_another_structure_changes_nothing(tmp_path):
    assert family(tmp_path, by.flattened("lora_unet_", LEFT_OPEN), {"ss_base_model_version": "sdxl_base_v1-0"}) == "sd1"


@pytest.mark.parametrize("leaves", [by.lora, by.lokr, by.full])
@pytest.mark.parametrize(("kernel", "expected"), [((), "sd2"), ((1, 1), "sd1")])
@pytest.mark.parametrize("end", ["proj_in", "proj_out"])
def test_projections_around_attention_tell_sd1_from_sd2(leaves, kernel, expected, end, tmp_path):
    keys = by.flattened("lora_unet_", {f"down_blocks.0.attentions.0.{end}": (320, 320, *kernel)}, leaves)
    assert family(tmp_path, keys, {"ss_v2": str(expected == "sd1")}) == expected


@pytest.mark.parametrize(("kind", "expected"), [("open-clip-h", "sd2"), ("clip-l", "sd1")])
@pytest.mark.parametrize("layer", ["mlp.fc1", "mlp.fc2", "self_attn.out_proj"])
def test_any_one_layer_of_a_text_encoder_shows_its_width(kind, expected, layer, tmp_path):
    words = {path: shape for path, shape in text(kind).items() if path.endswith(f".0.{layer}")}
    assert family(tmp_path, by.dotted("text_encoder.", words)) == expected
    keys = by.dotted("unet.", LEFT_OPEN) | by.dotted("text_encoder.", words)
    assert family(tmp_path, keys, {"ss_v2": str(expected == "sd1")}) == expected


def test_a_text_encoder_that_shows_no_width_leaves_it_to_the_metadata(tmp_path):
    words = {path: shape for path, shape in text("open-clip-h").items() if ".0." in path}
    keys = by.flattened("lora_te_", words, by.oft)
    for claims, expected in (({}, "sd1"), ({"ss_v2": "True"}, "sd2"), ({"ss_base_model_version": "sdxl_x"}, "sdxl")):
        assert family(tmp_path, keys, claims) == expected
