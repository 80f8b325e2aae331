"""Training metadata of a file as TrainingInfo. All of it is a hint; shapes decide first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib_adapters.algorithms.base import MAX_SCALE, TrainingInfo
from lib_adapters.algorithms.history import DYLORA_BLOCK_SIZE_FOUR_SINCE
from lib_adapters.filesystem import decode_text

_MAX_SIDECAR_BYTES = 4_000_000
_MAX_BLOCK_SIZE = 4096


def read_training_info(
    metadata: Mapping[str, str], keys: Iterable[str], overrides: Mapping[str, float]
) -> TrainingInfo:
    """What metadata, keys and the overrides of a user tell of the file as a whole."""
    arguments = parse_json_object(metadata.get("ss_network_args", ""))
    started = _number(metadata.get("ss_training_started_at"))
    marks = _marks(keys)
    module = metadata.get("ss_network_module", "")
    return TrainingInfo(
        producer=_producer(metadata, module, marks),
        algo="dylora" if module == "networks.dylora" else str(arguments.get("algo", "")).lower(),
        trained_at=started,
        block_size=_block_size(_number(arguments.get("block_size")), started),
        rs_lora=_true(arguments.get("rs_lora")),
        split_qkv=_true(arguments.get("split_qkv")),
        constraint_is_bound="oft_unet_" in marks or module == "networks.oft",
        bypass_mode=_true(arguments.get("bypass_mode")),
        overrides=overrides or None,
    )


def sidecar_overrides(path: Path) -> dict[str, float]:
    """`<base>.json`, the key "lycoris": what only the user can know, e.g. {"scale": 1.0}. Never written here."""
    table = read_json_file(path.with_suffix(".json")).get("lycoris")
    if not isinstance(table, dict):
        return {}
    return {str(k): float(v) for k, v in table.items() if is_usable_number(v)}


def is_usable_number(value: object) -> bool:
    """A number that computing with cannot overflow; JSON knows NaN and integers of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_SCALE


def _block_size(said: float, started: float) -> int:
    if 1 <= said <= _MAX_BLOCK_SIZE:
        return int(said)
    return 1 if 0 < started < DYLORA_BLOCK_SIZE_FOUR_SINCE else 4


def read_json_file(path: Path) -> dict[str, Any]:
    """{} for a file that is absent, huge, or not an object: a sidecar never stops an adapter."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_SIDECAR_BYTES:
            return {}
        return parse_json_object(decode_text(path.read_bytes()))
    except OSError:
        return {}


def parse_json_object(text: str) -> dict[str, Any]:
    """The object that a text holds; {} for anything else."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


_KEY_MARKERS = (
    "oft_unet_",
    "lycoris_",
    "base_model.model.",
    ".___.",
    ".lora_A.",
    ".magnitude",
    "lora_magnitude_vector",
    "oft_R",
    "ia3_l",
)


def _marks(keys: Iterable[str]) -> frozenset[str]:
    joined = "\n".join(keys)
    return frozenset(mark for mark in _KEY_MARKERS if mark in joined)


def _producer(metadata: Mapping[str, str], module: str, marks: frozenset[str]) -> str:
    """Who wrote the file: first what it says, then what its keys look like."""
    software = f"{metadata.get('software', '')} {metadata.get('modelspec.implementation', '')}".lower()
    signs = (
        ("onetrainer", "ot_branch" in metadata or "onetrainer" in software),
        ("ai-toolkit", "ai-toolkit" in software or "ostris" in software or ".magnitude" in marks),
        ("lycoris", module.startswith("lycoris") or "lycoris_" in marks),
        ("kohya", module.startswith("networks.") or "oft_unet_" in marks),
        ("hcp", ".___." in marks),
        ("diffusers", "lora_adapter_metadata" in metadata),
        ("peft", bool(marks & {"base_model.model.", "lora_magnitude_vector", "ia3_l", ".lora_A."})),
        ("onetrainer", "oft_R" in marks),
    )
    return next((name for name, sign in signs if sign), "")


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def _number(value: object) -> float:
    """0 where there is none: dates and sizes are hints."""
    try:
        number = float(str(value))
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
