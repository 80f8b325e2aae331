"""Recognises valid files, and parts of files, that are not weight adapters, and says where they belong."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from lib_adapters.errors import AestheticFile, HypernetworkFile, UnsupportedFile

Kind = tuple[str, str, str]

_TUNERS = {
    "psoft_": "PSOFT", "osf_": "OSF", "glora_A": "PEFT's GLoRA",
    "lora_embedding_": "LoRA of an embedding", "adaption_": "adaption prompts",
    "oft_r": "an old PEFT OFT", "oft_s": "an old PEFT OFT",
    "poly_lora_": "Poly", "poly_router": "Poly", "prompt_embeddings": "prompt tuning",
    "trainable_tokens_": "token tuning", "token_adapter": "token tuning", "beft_": "BEFT",
    "lily_": "Lily", "peanut_": "PEANuT", "pvera_": "PVERA", "tinylora_": "TinyLoRA", "unilora_": "UniLoRA",
    "frod_": "FRoD", "adamss_": "AdaMSS", "shadow_": "Shadow", "supertuning_": "SuperTuning",
    "glora_": "PEFT's GLoRA", "hira_embedding_": "HiRA of an embedding", "oft_embedding_R": "OFT of an embedding",
    "lora_diag": "KaSA", "default_lora_latent_mapping": "LoRA-XS",
    "lora_latent_mapping": "LoRA-XS", "lora_AB": "MoSLoRA",
}  # fmt: skip
_LONGEST_FIRST = sorted(_TUNERS, key=len, reverse=True)
_TUNER = re.compile(
    r"[._](" + "|".join(name if name.endswith("_") else rf"{name}(?![a-zA-Z])" for name in _LONGEST_FIRST) + ")"
)

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
_RUNNING = "selected at run time, which cannot be expressed as a change of weights"
# Keys that decide what the whole file is: (substring of a key, pattern of a key, what the file is)
_WHOLE_FILE = (
    ("lora_controlnet", r"^lora_controlnet", f"a Control-LoRA for ControlNet, not an adapter; {_CONTROLNET}"),
    ("router_fc", r"", f"TSM: experts for parts of the timesteps, {_RUNNING}"),
    ("xlora_", r"", f"X-LoRA: a mixture {_RUNNING}"),
    ("controlnet_", r"^controlnet_(cond_embedding|down_blocks)", f"a ControlNet, not an adapter; {_CONTROLNET}"),
    ("control_model.", r"^control_model\.", f"a ControlNet, not an adapter; {_CONTROLNET}"),
)
# Kinds of tensors: (substring of the key, pattern of the key, what it is and where it belongs)
_KINDS = (
    ("lllite_", r"^lllite_", f"a ControlNet-LLLite model, not an adapter; {_CONTROLNET}"),
    ("image_proj", r"^image_proj\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet extension"),
    ("ip_adapter", r"^ip_adapter\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet extension"),
    ("motion_modules", r"^(?=.*motion_modules).*lora", "an AnimateDiff motion LoRA; it belongs to AnimateDiff"),
    ("motion_modules", r"", "an AnimateDiff motion module, not an adapter; it belongs to AnimateDiff"),
    ("emb_params", r"^emb_params$", _EMBEDDING),
    ("experts.", r"\bexperts\.\d+\.\d+\.", f"TSM: experts for parts of the timesteps, {_RUNNING}"),
    ("lora2_nu", r"\.lora2_nu$", "LoRA² (lora2_nu): its rank weighting is not in the file, so nobody can compute it"),
    ("custom_diffusion", r"_custom_diffusion\.", "Custom Diffusion, which is not supported"),
    (".delta", r"\.delta$", "SVDiff, which is not supported"),
    ("_lora1.", r"\.processor\.\w+_lora\d\.(down|up)\.", "a Flux LoRA in XLabs' format; it belongs to Flux"),
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


def refuse_whole(keys: Iterable[str]) -> None:
    """Raise UnsupportedFile if some keys show that the file's factors are not for the model itself."""
    _raise_for("\n".join(keys), _WHOLE_FILE)


def refuse(keys: Iterable[str], plain: Collection[str]) -> None:
    """Raise UnsupportedFile if the keys of a file without usable layers show what it is and where it belongs.

    `plain`: the keys that name whole weights of a model.
    """
    names = list(keys)
    text = "\n".join(names)
    if names and all(re.match(r"\d+\.[kv]\.linear", name) for name in names):
        raise HypernetworkFile(HYPERNETWORK)
    if names == [AESTHETIC_KEY]:
        raise AestheticFile(AESTHETIC)
    if names and all(name in _EMBEDDING_KEYS or re.fullmatch(r"<[^<>]+>", name) for name in names):
        raise UnsupportedFile(f"is {_EMBEDDING}")
    _raise_for(text, _KINDS)
    if tuner := _tuner_in(text):
        raise UnsupportedFile(f"is {tuner}")
    if plain:
        whole = (sentence for pattern, sentence in _WHOLE if re.search(pattern, "\n".join(plain), re.M))
        other = "contains the full weights of a model, not the changes of an adapter; it is not used"
        raise UnsupportedFile(next((f"is {sentence}" for sentence in whole), other))


def part_of(keys: Iterable[str]) -> str:
    """Return what the tensors of one layer belong to, in words; "" if they may belong to an adapter."""
    return next((sentence for _, sentence in _found("\n".join(keys), _KINDS)), "")


def kind_of(key: str) -> str:
    """Return what a tensor that no algorithm uses belongs to, in words; "" if unknown."""
    return part_of([key]) or _tuner_in(key)


def _raise_for(text: str, kinds: Iterable[Kind]) -> None:
    for _, sentence in _found(text, kinds):
        raise UnsupportedFile(f"is {sentence}")


def _found(text: str, kinds: Iterable[Kind]) -> Iterator[tuple[str, str]]:
    for word, pattern, sentence in kinds:
        if word in text and re.search(pattern, text, re.M):
            yield word, sentence


def _tuner_in(text: str) -> str:
    found = _TUNER.search(text) if any(word in text for word in _TUNERS) else None
    return f"{_TUNERS[found[1]]}, which is not supported" if found is not None else ""
