"""The smallest real models of two kinds, and what their weights are, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tests.support import tiny_models

FEWER = {"channel_mult": [1], "attention_resolutions": [1], "num_res_blocks": 1}
WIDTHS = {"usual": 24, "narrow": 16}  # of the text; files are made for the usual one
Weights = Mapping[str, Tensor]


class Pair(nn.Module):
    """A UNet and its text encoder under one roof, so that every tensor has one name."""

    def __init__(self, kind: str = "usual"):
        super().__init__()
        self.unet = tiny_models.ldm_unet(context=WIDTHS[kind], **FEWER)
        self.te = tiny_models.clip(width=WIDTHS[kind], layers=2)

    def draw(self, x: Tensor) -> Tensor:
        text = torch.linspace(-1, 1, 5 * self.te.config.hidden_size).view(1, 5, -1).expand(len(x), -1, -1)
        with torch.no_grad():
            return self.unet(x, torch.full((len(x),), 7), context=text.to(x.dtype))

    def read(self) -> Tensor:
        with torch.no_grad():
            return self.te(input_ids=torch.tensor([[97, 5, 6, 98]])).last_hidden_state


def noise(rows: int) -> Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(rows))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def another(weights: Weights, seed: int) -> dict[str, Tensor]:
    """Another checkpoint for the same model."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def write(model: nn.Module, weights: Weights) -> None:
    """Into the very tensors that it has."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(weights[name])


def differing(model: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """What it holds that is not this, to the bit; and what is missing on either side."""
    now = model.state_dict()
    wrong = {name: tensor for name, tensor in now.items() if not same(tensor, weights.get(name))}
    return wrong | {name: torch.empty(0) for name in weights.keys() - now.keys()}


def same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.dtype == b.dtype and torch.equal(a, b)


@contextmanager
def holding(model: nn.Module, weights: Weights) -> Iterator[None]:
    """With parameters of these values for as long as it takes."""
    places = []
    for name, tensor in weights.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        places.append((module, leaf, module._parameters[leaf]))
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    try:
        yield
    finally:
        for module, leaf, before in places:
            module._parameters[leaf] = before


def traces(model: nn.Module) -> int:
    """Everything that could run beside a module's own forward, or while it is loaded or saved."""
    found = 0
    for module in model.modules():
        found += sum(len(value) for name, value in vars(module).items() if name.endswith("_hooks"))
        found += len({"forward", "get_learned_conditioning", "encode_with_transformers"} & vars(module).keys())
    return found
