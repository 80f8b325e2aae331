"""PEFT and diffusers keep rank and alpha beside the tensors, in a config; here they become each module's own alpha."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_adapters.algorithms.base import Shape
from lib_adapters.files import peft_seeded
from lib_adapters.files.dialects import prefix_of
from lib_adapters.files.metadata import is_sane, json_object, read_json
from lib_adapters.files.widths import rank_of

_FACTORS = frozenset({"lora_down.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a"})
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_COMPONENTS = ("unet", "transformer", "text_encoder_2", "text_encoder_3", "text_encoder")


class PeftConfig:
    """The configs of one file, by component; "" where the file has one config for everything."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._configs = _from_metadata(json_object(metadata.get("lora_adapter_metadata", "")))
        if not self._configs:
            beside = read_json(path.with_name("adapter_config.json"))
            self._configs = {"": beside} if "peft_type" in beside else {}

    def __bool__(self) -> bool:
        return bool(self._configs)

    def notes(self) -> list[str]:
        """What training did that the file alone cannot tell: changed base weights, patterns, bounds."""
        starts = {str(config.get("init_lora_weights", "")).lower() for config in self._configs.values()}
        names = sorted(start for start in starts if start.startswith(_CHANGED_BASE))
        notes = [f"trained with '{name}', which changes the base model at the start; it may look off" for name in names]
        if strange := [p for config in self._configs.values() for p in _patterns(config, "alpha") if not _literal(p)]:
            notes.append(f"its config sets alpha by a pattern that is not followed: {strange[0]!r}")
        if any(config.get("coft") for config in self._configs.values()):
            notes.append("trained with 'coft', whose bound is not applied; it may be too strong")
        return notes

    def overrides(self) -> dict[str, float]:
        """Variants of OFT that its tensors do not show; 0.18, which changed one, was the first to write its version."""
        found: dict[str, float] = {}
        for config in self._configs.values():
            if config.get("use_cayley_neumann") is False:
                found["use_cayley_neumann"] = 0.0
            if config.get("peft_type") == "OFT" and "peft_version" not in config:
                found["neumann_last_term"] = 2.0
        return found

    def constants(self, module: str, leaves: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, float]:
        """{"alpha": ...} where the file itself has none; PEFT's full LoKr does divide, so it gets a scale."""
        if peft_seeded.is_tuner(leaves):
            return peft_seeded.constants(self._of(module), leaves)
        if leaves.keys() & {"alpha", "scale"} or not leaves.keys() & _FACTORS:
            return {}
        config = self._of(module)
        alpha, rank = _value(config, "lora_alpha", "alpha", module), _value(config, "r", "r", module)
        actual = rank_of(shapes)
        if alpha is None or not (actual or (rank and rank > 0)):
            return {}
        if config.get("use_rslora"):
            alpha *= math.sqrt(actual or rank or 1.0)
        if actual is None and rank:
            return {"scale": alpha / rank}
        return {"alpha": alpha}

    def _of(self, module: str) -> Mapping[str, Any]:
        prefix = prefix_of(module).rstrip(".")
        component = prefix if prefix in _COMPONENTS else ""
        return self._configs.get(component) or self._configs.get("") or {}


def _from_metadata(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """diffusers packs several configs into one table: "unet.r", "text_encoder.lora_alpha" ..."""
    configs: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        component, _, name = key.partition(".")
        if component in _COMPONENTS and name:
            configs.setdefault(component, {})[name] = value
        else:
            configs.setdefault("", {})[key] = value
    return configs


def _value(config: Mapping[str, Any], name: str, other: str, module: str) -> float | None:
    """The pattern table wins over the common value, as in PEFT: its keys are regular expressions for the name's end."""
    patterns = _patterns(config, "alpha" if "alpha" in name else "rank")
    found = next((v for pattern, v in patterns.items() if _ends(pattern, module)), None)
    value = found if found is not None else config.get(name, config.get(other))
    return float(value) if is_sane(value) and value is not None else None


def _ends(pattern: str, module: str) -> bool:
    """Plain suffixes only; a pattern from a file is never run as a regular expression (it could run for ever)."""
    literal = _literal(pattern)
    return bool(literal) and (module == literal or module.endswith(f".{literal}"))


def _patterns(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = config.get(f"{what}_pattern")
    return found if isinstance(found, dict) else {}


def _literal(pattern: str) -> str:
    """The name that a pattern spells; "" for one that is more than a name."""
    literal = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return literal if re.fullmatch(r"[\w.]+", literal) else ""
