"""What one module does while adapters are live on it: base(x) and ΔW's own output, or the call with W' in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.ops.modes import exact, ordinary
from lib_adapters.patching.bases import Bases
from lib_adapters.patching.beside import PASS, Beside, add_all, beside, places, total
from lib_adapters.patching.patch import Patch, Target
from lib_adapters.patching.pointer import BaseOf, held
from lib_adapters.patching.rows import Group, Rows, Spread, rows_of
from lib_adapters.patching.substitute import Kept, Lend, Scratch, called_with, can_hold, patched
from lib_adapters.patching.targets import View


class LiveLayer:
    """Bound to a module as its `forward`; knows the module only by being told which one calls."""

    def __init__(
        self, module: nn.Module, targets: Sequence[Target], before: Any, base_of: BaseOf | None, scratch: Scratch
    ) -> None:
        self.before = before
        self._base_of, self._scratch = base_of, scratch
        self.retired = False
        self.signature = signature_of(targets)
        self._targets = [(_path_below(module, target), target) for target in targets]
        self._patches = [patch for target in targets for patch in target.patches]
        self._besides = _besides(module, targets)
        self._work = total(self._besides or ())
        self.bases = Bases(() if self._besides else (target.slot for target in targets))
        self._spread: tuple[object, Spread | None] | None = None
        self._kept: dict[object, list[Kept]] = {}  # W' of rows that differ, while their strengths stay
        self.lost = False  # a run whose rows could not be told apart: it went without what is for some of them

    def is_of(self, targets: Sequence[Target]) -> bool:
        """Does it do just this, turned by the very same dials?"""
        return self.signature == signature_of(targets)

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.retired:
            return self._forward(module, *args, **kwargs)
        single = len(args) == 1 and not kwargs
        rows = rows_of(self._patches)
        if single and self._besides is not None:
            return self._all_alike(module, args[0]) if rows is None else self._row_by_row(module, args[0], rows)
        if rows is None:
            return self._with(module, self._now(None), *args, **kwargs)
        groups = rows.groups(len(args[0]), args[0].device) if single else None
        return self._by_group(module, groups, *args, **kwargs)

    def _forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def _all_alike(self, module: nn.Module, x: Tensor) -> Tensor:
        """With deltas that can run beside the layer. Where all strengths are 0 it is its own output, to the bit."""
        besides, strengths = self._besides or (), _shared(self._patches)
        if not any(strengths):
            return self._forward(module, x)  # type: ignore[no-any-return]
        if self._work.whole < self._work.place * places(module, x) and self._can_hold(module, x):
            return self._with(module, self._now(None), x)  # type: ignore[no-any-return]
        y = self._own(module, x)
        add_all(besides, module, x.to(y.dtype), y, strengths)
        return y

    def _row_by_row(self, module: nn.Module, x: Tensor, rows: Rows) -> Tensor:
        """The same where rows differ: those without a strength are left alone."""
        besides, spread = self._besides or (), self._spread_of(rows, x)
        self.lost = self.lost or spread is None
        if spread is None or not spread.runs:
            return self._forward(module, x)  # type: ignore[no-any-return]
        each = places(module, x) // len(x)
        joined = PASS * self._work.outputs * each * len(x)
        by_group = self._work.whole * spread.kinds + joined < self._work.place * each * spread.acting
        if by_group and self._can_hold(module, x):
            return self._by_group(module, spread.groups, x, keep=False)  # type: ignore[no-any-return]
        y = self._own(module, x)
        x = x.to(y.dtype)
        for run in spread.runs:
            add_all(besides, module, x[run], y[run], spread.strengths[run])
        return y

    def _own(self, module: nn.Module, x: Tensor) -> Tensor:
        """The layer's own output, in memory that may be added to."""
        y: Tensor = self._forward(module, x)
        if torch.is_grad_enabled() or self.before is not None or not y.is_contiguous():
            y = y.clone(memory_format=torch.contiguous_format)
        return y

    def _can_hold(self, module: nn.Module, x: Tensor) -> bool:
        """May W' be in its weight's place, and is the sum then what it is beside?"""
        ((_, target),) = self._targets
        if self.before is not None or not can_hold(held(module, target.slot.name), x):
            return False
        return self._base_of is None or self._base_of(module, target.slot.name) is None

    def _spread_of(self, rows: Rows, x: Tensor) -> Spread | None:
        """Kept while the strengths stay: making it waits for the GPU."""
        now = (len(x), x.device, tuple(patch.dial.setting for patch in self._patches if patch.dial is not None))
        if self._spread is None or self._spread[0] != now:
            with ordinary():
                self._spread = now, rows.spread(self._patches, len(x), x.device)
        return self._spread[1]

    def _by_group(
        self, module: nn.Module, groups: Sequence[Group] | None, *args: Any, keep: bool = True, **kwargs: Any
    ) -> Any:
        """Rows of equal strengths run together with their own W'; those without any run on the layer as it is."""
        if groups is None:
            self.lost = True
            return self._forward(module, *args, **kwargs)
        (x,) = args
        used: dict[object, list[Kept]] = {}
        y: Tensor | None = None
        for row, where in groups:
            targets = self._now(row)
            made = self._remembered(module, targets, used) if keep else None
            part = self._with(module, targets, x[where], made=made)
            y = part.new_empty((len(x), *part.shape[1:])) if y is None else y
            y[where] = part
        self._kept = used
        return y

    def _remembered(
        self, module: nn.Module, targets: Sequence[tuple[str, Target]], used: dict[object, list[Kept]]
    ) -> list[Kept]:
        key = tuple(target.signature for _, target in targets)
        self._kept = self._kept if key in self._kept else {}  # other strengths: none of the old is needed again
        used[key] = self._kept[key] if key in self._kept else self._computed(module, targets, lambda base: None)
        return used[key]

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
        with self._scratch.lent() as lend:
            found = self._computed(module, targets, lend) if made is None else made
            y, bias = called_with(module, found, lambda: self._forward(module, *args, **kwargs))
        return y if bias is None else y + (bias if isinstance(module, nn.Linear) else bias[:, None, None]).to(y.dtype)

    def _computed(self, module: nn.Module, targets: Sequence[tuple[str, Target]], lend: Lend) -> list[Kept]:
        found = []
        for path, target in targets:
            owner = module.get_submodule(path)
            with exact():
                found.append((path, target.slot.name, patched(owner, target, self._base_of, lend)))
        return found


def signature_of(targets: Sequence[Target]) -> tuple[object, ...]:
    """Equal only where the very same dials are read: others are turned by nobody. Whoever keeps it keeps the dials."""
    dials = tuple(id(patch.dial) for target in targets for patch in target.patches)
    return tuple(sorted((t.slot.path, t.slot.name, t.signature) for t in targets)), dials


def _path_below(module: nn.Module, target: Target) -> str:
    """Where the parameter's owner is, seen from the module: a copy of the module has its own."""
    owner = target.slot.module()
    return next(str(path) for path, candidate in module.named_modules() if candidate is owner)


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
