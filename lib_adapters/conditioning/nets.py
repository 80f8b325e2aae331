"""The small networks inside a hypernetwork: x + m · net(x), float32, as the web UI's trainer ran them.

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
_NAME = re.compile(r"linear\.?(\d+)\.(weight|bias)")
_NOVEL_AI = {"linear1": "linear.0", "linear2": "linear.1"}  # the first files; no activation, layer norm or dropout
_SPECIAL: Mapping[str, type[nn.Module]] = {"swish": nn.Hardswish}
_NO_ACTIVATION = ("", "linear", "none")


@dataclass(frozen=True)
class Stage:
    """Linear, then perhaps an activation, then perhaps a layer norm: [..., i] -> [..., o]."""

    weight: Tensor  # [o, i]
    bias: Tensor  # [o]
    norm: tuple[Tensor, Tensor] | None  # weight and bias, [o] each
    activation: Activation | None

    def __call__(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x, self.weight, self.bias)
        x = x if self.activation is None else self.activation(x)
        return x if self.norm is None else nn.functional.layer_norm(x, self.norm[0].shape, *self.norm)

    def on(self, device: torch.device) -> Stage:
        """With its tensors on `device`."""
        norm = None if self.norm is None else (self.norm[0].to(device), self.norm[1].to(device))
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device), norm=norm)


@dataclass(frozen=True)
class Net:
    """A residual branch for inputs of one width: [..., width] -> [..., width]."""

    stages: tuple[Stage, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.stages[0].weight.device

    def on(self, device: torch.device) -> Net:
        """With its tensors on `device`."""
        return Net(tuple(stage.on(device) for stage in self.stages))


def activation_named(name: object) -> Activation | None:
    """By the names that the web UI's trainer offered, in any case: every class of torch.nn's activations.

    None for no activation; CorruptFile for a name that nobody knows.
    """
    text = "" if name is None else str(name).strip().lower()
    if text in _NO_ACTIVATION:
        return None
    known = {key.lower(): kind for key, kind in vars(activations).items() if _is_module(kind)} | dict(_SPECIAL)
    try:
        module: nn.Module = known[text]().eval()
    except (KeyError, TypeError):
        raise CorruptFile(f"uses the activation {str(name)[:40]!r}, which nobody knows") from None
    return module


def make_net(tensors: Mapping[str, Tensor], width: int, activation: object, last_too: bool) -> Net:
    """`tensors`: `linear.K.weight` and `.bias`; a matrix is a linear layer, a vector the layer norm behind it.

    `last_too`: the activation follows the last linear layer as well. ShapeMismatch where widths do not meet,
    CorruptFile for NaN, unknown names and incomplete layers.
    """
    numbered: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _NAME.fullmatch(_renamed(key))
        if match is None:
            raise CorruptFile(f"holds {key[:60]!r}, which is no part of a hypernetwork")
        numbered.setdefault(int(match[1]), {})[match[2]] = tensor.float()
    stages = _stages([numbered[number] for number in sorted(numbered)], activation_named(activation), last_too)
    _check(stages, width)
    return Net(tuple(stages))


def _renamed(key: str) -> str:
    first, dot, rest = key.partition(".")
    return _NOVEL_AI.get(first, first) + dot + rest


def _stages(layers: list[dict[str, Tensor]], activation: Activation | None, last_too: bool) -> list[Stage]:
    stages: list[Stage] = []
    for layer in layers:
        if layer.keys() != {"weight", "bias"}:
            raise CorruptFile("has a layer without its weight or its bias")
        weight, bias = layer["weight"], layer["bias"]
        if weight.ndim == 2:
            stages.append(Stage(weight, bias, None, activation))
        elif stages and stages[-1].norm is None:
            stages[-1] = replace(stages[-1], norm=(weight, bias))
        else:
            raise CorruptFile("has a layer norm that belongs to no layer")
    if stages and not last_too:
        stages[-1] = replace(stages[-1], activation=None)
    return stages


def _check(stages: list[Stage], width: int) -> None:
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
