"""Recognition of valid files that are not weight adapters, and messages that say where they belong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from lib_adapters.errors import AestheticFile, HypernetworkFile, UnsupportedFile, shorten

KeySignature = tuple[str, str, str]

_UNSUPPORTED_TUNERS = {
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
_LONGEST_FIRST = sorted(_UNSUPPORTED_TUNERS, key=len, reverse=True)
_TUNER = re.compile(
    r"[._](" + "|".join(name if name.endswith("_") else rf"{name}(?![a-zA-Z])" for name in _LONGEST_FIRST) + ")"
)

HYPERNETWORK_MESSAGE = (
    "is a hypernetwork, not an adapter of weights; put it into models/hypernetworks and write <hypernet:NAME:1>"
)
AESTHETIC_MESSAGE = (
    "is a single tensor: an aesthetic embedding, not an adapter of weights; "
    "put it into models/aesthetic_embeddings and write <aesthetic:NAME>"
)
AESTHETIC_KEY = "aesthetic_embedding"  # its name in our own safetensors form
_EMBEDDING_MESSAGE = "a textual inversion embedding, not an adapter; put it into the folder 'embeddings'"
_CONTROLNET_FOLDER = "put it into models/ControlNet"
_RUN_TIME_ONLY = "selected at run time, which cannot be expressed as a change of weights"
# Keys that decide what the whole file is: (substring of a key, pattern of a key, what the file is)
_FILE_SIGNATURES = (
    ("lora_controlnet", r"^lora_controlnet", f"a Control-LoRA for ControlNet, not an adapter; {_CONTROLNET_FOLDER}"),
    ("router_fc", r"", f"TSM: experts for parts of the timesteps, {_RUN_TIME_ONLY}"),
    ("xlora_", r"", f"X-LoRA: a mixture {_RUN_TIME_ONLY}"),
    ("controlnet_", r"^controlnet_(cond_embedding|down_blocks)", f"a ControlNet, not an adapter; {_CONTROLNET_FOLDER}"),
    ("control_model.", r"^control_model\.", f"a ControlNet, not an adapter; {_CONTROLNET_FOLDER}"),
)
# Kinds of tensors: (substring of the key, pattern of the key, what it is and where it belongs)
_TENSOR_SIGNATURES = (
    ("lllite_", r"^lllite_", f"a ControlNet-LLLite model, not an adapter; {_CONTROLNET_FOLDER}"),
    ("image_proj", r"^image_proj\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet extension"),
    ("ip_adapter", r"^ip_adapter\.", "an IP-Adapter, not a LoRA; it belongs to the ControlNet extension"),
    ("motion_modules", r"^(?=.*motion_modules).*lora", "an AnimateDiff motion LoRA; it belongs to AnimateDiff"),
    ("motion_modules", r"", "an AnimateDiff motion module, not an adapter; it belongs to AnimateDiff"),
    ("emb_params", r"^emb_params$", _EMBEDDING_MESSAGE),
    ("experts.", r"\bexperts\.\d+\.\d+\.", f"TSM: experts for parts of the timesteps, {_RUN_TIME_ONLY}"),
    ("lora2_nu", r"\.lora2_nu$", "LoRA² (lora2_nu): its rank weighting is not in the file, so nobody can compute it"),
    ("custom_diffusion", r"_custom_diffusion\.", "Custom Diffusion, which is not supported"),
    (".delta", r"\.delta$", "SVDiff, which is not supported"),
    ("_lora1.", r"\.processor\.\w+_lora\d\.(down|up)\.", "a Flux LoRA in XLabs' format; it belongs to Flux"),
    (
        "body.",
        r"^(adapter\.)?body\.\d+\.(block\d|resnets)",
        f"a T2I-Adapter, not an adapter of weights; {_CONTROLNET_FOLDER}",
    ),
    *(
        (f".{leaf}", rf"\.{leaf}$", "packed for Nunchaku (SVDQuant); use the LoRA it was made from")
        for leaf in ("qweight", "wscales", "smooth_factor", "proj_down", "proj_up")
    ),
)

_CHECKPOINT_FOLDER = "put it into models/Stable-diffusion"
_MODEL_SIGNATURES = (
    (r"^(model\.diffusion_model|model_ema)\.", f"a whole checkpoint, not an adapter; {_CHECKPOINT_FOLDER}"),
    (
        r"^(double|single|joint|single_transformer)_blocks\.",
        f"a whole diffusion model, not an adapter; {_CHECKPOINT_FOLDER}",
    ),
    (r"^(encoder|decoder)\.(down|up|mid|conv_in)|^first_stage", "a VAE, not an adapter; put it into models/VAE"),
    (r"^(unet\.)?(down|up|input|output)_blocks\.", f"a whole UNet, not an adapter; {_CHECKPOINT_FOLDER}"),
    (
        r"^(text_model|cond_stage_model|transformer\.text_model|encoder\.(block|layers)|conditioner)\.",
        "a text encoder, not an adapter; put it into models/text_encoder",
    ),
)
_EMBEDDING_KEYS = frozenset({"clip_l", "clip_g", "t5xxl", "clip_l_out", "clip_g_out", "string_to_param.*"})


def reject_unsupported_factors(keys: Iterable[str]) -> None:
    """Raise UnsupportedFile if some keys show that the file's factors are not for the model itself."""
    _raise_for("\n".join(keys), _FILE_SIGNATURES)


