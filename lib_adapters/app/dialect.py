"""An adapter's tensors under another trainer's names.

kohya: `lora_unet_..._to_q.lora_up.weight` with alpha; every algorithm has names there.
diffusers and PEFT: `unet.....to_q.lora_B.weight`; they know plain LoRA only and have no alpha, so the scale moves into
B (for PEFT: lora_alpha = r).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.algorithms.full import Full
from lib_adapters.algorithms.lora import Lora
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, Module
from lib_adapters.files.families import FAMILY_NAMES
from lib_adapters.files.load import read_blob, view
from lib_adapters.files.names import Stem
from lib_adapters.files.peft_seeded import NUMBERS
from lib_adapters.hosts.pipeline.names import kohya_name
from lib_adapters.hosts.pipeline.skeleton import Skeleton

DIALECTS = ("kohya", "diffusers", "peft")
PLAIN = {"lora_up.weight", "lora_down.weight", "alpha", "scale", "scalar"}
SCALES = {"alpha", "scale", "scalar"}
SETTLED = ("rs_lora", "split_qkv")  # what the metadata says about scales and the new alpha has in it already
Tensors = dict[str, Tensor]


def respelled(adapter: Adapter, dialect: str) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata. A module that has no place in the new spelling is an error, not a loss."""
    skeleton = Skeleton.of(adapter.family)
    paths, loaded = skeleton.paths(), adapter.load()
    named = [(module, *_place(adapter, module, paths)) for module in adapter.modules]
    for module, _, _ in named:
        if module.stem not in loaded.algorithms:
            raise AdapterError(f"{adapter.path.name}: {dict(loaded.problems)[module.name]} ({module.name}).")
    algorithms = loaded.algorithms
    if dialect != "kohya":
        several = len({component for _, component, _ in named}) > 1
        return {
            f"{_dotted_prefix(component, dialect, several)}{path}.{leaf}": tensor
            for module, component, path in named
            for leaf, tensor in _dotted(module, algorithms[module.stem])
        }, _settled(adapter)
    _refuse_shared(adapter)
    tensors = as_they_are(adapter)
    ours = all(isinstance(one, Full) or (isinstance(one, Lora) and not one.dylora) for one in algorithms.values())
    return {
        f"{kohya_name(component, path, skeleton.roots)}.{leaf}": tensor
        for module, component, path in named
        for leaf, tensor in _kohya(algorithms[module.stem], _raw(tensors, module), ours)
    }, _settled(adapter) if ours else adapter.metadata


def _refuse_shared(adapter: Adapter) -> None:
    """AdapterError where layers share a tensor: each would get a copy, gigabytes for a file of a few megabytes."""
    owners: dict[str, str] = {}
    for module in adapter.modules:
        for leaf, key in module.leaves.items():
            if owners.setdefault(key, module.name) != module.name:
                kind = f"{module.algorithm.label}, whose layers share {leaf}"
                raise AdapterError(f"{adapter.path.name} is {kind}; only PEFT's own names can say so. Leave out --to.")


def as_they_are(adapter: Adapter) -> Tensors:
    """Every tensor of the file under its own name, also those that nobody understands."""
    blob, lowest = read_blob(adapter.source)
    tensors = {key: view(blob, lowest, entry).clone() for key, entry in adapter.source.entries.items()}
    return tensors | {key: torch.tensor(number) for key, number in adapter.source.numbers.items()}


def _place(adapter: Adapter, module: Module, paths: dict[Stem, tuple[str, str]]) -> tuple[str, str]:
    if module.stem not in paths:
        raise AdapterError(f"{adapter.path.name}: {module.name} is no layer of {FAMILY_NAMES[adapter.family]}.")
    return paths[module.stem]


def _raw(tensors: Tensors, module: Module) -> Tensors:
    whole = {leaf: torch.tensor(int(value)) for leaf, value in module.constants.items() if leaf in NUMBERS}
    constants = {leaf: torch.tensor(value) for leaf, value in module.constants.items()} | whole
    return {leaf: tensors[key] for leaf, key in module.leaves.items()} | constants


def _kohya(algorithm: Algorithm, raw: Tensors, ours: bool) -> Iterator[tuple[str, Tensor]]:
    """The file's own tensors. A plain pair's alpha is written anew, because dialects disagree about it."""
    if not ours or not isinstance(algorithm, Lora):
        yield from raw.items()
        return
    yield from ((leaf, tensor) for leaf, tensor in raw.items() if leaf not in SCALES and not _is_factor(leaf))
    yield "lora_up.weight", algorithm.up.clone()
    yield "lora_down.weight", algorithm.down.clone()
    if algorithm.mid is not None:
        yield "lora_mid.weight", algorithm.mid.clone()
    yield "alpha", torch.tensor(algorithm.scale * algorithm.rank)


def _is_factor(leaf: str) -> bool:
    return leaf.startswith(("lora_up.", "lora_down.", "lora_mid.")) and leaf.endswith(".weight")


def _dotted(module: Module, algorithm: Algorithm) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(algorithm, Lora) or algorithm.dylora or module.leaves.keys() - PLAIN:
        extra = ", ".join(sorted(module.leaves.keys() - PLAIN)) or "trained as DyLoRA"
        kind = f"{algorithm.label} ({extra})"
        raise AdapterError(f"{module.name} is {kind}; this spelling has names for plain LoRA only.")
    yield "lora_A.weight", algorithm.down.clone()
    yield "lora_B.weight", (algorithm.up.float() * algorithm.scale).to(algorithm.up.dtype)


def _dotted_prefix(component: str, dialect: str, several: bool) -> str:
    """PEFT saves one component to a file and then does not name it."""
    if dialect == "diffusers":
        return f"{component}."
    return f"{component}.base_model.model." if several else "base_model.model."


def _settled(adapter: Adapter) -> dict[str, str]:
    """The metadata without the words that would scale the factors a second time."""
    try:
        arguments = json.loads(adapter.metadata.get("ss_network_args", ""))
    except ValueError:
        return adapter.metadata
    if not isinstance(arguments, dict):
        return adapter.metadata
    kept = {key: value for key, value in arguments.items() if key not in SETTLED}
    return {**adapter.metadata, "ss_network_args": json.dumps(kept)}
