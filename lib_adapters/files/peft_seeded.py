"""PEFT tuners whose layers share tensors, or that need numbers found only in the config, such as random seeds.

Each number of the config becomes a tensor name of every layer (as `alpha` does for LoRA); a shared tensor becomes a
tensor name of every layer, all with the same key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lib_adapters.algorithms.base import Shape
from lib_adapters.ops.wavelets import MAX_ORDER

TENSORS = (
    "vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B", "fourierft_spectrum", "waveft_spectrum", "randlora_lambda",
    "randlora_gamma", "randlora_A", "randlora_B", "vblora_logits_A", "vblora_logits_B", "vblora_vector_bank",
    "vblora_logits_A_topk_indices", "vblora_logits_A_topk_weights", "vblora_logits_B_topk_indices",
    "vblora_logits_B_topk_weights", "lora_E", "road_theta", "road_alpha",
)  # fmt: skip
TOGETHER = (
    ("vera_lambda_b", "vera_lambda_d"), ("vera_A", "vera_B"), ("randlora_lambda", "randlora_gamma"),
    ("randlora_A", "randlora_B"), ("vblora_logits_A", "vblora_logits_B"),
    ("vblora_logits_A_topk_indices", "vblora_logits_A_topk_weights", "vblora_logits_B_topk_indices",
     "vblora_logits_B_topk_weights"),
    ("road_theta", "road_alpha"),
)  # fmt: skip
NUMBERS = (
    "random_loc_seed", "projection_prng_key", "randlora_sparse", "vblora_topk", "waveft_db", "waveft_sym",
    "waveft_direct", "road_group_size",
)  # fmt: skip

_SHARED = frozenset({"vera_A", "vera_B", "randlora_A", "randlora_B", "vblora_vector_bank"})
_SEED = "projection_prng_key"
_OWNER = "base_model"  # PEFT saves shared tensors under the model itself
_EXACT = float(1 << 53)  # float64 represents all integers up to here
Numbers = dict[str, float]


def share(modules: dict[str, dict[str, str]]) -> None:
    """Add the shared tensors of its tuner and component to each layer (module -> tensor name -> key), in place."""
    owners = {name: leaves for name, leaves in modules.items() if name.endswith(_OWNER) and leaves.keys() <= _SHARED}
    used = set()
    for name, leaves in modules.items() if owners else ():
        owner = next((o for o in (name.partition(_OWNER)[0] + _OWNER, _OWNER) if o in owners and o != name), "")
        kinds = {_tuner(leaf) for leaf in leaves}
        mine = {leaf: key for leaf, key in owners.get(owner, {}).items() if _tuner(leaf) in kinds}
        if mine:
            used.add(owner)
            leaves.update({leaf: key for leaf, key in mine.items() if leaf not in leaves})
    for owner in used:
        del modules[owner]


def _tuner(leaf: str) -> str:
    return leaf.partition("_")[0]


def is_tuner(leaves: Mapping[str, object]) -> bool:
    """True if the tensors are those of a tuner in TENSORS."""
    return not leaves.keys().isdisjoint(TENSORS)


def constants(config: Mapping[str, Any], leaves: Mapping[str, object]) -> Numbers:
    """Return the numbers that this layer needs from PEFT's config; {} if the config belongs to another tuner.

    A number missing in the config gets PEFT's default; an invalid one is left out.
    """
    mark, read = _READERS.get(str(config.get("peft_type", "")).upper(), ("", _nothing))
    if not mark or not any(leaf.startswith(mark) for leaf in leaves):
        return {}
    return {name: value for name, value in read(config).items() if value is not None and name not in leaves}


def notes(layers: Iterable[Mapping[str, Shape]]) -> list[str]:
    """Return notes for the user on the layers of a file (tensor name -> shape, including numbers of the config)."""
    if any(_SEED in shapes and shapes.keys().isdisjoint(_SHARED) for shapes in layers):
        return ["the file does not contain its random projections; they are generated from its seed, as PEFT does"]
    return []


def missing_config(shapes: Mapping[str, Shape]) -> str:
    """Return the reason why this layer cannot be computed without its config; "" if nothing is missing."""
    for mark, needed, name, what in _NEEDS:
        if any(leaf.startswith(mark) for leaf in shapes) and not any(shapes.keys() >= choice for choice in needed):
            return f"{name} needs {what} from PEFT's adapter_config.json; put that file into the same folder"
    return ""


_NEEDS: tuple[tuple[str, tuple[set[str], ...], str, str], ...] = (
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
    sane = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _EXACT
    return float(value) if sane else None


def _nothing(config: Mapping[str, Any]) -> dict[str, float | None]:
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


_READERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, float | None]]]] = {
    "VERA": ("vera_", lambda config: {"projection_prng_key": _number(config, "projection_prng_key", 0)}),
    "RANDLORA": ("randlora_", _randlora),
    "FOURIERFT": ("fourierft_", _spectral(150.0)),
    "WAVEFT": ("waveft_", _waveft),
    "VBLORA": ("vblora_", lambda config: {"vblora_topk": _number(config, "topk", 2)}),
    "ADALORA": ("lora_E", _adalora),
    "ROAD": ("road_", lambda config: {"road_group_size": _number(config, "group_size", 64)}),
}
