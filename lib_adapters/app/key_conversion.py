"""Conversion of an adapter's tensors to the key format of another trainer.

kohya: `lora_unet_..._to_q.lora_up.weight` with alpha; every algorithm has names there.
diffusers and PEFT: `unet.....to_q.lora_B.weight`; they support plain LoRA only and keep alpha in a config. The scale is
multiplied into B, so that alpha = rank is correct with and without the config, which is written into the metadata.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.algorithms.dora import Dora
from lib_adapters.algorithms.full import Full
from lib_adapters.algorithms.lora import Lora
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, AdapterLayer
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.files.peft_config import LORA_ADAPTER_METADATA_KEY, PeftConfig, pack_configs
from lib_adapters.files.peft_tuners import CONFIG_CONSTANTS
from lib_adapters.files.quantization import QUANTIZED_DTYPES, dequantize, match_scale_keys
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.hosts.diffusers.kohya_names import kohya_name
from lib_adapters.hosts.diffusers.meta_models import MetaModel

FORMATS = ("kohya", "diffusers", "peft")
PLAIN = {"lora_up.weight", "lora_down.weight", "alpha", "scale", "scalar"}
SCALES = {"alpha", "scale", "scalar"}
DROPPED_METADATA = ("rs_lora", "split_qkv")  # what the metadata says about scales and the new alpha has in it already
Tensors = dict[str, Tensor]
LayerPlace = tuple[str, str]  # component of a pipeline, dotted path in it


@dataclass(frozen=True)
class Converted:
    """The content of a new file, and the adapter_config.json that PEFT needs with it ({} for none)."""

    tensors: Tensors
    metadata: dict[str, str]
    config: Mapping[str, Any]


def convert_keys(adapter: Adapter, dialect: str, skeleton: MetaModel) -> Converted:
    """Rename the tensors to `dialect`. Raise AdapterError if a module has no name there, rather than lose it."""
    named, loaded = _places(adapter, skeleton), adapter.load()
    for module in adapter.layers:
        if module.key not in loaded.algorithms:
            raise AdapterError(f"{adapter.path.name}: {dict(loaded.skipped)[module.name]} ({module.name}).")
    if dialect == "kohya":
        return _to_kohya(adapter, named, loaded.algorithms, skeleton)
    return _to_dotted(adapter, named, loaded.algorithms, dialect)


def without_duplicates(adapter: Adapter, skeleton: MetaModel) -> Adapter:
    """Return the adapter without modules that name a layer a second time; a model applies only the first."""
    paths, first = skeleton.layer_paths(), dict[LayerPlace, str]()
    twice = []
    for module in adapter.layers:
        other = first.setdefault(paths[module.key], module.name) if module.key in paths else module.name
        if other != module.name:
            twice.append((module.name, f"names the same layer as {other}; only that one is used"))
    names = {name for name, _ in twice}
    kept = tuple(module for module in adapter.layers if module.name not in names)
    return replace(adapter, layers=kept, skipped=(*adapter.skipped, *twice)) if twice else adapter


def keep_keys(adapter: Adapter, recast: bool = False) -> Converted:
    """Keep all tensor names, also unknown ones; copy a config from the file's folder into the metadata.

    `recast`: dequantise 8-bit tensors, because their dtype is about to change.
    """
    blob, lowest = read_tensor_bytes(adapter.tensor_file)
    tensors = {key: tensor_view(blob, lowest, entry).clone() for key, entry in adapter.tensor_file.entries.items()}
    tensors |= {key: torch.tensor(number) for key, number in adapter.tensor_file.scalars.items()}
    for key, scale in match_scale_keys(tensors).items() if recast else ():
        if adapter.tensor_file.entries[key].dtype in QUANTIZED_DTYPES:
            tensors[key] = dequantize(tensors[key], tensors.pop(scale), key)
    config = PeftConfig(adapter.path, adapter.metadata, adapter.tensor_file.entries)
    names = (module.name for module in adapter.layers)
    return Converted(tensors, {**adapter.metadata, **config.as_metadata(names)}, config.as_folder_config())


def _places(adapter: Adapter, skeleton: MetaModel) -> dict[LayerKey, LayerPlace]:
    paths = skeleton.layer_paths()
    for module in adapter.layers:
        if module.key not in paths:
            raise AdapterError(f"{adapter.path.name}: {module.name} is not a layer of {FAMILY_NAMES[adapter.family]}.")
    return {module.key: paths[module.key] for module in adapter.layers}


def _refuse_shared(adapter: Adapter) -> None:
    """Raise AdapterError if layers share a tensor, because a copy for each would turn megabytes into gigabytes."""
    owners: dict[str, str] = {}
    for module in adapter.layers:
        for tensor_name, key in module.tensor_keys.items():
            if owners.setdefault(key, module.name) != module.name:
                kind = f"{module.algorithm.label}, whose layers share {tensor_name}"
                raise AdapterError(f"{adapter.path.name} is {kind}; only PEFT's names support this. Leave out --to.")


def _to_kohya(
    adapter: Adapter,
    named: Mapping[LayerKey, LayerPlace],
    algorithms: Mapping[LayerKey, Algorithm],
    skeleton: MetaModel,
) -> Converted:
    _refuse_shared(adapter)
    tensors = keep_keys(adapter).tensors
    ours = all(isinstance(one, Full) or (isinstance(one, Lora) and not one.dylora) for one in algorithms.values())
    metadata = {key: value for key, value in adapter.metadata.items() if key != LORA_ADAPTER_METADATA_KEY}
    found = {
        f"{kohya_name(*named[module.key], skeleton.components)}.{tensor_name}": tensor
        for module in adapter.layers
        for tensor_name, tensor in _kohya(algorithms[module.key], _raw(tensors, module), ours)
    }
    return Converted(found, _settled(metadata) if ours else metadata, {})


def _raw(tensors: Tensors, module: AdapterLayer) -> Tensors:
    whole = {
        tensor_name: torch.tensor(int(value))
        for tensor_name, value in module.constants.items()
        if tensor_name in CONFIG_CONSTANTS
    }
    constants = {tensor_name: torch.tensor(value) for tensor_name, value in module.constants.items()} | whole
    found = {tensor_name: tensors[key] for tensor_name, key in module.tensor_keys.items()}
    scaled = {
        tensor_name: dequantize(found[tensor_name], tensors[key], tensor_name)
        for tensor_name, key in module.scale_keys.items()
    }
    return found | scaled | constants


def _kohya(algorithm: Algorithm, raw: Tensors, ours: bool) -> Iterator[tuple[str, Tensor]]:
    """The file's own tensors. A plain pair's alpha is written anew, because dialects disagree about it."""
    if isinstance(algorithm, Dora) and algorithm.rows_first:  # PEFT's [1, o, 1, 1] would be read as columns
        vector = raw["dora_scale"]
        raw = {**raw, "dora_scale": vector.reshape(-1, *(1 for _ in vector.shape[1:]))}
    if not ours or not isinstance(algorithm, Lora):
        yield from raw.items()
        return
    yield from (
        (tensor_name, tensor)
        for tensor_name, tensor in raw.items()
        if tensor_name not in SCALES and not _is_factor(tensor_name)
    )
    yield "lora_up.weight", algorithm.up.clone()
    yield "lora_down.weight", algorithm.down.clone()
    if algorithm.mid is not None:
        yield "lora_mid.weight", algorithm.mid.clone()
    yield "alpha", torch.tensor(algorithm.scale * algorithm.rank)


def _is_factor(tensor_name: str) -> bool:
    return tensor_name.startswith(("lora_up.", "lora_down.", "lora_mid.")) and tensor_name.endswith(".weight")


def _to_dotted(
    adapter: Adapter, named: Mapping[LayerKey, LayerPlace], algorithms: Mapping[LayerKey, Algorithm], dialect: str
) -> Converted:
    components = sorted({component for component, _ in named.values()})
    several, tensors = len(components) > 1, Tensors()
    ranks: dict[str, dict[str, int]] = {component: {} for component in components}
    for module in adapter.layers:
        component, path = named[module.key]
        down, up = _pair(module, algorithms[module.key])
        prefix = f"{_dotted_prefix(component, dialect, several)}{path}"
        tensors |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
        ranks[component][path] = len(down)
    alone = dialect == "peft" and not several
    configs = {"" if alone else component: _config(found) for component, found in ranks.items()}
    return Converted(tensors, _settled(adapter.metadata) | pack_configs(configs), configs[""] if alone else {})


def _config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return the config for diffusers and PEFT; alpha is the rank of each layer, because the scale is in B."""
    (rank, _), *_ = Counter(ranks.values()).most_common(1)
    # transformers 5 dropped the level `text_model`; both take a name by its end
    names = {path: path.removeprefix("text_model.") for path in ranks}
    others = {name if name != path else f"^{path}": ranks[path] for path, name in names.items() if ranks[path] != rank}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(names.values()),
    }


