"""Split of a key into layer and tensor name; every trainer's spelling maps to one canonical name.

The leaf is recognised from the right, longest spelling first; what is left is the module (files/dialects.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib_adapters.files import peft_tuners


@dataclass(frozen=True, order=True)
class LayerKey:
    """One layer as the file means it; whether the model has it is decided by patching/targets.py."""

    component: str  # "unet", "te", "te1", "te2", "te3"
    name: str  # module path in the file's own spelling, without prefix, "_" for "."


_UP, _DOWN, _MAGNITUDE = "lora_up.weight", "lora_down.weight", "dora_scale"

_TENSOR_ALIASES = {
    "lora_B.weight": _UP, "lora_A.weight": _DOWN, "lora_B": _UP, "lora_A": _DOWN,
    "lora.up.weight": _UP, "lora.down.weight": _DOWN, "lora.up": _UP, "lora.down": _DOWN,
    "lora_linear_layer.up.weight": _UP, "lora_linear_layer.down.weight": _DOWN,
    "W_up": _UP, "W_down": _DOWN, "lora_up": _UP, "lora_down": _DOWN,
    "lora_B.bias": "lora_up.bias", "lora_A.bias": "lora_down.bias",
    "lora_magnitude_vector": _MAGNITUDE, "lora_magnitude_vector.weight": _MAGNITUDE, "magnitude": _MAGNITUDE,
    "oft_R": "oft_R.weight", "lora.alpha": "alpha", "lora_linear_layer.alpha": "alpha",
}  # fmt: skip

_CANONICAL_NAMES = (
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "scale", "scalar", "dora_scale",
    "lora_up.bias", "lora_down.bias", "bias", "bias_indices", "bias_values", "bias_size", "hada_w1_a", "hada_w1_b",
    "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a",
    "lokr_w2_b", "lokr_t1", "lokr_t2", "oft_blocks", "oft_diag", "rescale", "oft_R.weight", "oft_R.scaled_oft",
    "a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight", "weight", "on_input", "ia3_l", "diff",
    "diff_b", "w_norm", "b_norm", "set_weight", "set_bias", "reshape_weight", "q_layer.weight", "p_layer.weight",
    "lambda_layer", "base_q", "base_p", "base_lambda", "lora_up1.weight", "lora_down1.weight", "lora_up2.weight",
    "lora_down2.weight", "S_p", "S_q", "P_basis", "Q_basis", "lora2_nu",
)  # fmt: skip

_PEFT_NAMES = (  # tensor names of further PEFT tuners
    "boft_R", "boft_s", "hra_u", "deft_P", "deft_R", "c3a_kernel", "delora_A", "delora_B", "delora_lambda",
    "delora_w_norm", "gralora_A", "gralora_B", "gralora_A_general.weight", "gralora_B_general.weight", "hira_A",
    "hira_B", "miss_block", "ln_tuning_layers.weight", "ln_tuning_layers.bias", "shira_weight", "shira_indices",
)  # fmt: skip

_KNOWN_NAMES = (*_CANONICAL_NAMES, *_PEFT_NAMES, *peft_tuners.CONFIG_TUNER_TENSORS, *peft_tuners.CONFIG_CONSTANTS)
_CANONICAL_BY_ALIAS = {leaf: leaf for leaf in _KNOWN_NAMES} | _TENSOR_ALIASES | {"bone_block": "miss_block"}

_TAKES_ADAPTER_NAME = frozenset(  # PEFT inserts an adapter name into these
    {"lora_A", "lora_B", "lora_magnitude_vector", "ia3_l", "oft_R", "bone_block", *peft_tuners.CONFIG_TUNER_TENSORS}
    | {name.partition(".")[0] for name in _PEFT_NAMES}
)
_NUMBERED_FACTORS = frozenset({"lora_up", "lora_down"})  # kohya's unsaved split form numbers them
_OLD_FACTOR_SUFFIXES = (
    "_lora",
    "_lora_linear_layer",
)  # diffusers 0.11-0.16, and what its export for web UIs leaves as it is
_HCP_SEPARATOR = ".___."
MODULES_TO_SAVE = ".modules_to_save"  # PEFT's wrapper around the trained copy of a layer, and around those below it
_MODULES_TO_SAVE_COPY = re.compile(r"\.modules_to_save(?:\.default)?(?=\.|$)")


def is_index(token: str) -> bool:
    """A part's or a layer's number: ASCII and short; "²" and a thousand digits are digits to Python too."""
    return token.isascii() and token.isdigit() and len(token) < 6


def split_key(key: str) -> tuple[str, str] | None:
    """(module, leaf), or None where no spelling of any leaf ends the key."""
    if _HCP_SEPARATOR in key:
        return _split_hcp(key)
    factor = _split(key.removesuffix(".alpha")) if key.endswith(".alpha") else None
    if factor is not None and factor[1] in (_UP, _DOWN):  # diffusers 0.18-0.23: `to_q_lora.down.weight.alpha`
        return factor[0], "alpha"
    return _split(key)


def _split(key: str) -> tuple[str, str] | None:
    tokens = key.rsplit(".", 3)
    for count in range(min(3, len(tokens)), 0, -1):
        found = _match_tensor_name(tokens[-count:])
        if found is not None:
            tensor_name, joined = found
            module = ".".join([*tokens[:-count], *([joined] if joined else [])])
            if tensor_name == "bias":  # PEFT saves the trained bias of a wrapped layer under it
                module = module.removesuffix(".base_layer")
            if tensor_name in ("weight", "bias") and MODULES_TO_SAVE in module:
                module = _MODULES_TO_SAVE_COPY.sub("", module)
            return (module, tensor_name) if module else None
    return None


def _match_tensor_name(tail: list[str]) -> tuple[str, str] | None:
    """(canonical leaf, the part of the module that an old spelling glued to it)."""
    known = _CANONICAL_BY_ALIAS.get(".".join(tail))
    if known is not None:
        return known, ""
    if (len(tail) == 3 and tail[1] in ("up", "down")) or (len(tail) == 2 and tail[1] == "alpha"):
        known = _CANONICAL_BY_ALIAS.get(f"lora.{'.'.join(tail[1:])}")
        glued = next((glue for glue in _OLD_FACTOR_SUFFIXES if tail[0].endswith(glue)), "")
        return (known, tail[0].removesuffix(glued)) if known and glued else None
    return _match_infixed_name(tail)


def _match_infixed_name(tail: list[str]) -> tuple[str, str] | None:
    """Leaves with something in the middle: an adapter's name (PEFT) or a part's number (kohya)."""
    if len(tail) == 3 and tail[0] in _TAKES_ADAPTER_NAME:
        known = _CANONICAL_BY_ALIAS.get(f"{tail[0]}.{tail[2]}")
        return (known, "") if known else None
    if len(tail) == 3 and tail[0] in _NUMBERED_FACTORS and is_index(tail[1]) and tail[2] == "weight":
        return ".".join(tail), ""
    if len(tail) == 2 and tail[0] in _TAKES_ADAPTER_NAME and tail[1] not in ("weight", "bias"):
        known = _CANONICAL_BY_ALIAS.get(tail[0])
        return (known, "") if known else None
    if len(tail) == 2 and tail[0] == "oft_blocks" and is_index(tail[1]):
        return ".".join(tail), ""
    return None


def _split_hcp(key: str) -> tuple[str, str] | None:
    """HCP-Diffusion stores alpha already divided by the rank: it is a whole scale."""
    module, _, tail = key.partition(_HCP_SEPARATOR)
    tensor_name = _CANONICAL_BY_ALIAS.get(tail.removeprefix("layer."))
    if tensor_name is None or not module:
        return None
    return module, "scale" if tensor_name == "alpha" else tensor_name
