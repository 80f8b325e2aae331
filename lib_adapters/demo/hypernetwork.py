"""Training a hypernetwork as the web UI's own tab does: its modules, its initial weights, its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_adapters.demo.recipes import Recipe

STRUCTURE = (1, 2, 1)
SPREAD = 0.01  # of the initial weights


class Branch(nn.Module):
    """x + net(x), for inputs of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner, outer = (int(width * share) for share in STRUCTURE[1:])
        self.linear = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, outer))
        for name, parameter in self.linear.named_parameters():
            nn.init.normal_(parameter, std=SPREAD) if name.endswith("weight") else nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.linear(x))


class Pairs(nn.Module):
    """A branch for what becomes keys and one for what becomes values, for each width of attention inputs."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        layers = [(name, layer) for name, layer in unet.named_modules() if name.endswith((".to_k", ".to_v"))]
        widths = sorted({layer.in_features for _, layer in layers})
        self.pairs = {width: (Branch(width), Branch(width)) for width in widths}
        self.every = nn.ModuleList([branch for pair in self.pairs.values() for branch in pair])
        self._layers = [(layer, int(name.endswith(".to_v"))) for name, layer in layers]

    def attach(self) -> list[RemovableHandle]:
        return [layer.register_forward_pre_hook(self._steer(layer, which)) for layer, which in self._layers]

    def _steer(self, layer: nn.Linear, which: int) -> object:
        branch = self.pairs[layer.in_features][which]
        return lambda _, inputs: (branch(inputs[0]), *inputs[1:])


@contextmanager
def steering(pipeline: StableDiffusionPipeline) -> Iterator[Pairs]:
    """New branches in front of every attention of the UNet, gone again afterwards."""
    pairs = Pairs(pipeline.unet).to(pipeline.device)
    handles = pairs.attach()
    yield pairs
    for handle in handles:
        handle.remove()


def save_pairs(recipe: Recipe, pairs: Pairs, folder: Path) -> Path:
    """The fields of the web UI's training tab, in its order."""
    file = folder / f"{recipe.name}.pt"
    states = {
        width: tuple({key: value.detach().cpu().half() for key, value in one.state_dict().items()} for one in pair)
        for width, pair in pairs.pairs.items()
    }
    fields = {
        "step": recipe.steps, "name": recipe.name, "layer_structure": list(STRUCTURE), "activation_func": "relu",
        "is_layer_norm": False, "weight_initialization": "Normal", "sd_checkpoint": None, "sd_checkpoint_name": None,
        "activate_output": False, "use_dropout": False, "dropout_structure": None, "last_layer_dropout": False,
        "optional_info": recipe.effect,
    }  # fmt: skip
    torch.save(states | fields, file)
    return file