def reject_unsupported(keys: Iterable[str], full_weight_keys: Collection[str]) -> None:
    """Raise UnsupportedFile if the keys of a file without usable layers show what it is and where it belongs.

    `plain`: the keys that name whole weights of a model.
    """
    names = list(keys)
    text = "\n".join(names)
    if names and all(re.match(r"\d+\.[kv]\.linear", name) for name in names):
        raise HypernetworkFile(HYPERNETWORK_MESSAGE)
    if names == [AESTHETIC_KEY]:
        raise AestheticFile(AESTHETIC_MESSAGE)
    if names and all(name in _EMBEDDING_KEYS or re.fullmatch(r"<[^<>]+>", name) for name in names):
        raise UnsupportedFile(f"is {_EMBEDDING_MESSAGE}")
    _raise_for(text, _TENSOR_SIGNATURES)
    if tuner := _tuner_in(text):
        raise UnsupportedFile(f"is {tuner}")
    if full_weight_keys:
        whole = (
            sentence for pattern, sentence in _MODEL_SIGNATURES if re.search(pattern, "\n".join(full_weight_keys), re.M)
        )
        other = "contains the full weights of a model, not the changes of an adapter; it is not used"
        raise UnsupportedFile(next((f"is {sentence}" for sentence in whole), other))


def unsupported_layer_kind(keys: Iterable[str]) -> str:
    """Return what the tensors of one layer belong to, in words; "" if they may belong to an adapter."""
    return next((sentence for _, sentence in _found("\n".join(keys), _TENSOR_SIGNATURES)), "")


def unsupported_tensor_kind(key: str) -> str:
    """Return what a tensor that no algorithm uses belongs to, in words; "" if unknown."""
    return unsupported_layer_kind([key]) or _tuner_in(key)


def _raise_for(text: str, kinds: Iterable[KeySignature]) -> None:
    for _, sentence in _found(text, kinds):
        raise UnsupportedFile(f"is {sentence}")


def _found(text: str, kinds: Iterable[KeySignature]) -> Iterator[tuple[str, str]]:
    for word, pattern, sentence in kinds:
        if word in text and re.search(pattern, text, re.M):
            yield word, sentence


def _tuner_in(text: str) -> str:
    found = _TUNER.search(text) if any(word in text for word in _UNSUPPORTED_TUNERS) else None
    return f"{_UNSUPPORTED_TUNERS[found[1]]}, which is not supported" if found is not None else ""


# Small sums over an adapter's modules, and the sentences for what could not be used.


Value = TypeVar("Value", int, float)

COMPONENTS = ("unet", "te", "te1", "te2", "te3")
_MAX_KEYS_NAMED = 20
_FULL_WEIGHT_REASON = "is a full weight of a model, not a change of one (IA3 also has on_input)"


def skipped_unrecognized(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the keys of no known format with a reason for each; a long list is truncated."""
    reasons = [unsupported_tensor_kind(key) for key in keys[:_MAX_KEYS_NAMED]]
    unknown = "no known adapter has a tensor of this name"
    named = [(key, f"is {reason}" if reason else unknown) for key, reason in zip(keys, reasons, strict=False)]
    return [*named, *_more(len(keys), "no known adapter has tensors of these names")]


def skipped_full_weights(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the keys of a model's own parameters with a reason for each; a long list is truncated."""
    named = [
        (key, f"is {kind}" if (kind := unsupported_tensor_kind(key)) else _FULL_WEIGHT_REASON)
        for key in keys[:_MAX_KEYS_NAMED]
    ]
    return [*named, *_more(len(keys), _FULL_WEIGHT_REASON)]


def keys_note(keys: Sequence[str], predicate: str) -> list[str]:
    """Return one note that names the first of the keys and counts the others; [] if there are none."""
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return [f"{keys[0]}{more} {predicate}"] if keys else []


def _more(count: int, reason: str) -> list[tuple[str, str]]:
    return [(f"{count - _MAX_KEYS_NAMED} more keys", reason)] if count > _MAX_KEYS_NAMED else []


def nothing_usable_message(skipped: Sequence[tuple[str, str]]) -> str:
    """Why a file without one usable module is refused; `unusable` has pairs of what and why."""
    if not skipped:
        return "holds no tensors of an adapter"
    name, reason = skipped[0]
    return f"holds nothing that can be used: {shorten(name, 120)}: {reason}" + (
        f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    )


def most_common(values: Iterable[Value | None]) -> Value | None:
    """None where nothing has one; the larger of two that are equally common."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)
