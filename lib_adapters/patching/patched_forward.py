"""Replacement `forward` of one module: a bypass, or the call with merged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.ops.torch_modes import float32_math, plain_tensors
from lib_adapters.patching.batch_rows import RowGroup, RowLayout, RowStrengths, row_strengths_of
from lib_adapters.patching.bypass import MEMORY_PASS, BypassDelta, add_bypass, bypass_deltas, positions, total_cost
from lib_adapters.patching.checksum import BaseWeights
from lib_adapters.patching.layers import WeightView
from lib_adapters.patching.parameters import BaseOf, current_tensor
from lib_adapters.patching.patch import ParamPatches, Patch
from lib_adapters.patching.weight_substitution import (
    Allocate,
    BufferPool,
    MergedTensor,
    call_with_weights,
    fits_dtype,
    merge_param,
)


class PatchedForward:
    """Bound to a module as its `forward`; knows the module only by being told which one calls."""

    def __init__(
        self,
        module: nn.Module,
        targets: Sequence[ParamPatches],
        before: Any,
        base_of: BaseOf | None,
        scratch: BufferPool,
    ) -> None:
        self.original_forward = before
        self._base_of, self._buffers = base_of, scratch
        self.is_disabled = False
        self.signature = patch_signature(targets)
        self._targets = [(_path_below(module, target), target) for target in targets]
        self._patches = [patch for target in targets for patch in target.patches]
        self._deltas = _besides(module, targets)
        self._cost = total_cost(self._deltas or ())
        self.base_weights = BaseWeights(() if self._deltas else (target.ref for target in targets))
        self._row_layout: tuple[object, RowLayout | None] | None = None
        self._merged_cache: dict[object, list[MergedTensor]] = {}  # W' of rows that differ, while their strengths stay
        self.rows_unresolved = (
            False  # a run whose rows could not be told apart: it went without what is for some of them
        )

    def matches(self, targets: Sequence[ParamPatches]) -> bool:
        """Does it do just this, turned by the very same dials?"""
        return self.signature == patch_signature(targets)

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.is_disabled:
            return self._forward(module, *args, **kwargs)
        single = len(args) == 1 and not kwargs
        rows = row_strengths_of(self._patches)
        if single and self._deltas is not None:
            return self._forward_shared(module, args[0]) if rows is None else self._forward_rows(module, args[0], rows)
        if rows is None:
            return self._forward_merged(module, self._resolve(None), *args, **kwargs)
        groups = rows.groups(len(args[0]), args[0].device) if single else None
        return self._forward_grouped(module, groups, *args, **kwargs)

    def _forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.original_forward is not None:
            return self.original_forward(*args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def _forward_shared(self, module: nn.Module, x: Tensor) -> Tensor:
        """With deltas that can run beside the layer. Where all strengths are 0 it is its own output, to the bit."""
        besides, strengths = self._deltas or (), _shared(self._patches)
        if not any(strengths):
            return self._forward(module, x)  # type: ignore[no-any-return]
        if self._cost.per_call < self._cost.per_position * positions(module, x) and self._can_hold(module, x):
            return self._forward_merged(module, self._resolve(None), x)  # type: ignore[no-any-return]
        y = self._base_output(module, x)
        add_bypass(besides, module, x.to(y.dtype), y, strengths)
        return y

    def _forward_rows(self, module: nn.Module, x: Tensor, rows: RowStrengths) -> Tensor:
        """The same where rows differ: those without a strength are left alone."""
        besides, spread = self._deltas or (), self._row_layout_of(rows, x)
        self.rows_unresolved = self.rows_unresolved or spread is None
        if spread is None or not spread.runs:
            return self._forward(module, x)  # type: ignore[no-any-return]
        each = positions(module, x) // len(x)
        joined = MEMORY_PASS * self._cost.outputs * each * len(x)
        by_group = self._cost.per_call * spread.distinct + joined < self._cost.per_position * each * spread.acting
        if by_group and self._can_hold(module, x):
            return self._forward_grouped(module, spread.groups, x, keep=False)  # type: ignore[no-any-return]
        y = self._base_output(module, x)
        x = x.to(y.dtype)
        for run in spread.runs:
            add_bypass(besides, module, x[run], y[run], spread.strengths[run])
        return y

    def _base_output(self, module: nn.Module, x: Tensor) -> Tensor:
        """The layer's own output, in memory that may be added to."""
        y: Tensor = self._forward(module, x)
        if torch.is_grad_enabled() or self.original_forward is not None or not y.is_contiguous():
            y = y.clone(memory_format=torch.contiguous_format)
        return y

    def _can_hold(self, module: nn.Module, x: Tensor) -> bool:
        """May W' be in its weight's place, and is the sum then what it is beside?"""
        ((_, target),) = self._targets
        if self.original_forward is not None or not fits_dtype(current_tensor(module, target.ref.name), x):
            return False
        return self._base_of is None or self._base_of(module, target.ref.name) is None

    def _row_layout_of(self, rows: RowStrengths, x: Tensor) -> RowLayout | None:
        """Kept while the strengths stay: making it waits for the GPU."""
        now = (len(x), x.device, tuple(patch.scheduled.state for patch in self._patches if patch.scheduled is not None))
        if self._row_layout is None or self._row_layout[0] != now:
            with plain_tensors():
                self._row_layout = now, rows.layout(self._patches, len(x), x.device)
        return self._row_layout[1]

    def _forward_grouped(
        self, module: nn.Module, groups: Sequence[RowGroup] | None, *args: Any, keep: bool = True, **kwargs: Any
    ) -> Any:
        """Rows of equal strengths run together with their own W'; those without any run on the layer as it is."""
        if groups is None:
            self.rows_unresolved = True
            return self._forward(module, *args, **kwargs)
        (x,) = args
        used: dict[object, list[MergedTensor]] = {}
        y: Tensor | None = None
        for row, where in groups:
            targets = self._resolve(row)
            made = self._cached_merged(module, targets, used) if keep else None
            part = self._forward_merged(module, targets, x[where], made=made)
            y = part.new_empty((len(x), *part.shape[1:])) if y is None else y
            y[where] = part
        self._merged_cache = used
        return y

    def _cached_merged(
        self, module: nn.Module, targets: Sequence[tuple[str, ParamPatches]], used: dict[object, list[MergedTensor]]
    ) -> list[MergedTensor]:
        key = tuple(target.signature for _, target in targets)
        self._merged_cache = (
            self._merged_cache if key in self._merged_cache else {}
        )  # other strengths: none of the old is needed again
        used[key] = (
            self._merged_cache[key]
            if key in self._merged_cache
            else self._merge_now(module, targets, lambda base: None)
        )
        return used[key]

    def _resolve(self, row: int | None) -> list[tuple[str, ParamPatches]]:
        return [(path, found) for path, target in self._targets if (found := target.resolve(row)) is not None]

    def _forward_merged(
        self,
        module: nn.Module,
        targets: Sequence[tuple[str, ParamPatches]],
        *args: Any,
        made: Sequence[MergedTensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The call with W' in the weight's place."""
        with self._buffers.borrow() as allocate:
            found = self._merge_now(module, targets, allocate) if made is None else made
            y, bias = call_with_weights(module, found, lambda: self._forward(module, *args, **kwargs))
        return y if bias is None else y + (bias if isinstance(module, nn.Linear) else bias[:, None, None]).to(y.dtype)

    def _merge_now(
        self, module: nn.Module, targets: Sequence[tuple[str, ParamPatches]], allocate: Allocate
    ) -> list[MergedTensor]:
        found = []
        for path, target in targets:
            owner = module.get_submodule(path)
            with float32_math():
                found.append((path, target.ref.name, merge_param(owner, target, self._base_of, allocate)))
        return found


def patch_signature(targets: Sequence[ParamPatches]) -> tuple[object, ...]:
    """Equal only where the very same dials are read: others are turned by nobody. Whoever keeps it keeps the dials."""
    scheduled_strengths = tuple(id(patch.scheduled) for target in targets for patch in target.patches)
    return tuple(sorted((t.ref.path, t.ref.name, t.signature) for t in targets)), scheduled_strengths


def _path_below(module: nn.Module, target: ParamPatches) -> str:
    """Where the parameter's owner is, seen from the module: a copy of the module has its own."""
    owner = target.ref.module()
    return next(str(path) for path, candidate in module.named_modules() if candidate is owner)


def _besides(module: nn.Module, targets: Sequence[ParamPatches]) -> list[BypassDelta] | None:
    """The patches beside the module, if all of them can be."""
    target = targets[0]
    plain = len(targets) == 1 and not target.patches[0].is_bias and target.ref.module() is module
    base = current_tensor(module, target.ref.name)
    if not plain or base is None or any(patch.view != WeightView() or _is_cut(patch) for patch in target.patches):
        return None
    with float32_math():
        return bypass_deltas(module, [patch.algorithm for patch in target.patches], base)


def _is_cut(patch: Patch) -> bool:
    """Its number of ranks changes while it runs."""
    return patch.scheduled is not None and patch.scheduled.request.dyn is not None


def _shared(patches: Sequence[Patch]) -> list[float]:
    return [patch.strength * (1.0 if patch.scheduled is None else patch.scheduled.value) for patch in patches]