def _pair(module: AdapterLayer, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """Return A and B, with the scale multiplied into B."""
    if not isinstance(algorithm, Lora) or algorithm.dylora or module.tensor_keys.keys() - PLAIN:
        extra = ", ".join(sorted(module.tensor_keys.keys() - PLAIN)) or "trained as DyLoRA"
        kind = f"{algorithm.label} ({extra})"
        raise AdapterError(f"{module.name} is {kind}; this spelling has names for plain LoRA only.")
    return algorithm.down.clone(), (algorithm.up.float() * algorithm.scale).to(algorithm.up.dtype)


def _dotted_prefix(component: str, dialect: str, several: bool) -> str:
    """PEFT saves one component to a file and then does not name it."""
    if dialect == "diffusers":
        return f"{component}."
    return f"{component}.base_model.model." if several else "base_model.model."


def _settled(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata without settings that would scale the factors a second time."""
    kept = {key: value for key, value in metadata.items() if key != LORA_ADAPTER_METADATA_KEY}
    try:
        arguments = json.loads(kept.get("ss_network_args", ""))
    except ValueError:
        return kept
    if not isinstance(arguments, dict):
        return kept
    return kept | {"ss_network_args": json.dumps({k: v for k, v in arguments.items() if k not in DROPPED_METADATA})}
