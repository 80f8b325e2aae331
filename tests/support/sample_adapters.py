"""Adapter files made for a live model, as a trainer would have saved them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_adapters import Adapter, open_adapter

Leaves = Mapping[str, Tensor]
Maker = Callable[[tuple[int, ...], torch.Generator], Leaves]


def lora(shape: tuple[int, ...], generator: torch.Generator, rank: int = 2) -> Leaves:
    down = torch.randn(rank, *shape[1:], generator=generator) * 0.2
    up = torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=generator) * 0.2
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(float(rank))}


def full(shape: tuple[int, ...], generator: torch.Generator) -> Leaves:
    return {
        "diff": torch.randn(shape, generator=generator) * 0.05,
        "diff_b": torch.randn(shape[:1], generator=generator) * 0.05,
    }


def ia3(shape: tuple[int, ...], generator: torch.Generator) -> Leaves:
    return {
        "weight": torch.randn(shape[0], *(1 for _ in shape[2:]), generator=generator) * 0.1,
        "on_input": torch.tensor(0),
    }


def oft(shape: tuple[int, ...], generator: torch.Generator) -> Leaves:
    blocks = torch.randn(shape[0] // 4, 4, 4, generator=generator) * 0.2
    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}


def lokr(shape: tuple[int, ...], generator: torch.Generator) -> Leaves:
    w1 = torch.randn(2, 2, generator=generator) * 0.3
    w2 = torch.randn(shape[0] // 2, shape[1] // 2, *shape[2:], generator=generator) * 0.1
    return {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1.0)}


MAKERS: dict[str, Maker] = {"LoRA": lora, "Full": full, "IA3": ia3, "OFT": oft, "LoKr": lokr}


def layers(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every linear layer and convolution: path -> shape of its weight."""
    return {
        path: tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


def adapter_file(
    path: Path, shapes: Mapping[str, tuple[int, ...]], maker: Maker = lora, *, prefix: str = "lora_unet_", seed: int = 7
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"{prefix}{name.replace('.', '_')}.{leaf}": tensor.contiguous()
        for name, shape in shapes.items()
        for leaf, tensor in maker(shape, generator).items()
    }
    save_file(tensors, path)
    return path


def adapter_for(
    model: nn.Module, path: Path, maker: Maker = lora, only: Iterable[str] = (), **options: object
) -> Adapter:
    wanted = tuple(only)
    shapes = {name: shape for name, shape in layers(model).items() if not wanted or any(w in name for w in wanted)}
    return open_adapter(adapter_file(path, shapes, maker, **options))  # type: ignore[arg-type]
