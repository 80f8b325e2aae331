"""What one module does while adapters are live on it: base(x) + ΔW's own output, or the call with W' in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_adapters.algorithms.base import LowRank
from lib_adapters.patching.merge import exact, merged_bias, merged_weight
from lib_adapters.patching.plan import Patch, PatchKey, Target
from lib_adapters.patching.pointer import BaseOf, held, point, zero_bias
from lib_adapters.patching.targets import View


class LiveLayer:
    """Bound to a module as its `forward`; knows the module only by being told which one calls."""

    def __init__(
        self, module: nn.Module, targets: Sequence[Target], before: Any, base_of: BaseOf | None = None
    ) -> None:
        self.before = before
        self._base_of = base_of
        self.retired = False
        self.signature = signature_of(targets)
        self._targets = [(_path_below(module, target), target) for target in targets]
        self._thin = _thin(module, targets)
        self._factors: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.retired:
            return self._forward(module, *args, **kwargs)
        if self._thin and len(args) == 1 and not kwargs:
            return self._beside(module, args[0])
        with self._substituted(module) as bias:
            y = self._forward(module, *args, **kwargs)
        return y if bias is None else y + (bias if isinstance(module, nn.Linear) else bias[:, None, None]).to(y.dtype)

    def _forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def _beside(self, module: nn.Module, x: Tensor) -> Tensor:
        """All low-rank deltas as one pair of thin layers beside the module: y + up(down(x))."""
        y: Tensor = self._forward(module, x)
        kind = (x.dtype, x.device)
        if kind not in self._factors:
            up, down = _joined(module, self._thin)
            self._factors[kind] = (up.to(x), down.to(x))
        return y + _thin_output(module, x, *self._factors[kind]).to(y.dtype)

    @contextmanager
    def _substituted(self, module: nn.Module) -> Iterator[Tensor | None]:
        """The call computes with W'; afterwards every parameter holds what it held.

        Yields the bias for a layer that has none: another writer takes a parameter that was not there for damage.
        """
        kept: list[tuple[nn.Module, str, Tensor | None]] = []
        bias: Tensor | None = None
        try:
            for path, target in self._targets:
                owner, name = module.get_submodule(path), target.slot.name
                before = held(owner, name)
                with exact():
                    patched = _patched(owner, target, self._base_of)
                if before is None and owner is module and _is_plain(module):
                    bias = patched
                    continue
                kept.append((owner, name, before))
                point(owner, name, patched)
            yield bias
        finally:
            for owner, name, before in reversed(kept):
                point(owner, name, before)


def signature_of(targets: Sequence[Target]) -> tuple[tuple[str, str, tuple[PatchKey, ...]], ...]:
    return tuple(sorted((t.slot.path, t.slot.name, t.signature) for t in targets))


def _path_below(module: nn.Module, target: Target) -> str:
    """Where the parameter's owner is, seen from the module: a copy of the module has its own."""
    owner = target.slot.module()
    return next(str(path) for path, candidate in module.named_modules() if candidate is owner)


def _patched(owner: nn.Module, target: Target, base_of: BaseOf | None) -> Tensor:
    name = target.slot.name
    base = held(owner, name)
    if target.patches[0].of_bias:
        return merged_bias(zero_bias(owner, name) if base is None else base, target.patches)
    assert base is not None
    pristine = base_of(owner, name) if base_of else None
    if pristine is None:
        return merged_weight(base, target.patches)
    pristine = pristine.to(base.device).float()  # somebody else's delta is in `base`: ours is that of the weight itself
    return (merged_weight(pristine, target.patches) - pristine + base.float()).to(base.dtype)


def _thin(module: nn.Module, targets: Sequence[Target]) -> list[tuple[Patch, LowRank]]:
    """The patches as thin layers, if all of them can be; else none."""
    target = targets[0]
    if len(targets) > 1 or target.patches[0].of_bias or target.slot.module() is not module or not _is_plain(module):
        return []
    base = held(module, target.slot.name)
    assert base is not None
    pairs = []
    for patch in target.patches:
        low = None if patch.algorithm.reads_base or patch.view != View() else patch.algorithm.low_rank(base)
        if low is None:
            return []
        pairs.append((patch, low))
    return pairs


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def _joined(module: nn.Module, pairs: Sequence[tuple[Patch, LowRank]]) -> tuple[Tensor, Tensor]:
    """Ranks concatenated, strength and scale in `up`; `down` as the kernel of the module's own kind of layer."""
    with exact():
        up = torch.cat([low.up.float() * (low.scale * patch.strength) for patch, low in pairs], dim=1)
        down = torch.cat([low.down.float() for _, low in pairs])
    if isinstance(module, nn.Conv2d):
        return up[:, :, None, None], down.view(len(down), module.in_channels, *module.kernel_size)
    return up, down


def _thin_output(module: nn.Module, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        inner = functional.conv2d(x, down, None, module.stride, module.padding, module.dilation)
        return functional.conv2d(inner, up)
    return functional.linear(functional.linear(x, down), up)
