"""PEFT and diffusers configs: the rank and alpha of each layer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib_adapters.algorithms.base import Shape
from lib_adapters.algorithms.oft_input import MAX_TERMS
from lib_adapters.algorithms.replacement_weights import BIAS, WEIGHT
from lib_adapters.errors import UnsupportedFile
from lib_adapters.files import peft_tuners
from lib_adapters.files.adapter_layers import AdapterLayer
from lib_adapters.files.key_formats import key_prefix, layer_path
from lib_adapters.files.layer_dims import rank_of
from lib_adapters.files.peft_patterns import PatternTable
from lib_adapters.files.training_metadata import is_usable_number, parse_json_object, read_json_file

_FACTORS = frozenset({"lora_down.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a"})
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
_COMPONENTS = ("unet", "transformer", "text_encoder_2", "text_encoder_3", "text_encoder")


CONFIG_NAME = "adapter_config.json"
LORA_ADAPTER_METADATA_KEY = "lora_adapter_metadata"  # where diffusers 0.35 and later keep configs inside the file
_PEFT_PREFIX = "base_model.model."  # of every key that PEFT itself saves
# Options of LoraConfig that change the forward pass in a way that no change of the weights can express.
_UNMERGEABLE = {
    "alora_invocation_tokens": "an activated LoRA (aLoRA): it acts only on the tokens after a given phrase",
    "arrow_config": "an Arrow router: it mixes several LoRAs for each token",
    "use_qalora": "a QA-LoRA: it averages groups of a layer's inputs and needs quantized weights",
    "use_bdlora": "a block-diagonal LoRA (BD-LoRA), which is for language models on several GPUs",
    "layer_replication": "trained on a model whose layers were duplicated (layer_replication)",
}


class PeftConfig:
    """The configs of one file, by component; "" where the file has one config for everything."""

    def __init__(self, path: Path, metadata: Mapping[str, str], keys: Iterable[str] = ()) -> None:
        """`keys`: those of the file, which show whether the adapter_config.json in its folder belongs to it."""
        self._configs = _from_metadata(parse_json_object(metadata.get(LORA_ADAPTER_METADATA_KEY, "")))
        self.folder_config: Mapping[str, Any] = {}  # the adapter_config.json that is used, {} for none
        if not self._configs and _belongs(path, keys):
            found = read_json_file(path.with_name(CONFIG_NAME))
            self.folder_config = found if "peft_type" in found else {}
            self._configs = {"": found} if self.folder_config else {}
        self._patterns: dict[tuple[int, str], PatternTable] = {}

    def __bool__(self) -> bool:
        return bool(self._configs)

    def reject_unmergeable(self) -> None:
        """Raise UnsupportedFile if the config describes an adapter that is not a change of weights."""
        for option, sentence in _UNMERGEABLE.items():
            if any(config.get(option) for config in self._configs.values()):
                raise UnsupportedFile(f"is {sentence}; this cannot be expressed as a change of weights")

    def notes(self) -> list[str]:
        """Return notes for the user: that the config is used, and settings that may change the result."""
        starts = {str(config.get("init_lora_weights", "")).lower() for config in self._configs.values()}
        names = sorted(start for start in starts if start.startswith(_BASE_CHANGING_INITS))
        notes = [f"using alpha and rank from the {CONFIG_NAME} in its folder"] if self.folder_config else []
        return notes + [
            f"trained with '{name}', which changes the base model at the start; it may look off" for name in names
        ]

    @property
    def trains_biases(self) -> bool:
        """True where the config says that biases were trained, in any part of the model."""
        return any(config.get("bias", "none") != "none" for config in self._configs.values())

    def missing_bias_notes(self, layers: Iterable[AdapterLayer]) -> list[str]:
        """Return a note where the config says that biases were trained and the file has none of them."""
        said = (str(config.get("bias", "none")) for config in self._configs.values())
        name = next((bias for bias in said if bias != "none"), "")
        if not name or any(BIAS in module.tensor_keys and WEIGHT not in module.tensor_keys for module in layers):
            return []
        return [
            f"trained with bias='{name}', but it holds no trained bias, which PEFT 0.18, for one, may not save; "
            "where its layers have one, what was learned in it is lost"
        ]

    def overrides(self) -> dict[str, float]:
        """Variants of OFT that its tensors do not show; 0.18, which changed one, was the first to write its version."""
        found: dict[str, float] = {}
        for config in self._configs.values():
            if config.get("use_cayley_neumann") is False:
                found["use_cayley_neumann"] = 0.0
            if config.get("peft_type") == "OFT" and "peft_version" not in config:
                found["neumann_last_term"] = 2.0
            terms, bound = config.get("num_cayley_neumann_terms"), config.get("eps", 6e-5)
            if isinstance(terms, int) and terms > 0:
                found["neumann_terms"] = float(min(terms, MAX_TERMS))
            if config.get("coft") and is_usable_number(bound):
                found["rotation_bound"] = float(bound)
            found |= peft_tuners.override_flags(config)
        return found

    def constants(
        self, layer_name: str, tensor_keys: Mapping[str, str], shapes: Mapping[str, Shape]
    ) -> dict[str, float]:
        """Return {"alpha": ...} if the file itself has none; PEFT's full LoKr does divide, so it gets a scale.

        Raise UnsupportedPattern (files/patterns.py) if a pattern of the config is not supported.
        """
        if tensor_keys.keys() & peft_tuners.ALPHA_SCALED:
            return peft_tuners.alpha_constant(self._config_of(layer_name))
        if peft_tuners.is_config_tuner(tensor_keys):
            return peft_tuners.config_tuner_constants(self._config_of(layer_name), tensor_keys)
        if tensor_keys.keys() & {"alpha", "scale"} or not tensor_keys.keys() & _FACTORS:
            return {}
        config = self._config_of(layer_name)
        alpha, actual = self._value(config, "lora_alpha", "alpha", layer_name), rank_of(shapes)
        rank = None if actual else self._value(config, "r", "r", layer_name)
        if alpha is None or not (actual or (rank and rank > 0)):
            return {}
        if config.get("use_rslora"):
            alpha *= math.sqrt(actual or rank or 1.0)
        if actual is None and rank:
            return {"scale": alpha / rank}
        return {"alpha": alpha}

    def as_folder_config(self) -> Mapping[str, Any]:
        """Return the config that PEFT needs as adapter_config.json; {} if no single config covers the whole file."""
        config = self._configs.get("", {})
        return config if "peft_type" in config else {}

    def as_metadata(self, layer_names: Iterable[str]) -> dict[str, str]:
        """Return the adapter_config.json in use in diffusers' metadata format; {} if there is none.

        `modules`: the module names in the file, which show whether each component needs a config.
        """
        if not self.folder_config:
            return {}
        components = sorted({key_prefix(module).rstrip(".") for module in layer_names} & set(_COMPONENTS))
        return pack_configs({component: self.folder_config for component in components} or {"": self.folder_config})

    def _config_of(self, module: str) -> Mapping[str, Any]:
        prefix = key_prefix(module).rstrip(".")
        component = prefix if prefix in _COMPONENTS else ""
        return self._configs.get(component) or self._configs.get("") or {}

    def _value(self, config: Mapping[str, Any], name: str, other: str, module: str) -> float | None:
        """Return the value for this module; the pattern table overrides the common value, as in PEFT."""
        key = id(config), "alpha_pattern" if "alpha" in name else "rank_pattern"
        if key not in self._patterns:
            table = config.get(key[1])
            self._patterns[key] = PatternTable(table if isinstance(table, dict) else {})
        found = self._patterns[key].lookup(layer_path(module))
        value = found if found is not None else config.get(name, config.get(other))
        return float(value) if is_usable_number(value) and value is not None else None


def pack_configs(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return configs by component ("" for a file without components) as file metadata."""
    items = ((part, *item) for part, config in configs.items() for item in config.items())
    return {
        LORA_ADAPTER_METADATA_KEY: json.dumps({f"{part}.{key}" if part else key: value for part, key, value in items})
    }


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


def _belongs(path: Path, keys: Iterable[str]) -> bool:
    """True if the folder's adapter_config.json belongs to this file: by PEFT's file name, or PEFT's own key prefix."""
    return path.stem == "adapter_model" or any(key.startswith(_PEFT_PREFIX) for key in keys)
