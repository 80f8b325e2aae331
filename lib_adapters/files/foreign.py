"""Sound files that are no adapter of weights: each is named, with the place where it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lib_adapters.errors import ForeignFile
from lib_adapters.files.modules import Groups

_TUNERS = {
    "vera_lambda_": "VeRA", "vera_A": "VeRA", "c3a_kernel": "C3A", "hra_u": "HRA", "fourierft_spectrum": "FourierFT",
    "randlora_": "RandLora", "vblora_": "VB-LoRA", "shira_weight": "SHiRA", "miss_block": "MiSS", "bone_": "Bone",
    "road_theta": "RoAd", "road_alpha": "RoAd", "waveft_": "WaveFT", "gralora_": "GraLoRA", "hira_A": "HiRA",
    "hira_B": "HiRA", "delora_": "DeLoRA", "psoft_": "PSOFT", "osf_": "OSF", "glora_A": "PEFT's GLoRA",
    "lora_E": "AdaLoRA", "lora_embedding_A": "LoRA of an embedding", "adaption_": "adaption prompts",
    "boft_R": "PEFT's BOFT", "boft_s": "PEFT's BOFT", "oft_r": "an old PEFT OFT", "oft_s": "an old PEFT OFT",
    "poly_lora_": "Poly", "prompt_embeddings": "prompt tuning", "ln_tuning_": "LN tuning", "trainable_tokens_": "token tuning",
}  # fmt: skip
_TUNER = re.compile(rf"\.({'|'.join(map(re.escape, _TUNERS))})[\w.]*$", re.M)

# (pattern over all keys, one per line; what the file is and where it belongs)
_KINDS = (
    (r"^lora_controlnet", "a Control-LoRA for ControlNet, not an adapter; put it into models/ControlNet"),
    (r"^lllite_", "a ControlNet-LLLite model, not an adapter; put it into models/ControlNet"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet or IP-Adapter extension"),
    (r"motion_modules\..*(lora|_lora\.|\.lora_)", "an AnimateDiff motion LoRA; it belongs to the AnimateDiff extension"),
    (r"motion_modules\.", "an AnimateDiff motion module, not an adapter; it belongs to the AnimateDiff extension"),
    (r"^(emb_params|string_to_param\.\*)$", "a textual inversion embedding, not an adapter; put it into the folder 'embeddings'"),
    (r"\.(qweight|wscales|smooth_factor|proj_down|proj_up|lora_unsigned)$", "packed for Nunchaku (SVDQuant) and useless elsewhere; use the LoRA it was made from"),
    (r"(^|\.)router_fc\.|\.experts\.\d+\.\d+\.(down|up)\.", "TSM: experts that change with the timestep, which cannot be added to weights"),
    (r"\.lora2_nu$", "LoRA² (lora2_nu): its rank weighting is not in the file, so its effect cannot be computed"),
    (r"xlora_", "X-LoRA: a mixture that is decided while running, which cannot be added to weights"),
    (r"\.processor\.(qkv|proj)_lora\d\.(down|up)\.", "a Flux LoRA in XLabs' format; it belongs to Flux, not to Stable Diffusion"),
    (r"^(controlnet_cond_embedding|controlnet_down_blocks|control_model)\.", "a ControlNet, not an adapter; put it into models/ControlNet"),
    (r"^(adapter\.)?body\.\d+\.(block\d|resnets)", "a T2I-Adapter; put it into models/ControlNet"),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern, re.M), sentence) for pattern, sentence in _KINDS)

_PLACE = "models/Stable-diffusion"
_WHOLE = (
    (r"^(model\.diffusion_model|model_ema)\.", f"a whole checkpoint, not an adapter; put it into {_PLACE}"),
    (r"^(double_blocks|single_blocks|single_transformer_blocks|joint_blocks)\.", f"a whole diffusion model, not an adapter; put it into {_PLACE}"),
    (r"^(encoder|decoder)\.(down|up|mid|conv_in)|^(post_)?quant_conv\.|^first_stage_model\.", "a VAE, not an adapter; put it into models/VAE"),
    (r"^(unet\.)?(down_blocks|up_blocks|input_blocks|output_blocks)\.", f"a whole UNet, not an adapter; put it into {_PLACE}"),
    (r"^(text_model|cond_stage_model|transformer\.text_model|encoder\.block|text_projection|conditioner)\.?", "a text encoder, not an adapter; put it into models/text_encoder"),
)  # fmt: skip
_EMBEDDING_KEYS = frozenset({"clip_l", "clip_g", "t5xxl", "clip_l_out", "clip_g_out", "<concept>"})


def refuse(keys: Iterable[str]) -> None:
    """ForeignFile for a file whose keys show that it belongs elsewhere."""
    names = list(keys)
    text = "\n".join(names)
    if names and all(name in _EMBEDDING_KEYS or re.fullmatch(r"<[^<>]+>", name) for name in names):
        raise ForeignFile("is a textual inversion embedding, not an adapter; put it into the folder 'embeddings'")
    for pattern, sentence in _PATTERNS:
        if pattern.search(text):
            raise ForeignFile(f"is {sentence}")
    found = _TUNER.search(text)
    if found is not None:
        name = _TUNERS[found.group(1)]
        raise ForeignFile(
            f"is {name}, a tuner that exists for language models only; no Stable Diffusion trainer writes it"
        )


def refuse_plain(groups: Groups) -> None:
    """ForeignFile for a file of plain weights: a checkpoint, a VAE, a text encoder."""
    plain = [name for name, leaves in groups.modules.items() if _is_plain(name, leaves)]
    if len(plain) * 2 <= len(groups.modules):
        return
    text = "\n".join(plain)
    for pattern, sentence in _WHOLE:
        if re.search(pattern, text, re.M):
            raise ForeignFile(f"is {sentence}")
    raise ForeignFile("holds the plain weights of some model, not the changes of an adapter; it is not used")


def _is_plain(name: str, leaves: Mapping[str, str]) -> bool:
    """IA3 writes `weight` too, but only under a trainer's prefix, where the module has no dots."""
    return leaves.keys() <= {"weight", "bias"} and ("." in name or not name.startswith(("lora_", "lycoris_")))
