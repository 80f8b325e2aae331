"""The small networks of a hypernetwork, x + m · net(x) in float32, as the web UI trains them.

Only tensors and the order of their numbers in the file count: numbers that activations and dropout took up are gaps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from lib_adapters.errors import CorruptFile, ShapeMismatch

Activation = Callable[[Tensor], Tensor]
_TENSOR_NAME = re.compile(r"linear\.?(\d+)\.(weight|bias)")
_NOVELAI_NAMES = {"linear1": "linear.0", "linear2": "linear.1"}  # the first files; no activation, layer norm or dropout
_ACTIVATION_ALIASES: Mapping[str, type[nn.Module]] = {"swish": nn.Hardswish}
_NO_ACTIVATION = ("", "linear", "none")


@dataclass(frozen=True)
class NetLayer:
    """Linear, then perhaps an activation, then perhaps a layer norm: [..., i] -> [..., o]."""

    weight: Tensor  # [o, i]
    bias: Tensor  # [o]
    norm: tuple[Tensor, Tensor] | None  # weight and bias, [o] each
    activation: Activation | None

    def __call__(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x, self.weight, self.bias)
        x = x if self.activation is None else self.activation(x)
        return x if self.norm is None else nn.functional.layer_norm(x, self.norm[0].shape, *self.norm)

    def to(self, device: torch.device) -> NetLayer:
        """With its tensors on `device`."""
        norm = None if self.norm is None else (self.norm[0].to(device), self.norm[1].to(device))
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device), norm=norm)


@dataclass(frozen=True)
class HypernetworkNet:
    """A residual branch for inputs of one width: [..., width] -> [..., width]."""

    layers: tuple[NetLayer, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for stage in self.layers:
            x = stage(x)
        return x

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.layers[0].weight.device

    def to(self, device: torch.device) -> HypernetworkNet:
        """With its tensors on `device`."""
        return HypernetworkNet(tuple(stage.to(device) for stage in self.layers))


def get_activation(name: object) -> Activation | None:
    """By the names that the web UI's trainer offered, in any case: every class of torch.nn's activations.

    None for no activation; CorruptFile for a name that nobody knows.
    """
    text = "" if name is None else str(name).strip().lower()
    if text in _NO_ACTIVATION:
        return None
    known = {key.lower(): kind for key, kind in vars(activations).items() if _is_module(kind)} | dict(
        _ACTIVATION_ALIASES
    )
    try:
        module: nn.Module = known[text]().eval()
    except (KeyError, TypeError):
        raise CorruptFile(f"uses the activation {str(name)[:40]!r}, which nobody knows") from None
    return module


def build_net(tensors: Mapping[str, Tensor], width: int, activation: object, activate_output: bool) -> HypernetworkNet:
    """`tensors`: `linear.K.weight` and `.bias`; a matrix is a linear layer, a vector the layer norm behind it.

    `last_too`: the activation follows the last linear layer as well. ShapeMismatch where widths do not meet,
    CorruptFile for NaN, unknown names and incomplete layers.
    """
    numbered: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(_renamed(key))
        if match is None:
            raise CorruptFile(f"holds {key[:60]!r}, which is no part of a hypernetwork")
        numbered.setdefault(int(match[1]), {})[match[2]] = tensor.float()
    stages = _build_layers(
        [numbered[number] for number in sorted(numbered)], get_activation(activation), activate_output
    )
    _check(stages, width)
    return HypernetworkNet(tuple(stages))


def _renamed(key: str) -> str:
    first, dot, rest = key.partition(".")
    return _NOVELAI_NAMES.get(first, first) + dot + rest


def _build_layers(
    layers: list[dict[str, Tensor]], activation: Activation | None, activate_output: bool
) -> list[NetLayer]:
    stages: list[NetLayer] = []
    for layer in layers:
        if layer.keys() != {"weight", "bias"}:
            raise CorruptFile("has a layer without its weight or its bias")
        weight, bias = layer["weight"], layer["bias"]
        if weight.ndim == 2:
            stages.append(NetLayer(weight, bias, None, activation))
        elif stages and stages[-1].norm is None:
            stages[-1] = replace(stages[-1], norm=(weight, bias))
        else:
            raise CorruptFile("has a layer norm that belongs to no layer")
    if stages and not activate_output:
        stages[-1] = replace(stages[-1], activation=None)
    return stages


def _check(stages: list[NetLayer], width: int) -> None:
    """Each layer takes what the one before gives, from `width` to `width`."""
    now = width
    for stage in stages:
        outputs = stage.weight.shape[0]
        vectors = [stage.bias, *(stage.norm or ())]
        if stage.weight.shape[1] != now or any(vector.shape != (outputs,) for vector in vectors):
            raise ShapeMismatch(
                f"a layer of {list(stage.weight.shape)} does not fit behind one of width {now} (for inputs of {width})"
            )
        now = outputs
    if not stages or now != width:
        raise ShapeMismatch(f"the net for inputs of width {width} gives back width {now if stages else 0}")
    if not all(torch.isfinite(tensor).all() for stage in stages for tensor in (stage.weight, stage.bias)):
        raise CorruptFile(f"holds NaN or infinity in its net for width {width}: its training diverged")


def _is_module(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module)
