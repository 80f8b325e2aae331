"""The facts that PEFT's smaller tuners keep in their config alone: flags, and the alpha of those that scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lib_adapters.files.metadata import is_sane

SCALED = frozenset({"gralora_A", "deft_P"})  # their scale is alpha / r, and only the config has alpha

_FLAGS = (  # (peft_type, name in the config, value that sets the override, override)
    ("HRA", "apply_GS", True, "hra_apply_gs"),
    ("DEFT", "decomposition_method", "qr", "deft_qr"),
    ("MISS", "init_weights", "mini", "miss_mini"),
)

_UNKNOWN = {  # leaf -> what a missing config leaves open, and the value that is used then
    "hra_u": "'apply_GS' (false is used)",
    "deft_P": "'decomposition_method' and 'alpha' ('relu' and none are used)",
    "gralora_A": "'alpha' (a scale of 1 is used)",
}


def flags(config: Mapping[str, Any]) -> dict[str, float]:
    """The overrides (`Facts.overrides`) that a config sets; {} for every other tuner."""
    kind = config.get("peft_type")
    return {flag: 1.0 for owner, name, value, flag in _FLAGS if kind == owner and config.get(name) == value}


def constants(config: Mapping[str, Any]) -> dict[str, float]:
    """{"alpha": ...} for a module with a leaf of SCALED; {} where the config has none (PEFT reads 0 as none)."""
    alpha = config.get("alpha")
    return {"alpha": float(alpha)} if alpha and is_sane(alpha) else {}


def notes(leaves: Iterable[str]) -> list[str]:
    """One sentence per tuner whose config is missing, for the leaves of a file that has no config."""
    there = set(leaves)
    return [
        f"its adapter_config.json is missing, which tells {what}; put it beside the file"
        for leaf, what in _UNKNOWN.items()
        if leaf in there
    ]
