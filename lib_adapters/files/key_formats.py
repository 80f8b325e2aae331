"""From a layer's name in a file to its LayerKey: kohya, LyCORIS, OneTrainer, diffusers, PEFT and native names.

A dialect is a prefix (which part of the model) and a few old spellings; the path itself is left as the file has it,
because only the live model can tell which underscores are dots. Prefixes of wrappers (torch.compile, DataParallel,
PEFT, a table in a pickle) are removed.
"""

from __future__ import annotations

import re

from lib_adapters.files.tensor_keys import LayerKey

_PREFIXES = {
    "lora_unet_": "unet", "oft_unet_": "unet", "lora_prior_unet_": "unet", "lora_transformer_": "unet", "lycoris_": "",
    "lora_te_": "te", "lora_te1_": "te1", "lora_te2_": "te2", "lora_te3_": "te3", "lora_prior_te_": "te",
    "oft_te_": "te", "oft_te1_": "te1", "oft_te2_": "te2", "oft_te3_": "te3",
    "unet.": "unet", "unet_": "unet", "transformer.": "unet", "prior.": "unet",
    "text_encoder.": "te", "text_encoder_2.": "te2", "text_encoder_3.": "te3",
    "diffusion_model.": "unet", "diffusion_model_": "unet", "model.diffusion_model.": "unet",
    "text_encoders.": "te", "clip_l.": "te1", "clip_g.": "te2", "clip_h.": "te", "t5xxl.": "te3",
    "cond_stage_model.": "te", "cond_stage_model.model.": "te",
    "conditioner.embedders.0.": "te1", "conditioner.embedders.1.": "te2", "conditioner.embedders.1.model.": "te2",
    "base_model.model.": "", "text_encoder_1.": "te1", "lora_weights.": "", "module.": "",
    "_orig_mod.": "", "_orig_mod_": "", "model.": "", "params.": "", "weights.": "", "network.": "", "state_dict.": "",
    "lora_state_dict.": "",
}  # fmt: skip

_PREFIX = re.compile("|".join(re.escape(p) for p in sorted(_PREFIXES, key=len, reverse=True)))
_TEXT_ENCODER = re.compile(
    r"text_model_|text_projection|final_layer_norm|encoder_(layers|block)_|"
    r"embeddings_(token|position)_embedding|(transformer_)?resblocks_"
)
_WRAPPER = re.compile(r"\.(?:base_layer|_orig_mod|module)(?=\.|$)")
_OUTPUT_PROJECTION = re.compile(r"(?<!self)_attn\d*_to_out$")
_OLD_ATTENTION = re.compile(r"(.*_self_attn)_to_(q|k|v|out)$")


def layer_key(layer_name: str) -> LayerKey:
    """`module` is what names.split_key left of a key."""
    part, path = _without_prefixes(layer_name)
    name = _modern(_WRAPPER.sub("", path).replace(".", "_").strip("_"))
    if not part or (part == "unet" and name.startswith("text_model_")):
        part = "te" if _TEXT_ENCODER.match(name) else "unet"
    return LayerKey(part, _text_encoder_names(name) if part != "unet" else name)


def key_prefix(layer_name: str) -> str:
    """Return the first prefix that names a component, as written; "" if there is none."""
    while (found := _PREFIX.match(layer_name)) is not None and not _PREFIXES[found.group()]:
        layer_name = layer_name[found.end() :]
    return found.group() if found else ""


def has_known_prefix(layer_name: str) -> bool:
    """True if the name begins with a known prefix of a model or component."""
    return _PREFIX.match(layer_name) is not None


def layer_path(layer_name: str) -> str:
    """Return the layer's path in its component, without the prefixes."""
    return _without_prefixes(layer_name)[1]


def _without_prefixes(module: str) -> tuple[str, str]:
    """Prefixes nest: `unet.base_model.model.`, `text_encoders.clip_l.transformer.`; the last that names a part wins."""
    part = ""
    while (found := _PREFIX.match(module)) is not None:
        prefix = found.group()
        if prefix != "transformer." or not part:
            part = _PREFIXES[prefix] or part
        module = module[found.end() :]
    return part, module


def _modern(name: str) -> str:
    """Rename old attention processors: `attn1_processor_to_q` is `attn1.to_q`, `attn1_to_out` is `attn1.to_out.0`."""
    name = name.replace("_processor_to_", "_to_").replace("__orig_mod_", "_")
    return f"{name}_0" if name.endswith("_to_out") and _OUTPUT_PROJECTION.search(name) else name


def _text_encoder_names(name: str) -> str:
    """Doubled `text_model_` (LyCORIS, spring 2023) and processor names on CLIP (diffusers 0.16)."""
    while name.startswith("text_model_text_model_"):
        name = name.removeprefix("text_model_")
    old = _OLD_ATTENTION.match(name)
    return f"{old.group(1)}_{old.group(2)}_proj" if old else name
