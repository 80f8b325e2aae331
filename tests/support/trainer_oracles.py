"""The trainers themselves, as oracles: old LyCORIS releases side by side, each under a package name of its own.

A release lies in `<where>/lycoris-<version>`, put there by `pip install --no-deps --target`; `where` is the folder
`oracles` of the running environment, or what LYCORIS_ORACLES names. A missing one skips its tests, saying "oracle:".
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import warnings
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

RELEASES = {  # version: a day on which it was the newest
    "1.8.2": "2023-07-20",
    "1.9.0": "2023-09-20",
    "2.0.0": "2023-12-01",
    "2.2.0": "2024-03-14",
    "2.2.0.post3": "2024-04-02",
    "3.0.0.post1": "2024-06-20",
    "3.1.0": "2024-11-15",
    "3.2.0.post2": "2025-05-04",
    "3.4.0": "2025-11-20",
    "4.1.3": "2026-10-20",
}


def folder() -> Path:
    return Path(os.environ.get("LYCORIS_ORACLES") or Path(sys.prefix) / "oracles")


def lycoris(version: str, module: str) -> types.ModuleType:
    """`lycoris.modules.<module>` of that release."""
    name = "lycoris_" + version.replace(".", "_")
    place = folder() / f"lycoris-{version}" / "lycoris"
    if not place.is_dir():
        pytest.skip(f"oracle: lycoris-lora {version} is not in {folder()}")
    if name not in sys.modules:  # the package's own __init__ pulls in trainers and web frameworks
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(place)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{name}.modules.{module}")


def peft() -> types.ModuleType:
    return pytest.importorskip("peft", reason="oracle: peft is not installed")


def started(version: str) -> float:
    """What ss_training_started_at of a file by that release says."""
    return datetime.fromisoformat(RELEASES[version]).replace(tzinfo=timezone.utc).timestamp()


LAYERS = ("linear", "conv3x3", "conv1x1")


def layer(kind: str, bias: bool = True, o: int = 16, i: int = 24) -> nn.Module:
    if kind == "linear":
        return nn.Linear(i, o, bias=bias)
    return nn.Conv2d(i, o, int(kind[-1]), stride=int(kind[-1]) // 2 + 1, padding=int(kind[-1]) // 2, bias=bias)


def inputs(module: nn.Module) -> Tensor:
    if isinstance(module, nn.Linear):
        return torch.randn(2, 5, module.in_features)
    return torch.randn(2, module.in_channels, 6, 6)


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Trained-looking values in every parameter: nothing zero, magnitudes near what they were."""
    for name, parameter in module.named_parameters():
        if "dora_scale" in name:
            parameter.mul_(torch.rand_like(parameter) + 0.5)
        else:
            parameter.copy_(torch.randn_like(parameter) * 0.3)


@torch.no_grad()
def with_adapter(adapter, base: nn.Module, x: Tensor, strength: float) -> Tensor:
    """The layer's output with our ΔW and Δb added to its pristine parameters."""
    adapter.check_shape(tuple(base.weight.shape))
    weight = base.weight.detach().clone().float()
    adapter.add_delta_(weight, base.weight.detach().float(), strength)
    bias = None if base.bias is None else base.bias.detach().float()
    change = adapter.bias_delta(torch.zeros(len(weight)) if bias is None else bias)
    if change is not None:
        bias = change * strength if bias is None else bias + change * strength
    return apply(base, x, weight, bias)


def apply(base: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer does, with other parameters; its own forward may be the trainer's by now."""
    if isinstance(base, nn.Linear):
        return functional.linear(x, weight, bias)
    if isinstance(base, nn.Conv2d):
        return functional.conv2d(x, weight, bias, base.stride, base.padding, base.dilation, base.groups)
    if isinstance(base, nn.LayerNorm):
        return functional.layer_norm(x, base.normalized_shape, weight, bias, base.eps)
    return functional.group_norm(x, base.num_groups, weight, bias, base.eps)


def assert_same(ours: Tensor, trainers: Tensor) -> None:
    """To 1e-5 of the largest value."""
    torch.testing.assert_close(ours, trainers, rtol=1e-5, atol=1e-5 * float(trainers.detach().abs().max()))
