"""PEFT tuners whose layers share tensors, or that need numbers found only in the config, such as random seeds.

Each number of the config becomes a tensor name of every layer (as `alpha` does for LoRA); a shared tensor becomes a
tensor name of every layer, all with the same key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lib_adapters.algorithms.base import Shape
from lib_adapters.files.training_metadata import is_usable_number
from lib_adapters.ops.wavelets import MAX_ORDER

CONFIG_TUNER_TENSORS = (
    "vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B", "fourierft_spectrum", "waveft_spectrum", "randlora_lambda",
    "randlora_gamma", "randlora_A", "randlora_B", "vblora_logits_A", "vblora_logits_B", "vblora_vector_bank",
    "vblora_logits_A_topk_indices", "vblora_logits_A_topk_weights", "vblora_logits_B_topk_indices",
    "vblora_logits_B_topk_weights", "lora_E", "road_theta", "road_alpha",
)  # fmt: skip
CONFIG_TUNER_SETS = (
    ("vera_lambda_b", "vera_lambda_d"), ("vera_A", "vera_B"), ("randlora_lambda", "randlora_gamma"),
    ("randlora_A", "randlora_B"), ("vblora_logits_A", "vblora_logits_B"),
    ("vblora_logits_A_topk_indices", "vblora_logits_A_topk_weights", "vblora_logits_B_topk_indices",
     "vblora_logits_B_topk_weights"),
    ("road_theta", "road_alpha"),
)  # fmt: skip
CONFIG_CONSTANTS = (
    "random_loc_seed", "projection_prng_key", "randlora_sparse", "vblora_topk", "waveft_db", "waveft_sym",
    "waveft_direct", "road_group_size",
)  # fmt: skip

_SHARED = frozenset({"vera_A", "vera_B", "randlora_A", "randlora_B", "vblora_vector_bank"})
_SEED = "projection_prng_key"
_SHARED_TENSOR_OWNER = "base_model"  # PEFT saves shared tensors under the model itself
_MAX_EXACT_INTEGER = float(1 << 53)  # float64 represents all integers up to here
Constants = dict[str, float]


def add_shared_tensors(layers: dict[str, dict[str, str]]) -> None:
    """Add the shared tensors of its tuner and component to each layer (module -> tensor name -> key), in place."""
    owners = {
        name: leaves
        for name, leaves in layers.items()
        if name.endswith(_SHARED_TENSOR_OWNER) and leaves.keys() <= _SHARED
    }
    used = set()
    for name, leaves in layers.items() if owners else ():
        owner = next(
            (
                o
                for o in (name.partition(_SHARED_TENSOR_OWNER)[0] + _SHARED_TENSOR_OWNER, _SHARED_TENSOR_OWNER)
                if o in owners and o != name
            ),
            "",
        )
        kinds = {_tuner(tensor_name) for tensor_name in leaves}
        mine = {tensor_name: key for tensor_name, key in owners.get(owner, {}).items() if _tuner(tensor_name) in kinds}
        if mine:
            used.add(owner)
            leaves.update({tensor_name: key for tensor_name, key in mine.items() if tensor_name not in leaves})
    for owner in used:
        del layers[owner]


def _tuner(tensor_name: str) -> str:
    return tensor_name.partition("_")[0]


def is_config_tuner(tensor_names: Mapping[str, object]) -> bool:
    """True if the tensors are those of a tuner in TENSORS."""
    return not tensor_names.keys().isdisjoint(CONFIG_TUNER_TENSORS)


def config_tuner_constants(config: Mapping[str, Any], tensor_names: Mapping[str, object]) -> Constants:
    """Return the numbers that this layer needs from PEFT's config; {} if the config belongs to another tuner.

    A number missing in the config gets PEFT's default; an invalid one is left out.
    """
    mark, read = _CONSTANT_READERS.get(str(config.get("peft_type", "")).upper(), ("", _no_constants))
    if not mark or not any(tensor_name.startswith(mark) for tensor_name in tensor_names):
        return {}
    return {name: value for name, value in read(config).items() if value is not None and name not in tensor_names}


def generated_tensor_notes(layers: Iterable[Mapping[str, Shape]]) -> list[str]:
    """Return notes for the user on the layers of a file (tensor name -> shape, including numbers of the config)."""
    if any(_SEED in shapes and shapes.keys().isdisjoint(_SHARED) for shapes in layers):
        return ["the file does not contain its random projections; they are generated from its seed, as PEFT does"]
    return []


def missing_config(shapes: Mapping[str, Shape]) -> str:
    """Return the reason why this layer cannot be computed without its config; "" if nothing is missing."""
    for mark, needed, name, what in _REQUIRED_CONSTANTS:
        if any(tensor_name.startswith(mark) for tensor_name in shapes) and not any(
            shapes.keys() >= choice for choice in needed
        ):
            return f"{name} needs {what} from PEFT's adapter_config.json; put that file into the same folder"
    return ""


_REQUIRED_CONSTANTS: tuple[tuple[str, tuple[set[str], ...], str, str], ...] = (
    ("vera_lambda_", ({"vera_A"}, {"vera_B"}, {"projection_prng_key"}), "VeRA", "projection_prng_key"),
    ("randlora_lambda", ({"alpha", "randlora_A"}, {"alpha", "projection_prng_key", "randlora_sparse"}), "RandLora",
     "randlora_alpha and projection_prng_key"),
    ("fourierft_", ({"random_loc_seed", "scale"},), "FourierFT", "random_loc_seed and scaling"),
    ("waveft_spectrum", tuple({"random_loc_seed", "scale", f"waveft_{kind}"} for kind in ("db", "sym", "direct")),
     "WaveFT", f"random_loc_seed, scaling and wavelet_family (db1 to db{MAX_ORDER} or sym2 to sym{MAX_ORDER})"),
    ("vblora_logits_", ({"vblora_topk"}, {"vblora_logits_A_topk_indices"}), "VB-LoRA", "topk"),
    ("lora_E", ({"scale"},), "AdaLoRA", "lora_alpha and init_r"),
    ("road_", ({"road_group_size"},), "RoAd", "group_size"),
)  # fmt: skip


def _number(config: Mapping[str, Any], name: str, default: float) -> float | None:
    value = config.get(name, default)
    sane = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MAX_EXACT_INTEGER
    return float(value) if sane else None


def _no_constants(config: Mapping[str, Any]) -> dict[str, float | None]:
    return {}


def _adalora(config: Mapping[str, Any]) -> dict[str, float | None]:
    alpha, start = _number(config, "lora_alpha", 8), _number(config, "init_r", 12)
    return {"scale": alpha / (start + 1e-5) if alpha and start and alpha > 0 and start > 0 else None}


def _randlora(config: Mapping[str, Any]) -> dict[str, float | None]:
    sparse = 2.0 if config.get("very_sparse") else 1.0 if config.get("sparse") else 0.0
    seed = _number(config, "projection_prng_key", 0)
    return {"alpha": _number(config, "randlora_alpha", 640), "projection_prng_key": seed, "randlora_sparse": sparse}


def _spectral(scaling: float) -> Callable[[Mapping[str, Any]], dict[str, float | None]]:
    return lambda config: {
        "random_loc_seed": _number(config, "random_loc_seed", 777), "scale": _number(config, "scaling", scaling)
    }  # fmt: skip


def _waveft(config: Mapping[str, Any]) -> dict[str, float | None]:
    found = _spectral(25.0)(config)
    if config.get("use_idwt") is False:
        return {**found, "waveft_direct": 1.0}
    name = str(config.get("wavelet_family", "db1"))
    wavelet = re.fullmatch(r"(db|sym)([1-9]\d?)", name)
    if wavelet is None or int(wavelet[2]) > MAX_ORDER or name == "sym1":
        return found
    return {**found, f"waveft_{wavelet[1]}": float(wavelet[2])}


_CONSTANT_READERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, float | None]]]] = {
    "VERA": ("vera_", lambda config: {"projection_prng_key": _number(config, "projection_prng_key", 0)}),
    "RANDLORA": ("randlora_", _randlora),
    "FOURIERFT": ("fourierft_", _spectral(150.0)),
    "WAVEFT": ("waveft_", _waveft),
    "VBLORA": ("vblora_", lambda config: {"vblora_topk": _number(config, "topk", 2)}),
    "ADALORA": ("lora_E", _adalora),
    "ROAD": ("road_", lambda config: {"road_group_size": _number(config, "group_size", 64)}),
}


# Settings of smaller PEFT tuners that are only in the config: flags, and the alpha of those that scale.


ALPHA_SCALED = frozenset({"gralora_A", "deft_P"})  # their scale is alpha / r, and alpha is only in the config

_CONFIG_FLAGS = (  # (peft_type, name in the config, value that sets the override, override)
    ("HRA", "apply_GS", True, "hra_apply_gs"),
    ("DEFT", "decomposition_method", "qr", "deft_qr"),
    ("MISS", "init_weights", "mini", "miss_mini"),
)

_CONFIG_DEFAULTS = {  # tensor name -> settings that a missing config leaves unknown, and the defaults used instead
    "hra_u": "'apply_GS' (using false)",
    "deft_P": "'decomposition_method' and 'alpha' (using 'relu' and no alpha)",
    "gralora_A": "'alpha' (using a scale of 1)",
}


def override_flags(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the overrides (`Facts.overrides`) that a config sets; {} for every other tuner."""
    kind = config.get("peft_type")
    return {flag: 1.0 for owner, name, value, flag in _CONFIG_FLAGS if kind == owner and config.get(name) == value}


def alpha_constant(config: Mapping[str, Any]) -> dict[str, float]:
    """Return {"alpha": ...} for a layer with a tensor in SCALED; {} if the config has none (PEFT treats 0 as none)."""
    alpha = config.get("alpha")
    return {"alpha": float(alpha)} if alpha and is_usable_number(alpha) else {}


def missing_config_notes(tensor_names: Iterable[str]) -> list[str]:
    """Return one sentence per tuner that needs a config, given the tensor names of a file without one."""
    present = set(tensor_names)
    return [
        f"its adapter_config.json is missing, which sets {what}; put it into the file's folder"
        for tensor_name, what in _CONFIG_DEFAULTS.items()
        if tensor_name in present
    ]
