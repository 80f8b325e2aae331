"""What one module does while adapters are live on it: base(x) and ΔW's own output, or the call with W' in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.patching.beside import Beside, beside, is_plain
from lib_adapters.patching.merge import exact, merged_bias, merged_weight
from lib_adapters.patching.patch import Patch, PatchKey, Target
from lib_adapters.patching.pointer import BaseOf, held, point, zero_bias
from lib_adapters.patching.rows import rows_of
from lib_adapters.patching.targets import View

Kept = tuple[str, str, Tensor]  # where, below the module; which parameter; what it is for the run
Group = tuple[int, Tensor]


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
        self._patches = [patch for target in targets for patch in target.patches]
        self._besides = _besides(module, targets)
        self._kept: dict[object, list[Kept]] = {}  # W' of rows that differ, while their strengths stay
        self.lost = False  # a run whose rows could not be told apart: it went without what is for some of them

    def is_of(self, targets: Sequence[Target]) -> bool:
        """Does it do just this, turned by the very same dials?"""
        patches = [patch for target in targets for patch in target.patches]
        same = self.signature == signature_of(targets)
        return same and all(mine.dial is new.dial for mine, new in zip(self._patches, patches, strict=True))

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.retired:
            return self._forward(module, *args, **kwargs)
        single = len(args) == 1 and not kwargs
        if single and self._besides is not None:
            return self._beside(module, args[0], self._besides)
        rows = rows_of(self._patches)
        if rows is None:
            return self._with(module, self._now(None), *args, **kwargs)
        groups = rows.groups(len(args[0])) if single else None
        return self._by_group(module, groups, *args, **kwargs)

    def _forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def _beside(self, module: nn.Module, x: Tensor, besides: Sequence[Beside]) -> Tensor:
        """Where the strengths are 0 for all rows it is the layer's own output, to the bit."""
        y: Tensor = self._forward(module, x)
        rows = rows_of(self._patches)
        strengths = _shared(self._patches) if rows is None else rows.strengths(self._patches, len(x))
        self.lost = self.lost or strengths is None
        if strengths is None or (not isinstance(strengths, Tensor) and not any(strengths)):
            return y
        if torch.is_grad_enabled() or self.before is not None or not y.is_contiguous():
            y = y.clone(memory_format=torch.contiguous_format)
        x, start = x.to(y.dtype), 0
        for one in besides:
            stop = start + one.count
            part = strengths[:, start:stop].to(y.device) if isinstance(strengths, Tensor) else strengths[start:stop]
            one.add(module, x, y, part)
            start = stop
        return y

    def _by_group(self, module: nn.Module, groups: Sequence[Group] | None, *args: Any, **kwargs: Any) -> Any:
        """Rows of equal strengths run together with their own W'; those without any run on the layer as it is."""
        if groups is None:
            self.lost = True
            return self._forward(module, *args, **kwargs)
        (x,) = args
        used: dict[object, list[Kept]] = {}
        y: Tensor | None = None
        for row, places in groups:
            targets = self._now(row)
            key = tuple(target.signature for _, target in targets)
            used[key] = self._kept[key] if key in self._kept else self._computed(module, targets)
            self._kept = self._kept if key in self._kept else {}  # other strengths: none of the old is needed again
            part = self._with(module, targets, x[places.to(x.device)], made=used[key])
            y = part.new_empty((len(x), *part.shape[1:])) if y is None else y
            y[places.to(y.device)] = part
        self._kept = used
        return y

    def _now(self, row: int | None) -> list[tuple[str, Target]]:
        return [(path, found) for path, target in self._targets if (found := target.now(row)) is not None]

    def _with(
        self,
        module: nn.Module,
        targets: Sequence[tuple[str, Target]],
        *args: Any,
        made: Sequence[Kept] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The call with W' in the weight's place."""
        with _substituted(module, self._computed(module, targets) if made is None else made) as bias:
            y = self._forward(module, *args, **kwargs)
        return y if bias is None else y + (bias if isinstance(module, nn.Linear) else bias[:, None, None]).to(y.dtype)

    def _computed(self, module: nn.Module, targets: Sequence[tuple[str, Target]]) -> list[Kept]:
        found = []
        for path, target in targets:
            owner = module.get_submodule(path)
            with exact():
                found.append((path, target.slot.name, _patched(owner, target, self._base_of)))
        return found


@contextmanager
def _substituted(module: nn.Module, made: Sequence[Kept]) -> Iterator[Tensor | None]:
    """The call computes with W'; afterwards every parameter holds what it held.

    Yields the bias for a layer that has none: another writer takes a parameter that was not there for damage.
    """
    before: list[tuple[nn.Module, str, Tensor | None]] = []
    bias: Tensor | None = None
    try:
        for path, name, patched in made:
            owner = module.get_submodule(path)
            there = held(owner, name)
            if there is None and owner is module and is_plain(module):
                bias = patched
                continue
            before.append((owner, name, there))
            point(owner, name, patched)
        yield bias
    finally:
        for owner, name, there in reversed(before):
            point(owner, name, there)


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


def _besides(module: nn.Module, targets: Sequence[Target]) -> list[Beside] | None:
    """The patches beside the module, if all of them can be."""
    target = targets[0]
    plain = len(targets) == 1 and not target.patches[0].of_bias and target.slot.module() is module
    base = held(module, target.slot.name)
    if not plain or base is None or any(patch.view != View() or _is_cut(patch) for patch in target.patches):
        return None
    with exact():
        return beside(module, [patch.algorithm for patch in target.patches], base)


def _is_cut(patch: Patch) -> bool:
    """Its number of ranks changes while it runs."""
    return patch.dial is not None and patch.dial.request.dyn is not None


def _shared(patches: Sequence[Patch]) -> list[float]:
    return [patch.strength * (1.0 if patch.dial is None else patch.dial.value) for patch in patches]
