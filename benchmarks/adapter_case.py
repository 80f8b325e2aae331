"""One algorithm on one model: the touched layers with random weights, and two adapter files for them."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.model_layers import unet
from benchmarks.synthetic_adapters import RECIPES, Recipe
from lib_adapters.algorithms.base import Shape

FILLER = 1 << 20  # random numbers that all weights are filled from: drawing a billion takes longer than measuring
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Setting:
    """What the user asked to be measured."""

    family: str
    rank: int
    device: torch.device
    dtype: torch.dtype
    every: int = 1  # of the touched layers, one in so many
    processor_time: bool = False  # instead of wall-clock time: for a machine that is busy with other things


@dataclass(frozen=True)
class Case:
    name: str
    recipe: Recipe
    setting: Setting
    shapes: Mapping[str, Shape]
    model: nn.Module
    files: tuple[Path, Path]

    @property
    def touched_bytes(self) -> int:
        return sum(weight.nbytes for weight in weights(self.model, self.shapes).values())

    def copy(self) -> nn.Module:
        """A copy for those who write into the weights they were given."""
        return copy.deepcopy(self.model)


def make_case(name: str, setting: Setting, folder: Path) -> Case:
    torch.manual_seed(0)
    recipe = RECIPES[name]
    shapes = touched(recipe, setting)
    paths = [folder / f"{name}-{letter}.safetensors" for letter in "ab"]
    a, b = (adapter_file(path, recipe, shapes, setting.rank) for path in paths)
    return Case(name, recipe, setting, shapes, make_model(shapes, setting), (a, b))


def touched(recipe: Recipe, setting: Setting) -> dict[str, Shape]:
    found = [(path, shape) for path, shape in unet(setting.family).items() if _wanted(recipe.where, path, shape)]
    return dict(found[:: setting.every])


def weights(model: nn.Module, paths: Mapping[str, Shape]) -> dict[str, nn.Parameter]:
    return {path: model.get_parameter(f"{path}.weight") for path in paths}


def stem(path: str) -> str:
    return "lora_unet_" + path.replace(".", "_")


def _wanted(where: str, path: str, shape: Shape) -> bool:
    if where == "norms" or len(shape) == 1:
        return where == "norms" and len(shape) == 1
    return where == "all" or ".attentions." in path or path.startswith(("transformer_blocks", "single_"))


def adapter_file(path: Path, recipe: Recipe, shapes: Mapping[str, Shape], rank: int) -> Path:
    tensors: dict[str, Tensor] = {}
    for layer, shape in shapes.items():
        for leaf, tensor in recipe.make(shape, rank).items():
            tensors[f"{stem(layer)}.{leaf}"] = tensor.half() if tensor.is_floating_point() else tensor
    save_file(tensors, path)
    return path


def make_model(shapes: Mapping[str, Shape], setting: Setting) -> nn.Module:
    """Return a module with these layers at their paths, filled from one block of random numbers."""
    root = nn.Module()
    for path, shape in shapes.items():
        parent = root
        *parts, last = path.split(".")
        for part in parts:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, _layer(path, shape).to(setting.dtype).to_empty(device=setting.device))
    generator = torch.Generator().manual_seed(0)
    numbers = (torch.randn(FILLER, generator=generator) * 0.03).to(setting.device, setting.dtype)
    for parameter in root.parameters():
        for piece in torch.split(parameter.data.view(-1), FILLER):
            piece.copy_(numbers[: len(piece)])
    return root.requires_grad_(False).eval()


def _layer(path: str, shape: Shape) -> nn.Module:
    """Without memory: it is filled once it is known where it goes."""
    if len(shape) == 1:
        return nn.LayerNorm(shape[0], device="meta")
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias=not path.endswith(("to_q", "to_k", "to_v")), device="meta")
    return nn.Conv2d(shape[1], shape[0], shape[2], padding=shape[2] // 2, device="meta")


def machine(setting: Setting) -> dict[str, str | int]:
    """Return what the results depend on."""
    gpu = setting.device.type == "cuda"
    return {
        "family": setting.family,
        "rank": setting.rank,
        "one_layer_in": setting.every,
        "clock": "processor" if setting.processor_time else "wall",
        "dtype": str(setting.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
