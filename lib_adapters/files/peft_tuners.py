"""Settings of smaller PEFT tuners that are only in the config: flags, and the alpha of those that scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lib_adapters.files.metadata import is_sane

SCALED = frozenset({"gralora_A", "deft_P"})  # their scale is alpha / r, and alpha is only in the config

_FLAGS = (  # (peft_type, name in the config, value that sets the override, override)
    ("HRA", "apply_GS", True, "hra_apply_gs"),
    ("DEFT", "decomposition_method", "qr", "deft_qr"),
    ("MISS", "init_weights", "mini", "miss_mini"),
)

_UNKNOWN = {  # tensor name -> settings that a missing config leaves unknown, and the defaults used instead
    "hra_u": "'apply_GS' (using false)",
    "deft_P": "'decomposition_method' and 'alpha' (using 'relu' and no alpha)",
    "gralora_A": "'alpha' (using a scale of 1)",
}


def flags(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the overrides (`Facts.overrides`) that a config sets; {} for every other tuner."""
    kind = config.get("peft_type")
    return {flag: 1.0 for owner, name, value, flag in _FLAGS if kind == owner and config.get(name) == value}


def constants(config: Mapping[str, Any]) -> dict[str, float]:
    """Return {"alpha": ...} for a layer with a tensor in SCALED; {} if the config has none (PEFT treats 0 as none)."""
    alpha = config.get("alpha")
    return {"alpha": float(alpha)} if alpha and is_sane(alpha) else {}


def notes(leaves: Iterable[str]) -> list[str]:
    """Return one sentence per tuner that needs a config, given the tensor names of a file without one."""
    present = set(leaves)
    return [
        f"its adapter_config.json is missing, which sets {what}; put it into the file's folder"
        for leaf, what in _UNKNOWN.items()
        if leaf in present
    ]
