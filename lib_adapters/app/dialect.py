"""An adapter's tensors under another trainer's names.

kohya: `lora_unet_..._to_q.lora_up.weight` with alpha; every algorithm has names there.
diffusers and PEFT: `unet.....to_q.lora_B.weight`; they know plain LoRA only and have no alpha, so the scale moves
into B.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.algorithms.lora import Lora
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, Module
from lib_adapters.files.families import FAMILY_NAMES
from lib_adapters.files.load import read_blob, view
from lib_adapters.hosts.pipeline.names import kohya_name
from lib_adapters.hosts.pipeline.skeleton import Skeleton

DIALECTS = ("kohya", "diffusers", "peft")
Tensors = dict[str, Tensor]


def respelled(adapter: Adapter, dialect: str) -> Tensors:
    skeleton = Skeleton.of(adapter.family)
    paths, loaded = skeleton.paths(), adapter.load()
    blob, lowest = read_blob(adapter.source)
    found: Tensors = {}
    for module in adapter.modules:
        if module.stem not in paths:
            raise AdapterError(f"{adapter.path.name}: {module.name} is no layer of {FAMILY_NAMES[adapter.family]}.")
        if module.stem not in loaded.algorithms:
            raise AdapterError(f"{adapter.path.name}: {dict(loaded.problems)[module.name]} ({module.name}).")
        component, path = paths[module.stem]
        algorithm = loaded.algorithms[module.stem]
        if dialect == "kohya":
            name = kohya_name(component, path, skeleton.roots)
            raw = {leaf: view(blob, lowest, adapter.source.entries[key]).clone() for leaf, key in module.leaves.items()}
            found |= {f"{name}.{leaf}": tensor for leaf, tensor in _kohya(algorithm, raw)}
        else:
            prefix = f"base_model.model.{component}" if dialect == "peft" else component
            found |= {f"{prefix}.{path}.{leaf}": tensor for leaf, tensor in _dotted(module, algorithm)}
    return found


def _kohya(algorithm: Algorithm, raw: Tensors) -> Iterator[tuple[str, Tensor]]:
    """The file's own tensors; only a plain pair's alpha is written anew, because dialects disagree about it."""
    yield from ((leaf, tensor) for leaf, tensor in raw.items() if leaf not in ("alpha", "scale"))
    if isinstance(algorithm, Lora) and not algorithm.dylora:
        yield "alpha", torch.tensor(algorithm.scale * algorithm.rank)
    else:
        yield from ((leaf, tensor) for leaf, tensor in raw.items() if leaf in ("alpha", "scale"))


def _dotted(module: Module, algorithm: Algorithm) -> Iterator[tuple[str, Tensor]]:
    plain = isinstance(algorithm, Lora) and algorithm.mid is None and algorithm.residual is None
    if not isinstance(algorithm, Lora) or not plain or algorithm.has_bias:
        raise AdapterError(
            f"{module.name} is {algorithm.label}, which this spelling has no names for; only plain LoRA has."
        )
    yield "lora_A.weight", algorithm.down.clone()
    yield "lora_B.weight", (algorithm.up.float() * algorithm.scale).to(algorithm.up.dtype)
