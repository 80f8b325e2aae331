"""The libraries that can merge such files themselves, where they are installed and can compute the algorithm."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.adapter_case import Case, stem
from benchmarks.implementations import Contender, Operation, Ours, Usual

PEFT_LORA = {"lora_down.weight": "lora_A", "lora_up.weight": "lora_B", "dora_scale": "lora_magnitude_vector",
             "oft_R.weight": "oft_R"}  # fmt: skip


def contenders(case: Case) -> list[type[Contender]]:
    """In a fixed order; every round starts with another one."""
    found: list[type[Contender]] = [Ours, Usual]
    if _has("peft") and case.name in Peft.kinds and not _needs_core(case):
        found.append(Peft)
        if _has("diffusers") and case.name in ("lora", "locon", "dora-rows"):
            found.append(Diffusers)
    return found


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _needs_core(case: Case) -> bool:
    """PEFT's LoHa of a convolution always has a core, so it can't hold a file without one."""
    return case.name == "loha" and any(len(shape) > 2 for shape in case.shapes.values())


class Peft(Contender):
    """PEFT's own layers, merging into their base layers; both adapters are loaded, one is active."""

    name = "peft merge"
    kinds = ("lora", "locon", "dora-rows", "loha", "lokr")

    def __init__(self, case: Case, model: nn.Module) -> None:
        super().__init__(case, model)
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        config = _peft_config(case)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in "ab":
                inject_adapter_in_model(config, model, name)
        layers = {path: model.get_submodule(path) for path in case.shapes}
        self._layers: list[Any] = [layer for layer in layers.values() if isinstance(layer, BaseTunerLayer)]
        for name, file in zip("ab", case.files, strict=True):
            _fill(layers, name, load_file(file))
        self._use("a", 1.0)

    def _use(self, name: str, strength: float) -> None:
        for layer in self._layers:
            layer.set_adapter(name)
            if hasattr(layer, "scaling"):  # a rotation has none
                layer.set_scale(name, strength)

    def merge(self) -> None:
        for layer in self._layers:
            layer.merge()

    def unmerge(self) -> None:
        for layer in self._layers:
            layer.unmerge()

    def operations(self) -> dict[str, Operation]:
        return {
            "apply": self.merge,
            "strength": lambda: self._change("a"),
            "switch": lambda: self._change("b"),
            "restore": self.unmerge,
        }

    def _change(self, name: str) -> None:
        self.unmerge()
        self._use(name, 0.5)
        self.merge()


class Diffusers(Peft):
    """The same layers through diffusers' own door."""

    name = "diffusers fuse_lora"

    def __init__(self, case: Case, model: nn.Module) -> None:
        from diffusers.loaders.peft import PeftAdapterMixin

        super().__init__(case, model)
        self._unet: Any = type("Unet", (PeftAdapterMixin, nn.Module), {})()
        self._unet.add_module("unet", model)

    def merge(self) -> None:
        self._unet.fuse_lora()

    def unmerge(self) -> None:
        self._unet.unfuse_lora()


def _peft_config(case: Case) -> Any:
    """Rank and alpha of each layer as the file has them."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig

    rank, targets = case.setting.rank, list(case.shapes)
    if case.name == "oft":
        return OFTConfig(r=0, oft_block_size=rank, target_modules=targets, init_weights=False, use_cayley_neumann=True)
    ranks, alphas = _patterns(case)
    shared = {"r": rank, "target_modules": targets, "rank_pattern": ranks, "alpha_pattern": alphas}
    if case.name == "loha":
        return LoHaConfig(alpha=rank, init_weights=False, **shared)
    if case.name == "lokr":
        return LoKrConfig(alpha=rank, init_weights=False, decompose_factor=8, **shared)
    return LoraConfig(lora_alpha=rank, init_lora_weights=False, use_dora=case.name == "dora-rows", **shared)


def _patterns(case: Case) -> tuple[dict[str, int], dict[str, float]]:
    tensors = load_file(case.files[0])
    ranks = {path: tensors.get(f"{stem(path)}.lora_down.weight") for path in case.shapes}
    found = {path: down.shape[0] for path, down in ranks.items() if down is not None}
    alphas = {path: float(alpha) for path in case.shapes if (alpha := tensors.get(f"{stem(path)}.alpha")) is not None}
    return found, alphas


def _fill(layers: Mapping[str, nn.Module], name: str, tensors: Mapping[str, Tensor]) -> None:
    """Our file's tensors, in PEFT's places."""
    for path, layer in layers.items():
        for leaf, place in _places(layer, name):
            for key in (f"{stem(path)}.{leaf}", f"base_model.model.{path}.{leaf}"):
                if (tensor := tensors.get(key)) is not None:
                    place.data = tensor.to(place).reshape(place.shape)


def _places(layer: Any, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    for leaf, attribute in PEFT_LORA.items():
        if name in (held := getattr(layer, attribute, {})):
            yield leaf, held[name].weight
    for attribute in layer.adapter_layer_names:
        if attribute.startswith(("hada", "lokr")) and name in (held := getattr(layer, attribute)):
            yield attribute, held[name]
