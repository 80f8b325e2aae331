"""Sound files that are no adapter of weights: each is named, with the place where it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lib_adapters.errors import AestheticFile, ForeignFile, HypernetworkFile
from lib_adapters.files.modules import Groups

_TUNERS = {
    "c3a_kernel": "C3A", "hra_u": "HRA", "shira_weight": "SHiRA", "miss_block": "MiSS", "bone_": "Bone",
    "gralora_": "GraLoRA", "hira_A": "HiRA", "hira_B": "HiRA", "delora_": "DeLoRA", "psoft_": "PSOFT", "osf_": "OSF",
    "glora_A": "PEFT's GLoRA", "lora_embedding_A": "LoRA of an embedding", "adaption_": "adaption prompts",
    "boft_R": "PEFT's BOFT", "boft_s": "PEFT's BOFT", "oft_r": "an old PEFT OFT", "oft_s": "an old PEFT OFT",
    "poly_lora_": "Poly", "prompt_embeddings": "prompt tuning", "ln_tuning_": "LN tuning",
    "trainable_tokens_": "token tuning",
}  # fmt: skip
_TUNER = re.compile("|".join(rf"\.({name})" if name.endswith("_") else rf"\.({name})(?![a-zA-Z])" for name in _TUNERS))

HYPERNETWORK = (
    "is a hypernetwork, not an adapter of weights; put it into models/hypernetworks and write <hypernet:NAME:1>"
)
AESTHETIC = (
    "is a single tensor: an aesthetic embedding, not an adapter of weights; "
    "put it into models/aesthetic_embeddings and write <aesthetic:NAME>"
)
AESTHETIC_KEY = "aesthetic_embedding"  # its name in our own safetensors form
_EMBEDDING = "a textual inversion embedding, not an adapter; put it into the folder 'embeddings'"
_CONTROLNET = "put it into models/ControlNet"
# (a word that all such files contain, what a key looks like, what the file is and where it belongs)
_KINDS = (
    ("lora_controlnet", r"^lora_controlnet", f"a Control-LoRA for ControlNet, not an adapter; {_CONTROLNET}"),
    ("lllite_", r"^lllite_", f"a ControlNet-LLLite model, not an adapter; {_CONTROLNET}"),
    ("image_proj", r"^image_proj\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet extension"),
    ("ip_adapter", r"^ip_adapter\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet extension"),
    ("motion_modules", r"^(?=.*motion_modules).*lora", "an AnimateDiff motion LoRA; it belongs to AnimateDiff"),
    ("motion_modules", r"", "an AnimateDiff motion module, not an adapter; it belongs to AnimateDiff"),
    ("emb_params", r"^emb_params$", _EMBEDDING),
    ("router_fc", r"", "TSM: experts that change with the timestep, not a change of weights"),
    ("experts.", r"\bexperts\.\d+\.\d+\.", "TSM: experts that change with the timestep, not a change of weights"),
    ("lora2_nu", r"\.lora2_nu$", "LoRA² (lora2_nu): its rank weighting is not in the file, so nobody can compute it"),
    ("xlora_", r"", "X-LoRA: a mixture that is decided while running, which cannot be added to weights"),
    ("_lora1.", r"\.processor\.\w+_lora\d\.(down|up)\.", "a Flux LoRA in XLabs' format; it belongs to Flux"),
    ("controlnet_", r"^controlnet_(cond_embedding|down_blocks)", f"a ControlNet, not an adapter; {_CONTROLNET}"),
    ("control_model.", r"^control_model\.", f"a ControlNet, not an adapter; {_CONTROLNET}"),
    ("body.", r"^(adapter\.)?body\.\d+\.(block\d|resnets)", f"a T2I-Adapter, not an adapter of weights; {_CONTROLNET}"),
    *(
        (f".{leaf}", rf"\.{leaf}$", "packed for Nunchaku (SVDQuant); use the LoRA it was made from")
        for leaf in ("qweight", "wscales", "smooth_factor", "proj_down", "proj_up")
    ),
)

_CHECKPOINTS = "put it into models/Stable-diffusion"
_WHOLE = (
    (r"^(model\.diffusion_model|model_ema)\.", f"a whole checkpoint, not an adapter; {_CHECKPOINTS}"),
    (r"^(double|single|joint|single_transformer)_blocks\.", f"a whole diffusion model, not an adapter; {_CHECKPOINTS}"),
    (r"^(encoder|decoder)\.(down|up|mid|conv_in)|^first_stage", "a VAE, not an adapter; put it into models/VAE"),
    (r"^(unet\.)?(down|up|input|output)_blocks\.", f"a whole UNet, not an adapter; {_CHECKPOINTS}"),
    (
        r"^(text_model|cond_stage_model|transformer\.text_model|encoder\.(block|layers)|conditioner)\.",
        "a text encoder, not an adapter; put it into models/text_encoder",
    ),
)
_EMBEDDING_KEYS = frozenset({"clip_l", "clip_g", "t5xxl", "clip_l_out", "clip_g_out", "string_to_param.*"})


def refuse(keys: Iterable[str]) -> None:
    """ForeignFile for a file whose keys show that it belongs elsewhere."""
    names = list(keys)
    text = "\n".join(names)
    if names and all(re.match(r"\d+\.[kv]\.linear", name) for name in names):
        raise HypernetworkFile(HYPERNETWORK)
    if names == [AESTHETIC_KEY]:
        raise AestheticFile(AESTHETIC)
    if names and all(name in _EMBEDDING_KEYS or re.fullmatch(r"<[^<>]+>", name) for name in names):
        raise ForeignFile(f"is {_EMBEDDING}")
    for word, pattern, sentence in _KINDS:
        if word in text and re.search(pattern, text, re.M):
            raise ForeignFile(f"is {sentence}")
    found = _TUNER.search(text) if any(f".{word}" in text for word in _TUNERS) else None
    if found is not None:
        name = _TUNERS[found.group(found.lastindex or 0)]
        raise ForeignFile(f"is {name}, which no Stable Diffusion trainer writes; it belongs to language models")


def refuse_plain(groups: Groups) -> None:
    """ForeignFile for a file of plain weights: a checkpoint, a VAE, a text encoder."""
    plain = [name for name, leaves in groups.modules.items() if _is_plain(name, leaves)]
    if not plain or len(plain) * 2 <= len(groups.modules):
        return
    text = "\n".join(f"{name}." for name in plain)
    for pattern, sentence in _WHOLE:
        if re.search(pattern, text, re.M):
            raise ForeignFile(f"is {sentence}")
    raise ForeignFile("holds the plain weights of some model, not the changes of an adapter; it is not used")


def _is_plain(name: str, leaves: Mapping[str, str]) -> bool:
    """IA3 writes `weight` too, but under a trainer's prefix, where the module has no dots."""
    return leaves.keys() <= {"weight", "bias"} and ("." in name or not name.startswith(("lora_", "lycoris_")))
