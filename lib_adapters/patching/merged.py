"""Merged weights: a patched parameter points to its merged weight; the original tensor is kept and never written.

Restoring is giving the pointer back: exact, and microseconds. A merged weight is ours, so a change of strength is
computed into it; only a parameter that was not merged before needs new memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from lib_adapters.ops.modes import ordinary
from lib_adapters.patching.change import Change
from lib_adapters.patching.checksum import Witness, samples, version_of
from lib_adapters.patching.memory import Mappings, is_short, let_go, to_host
from lib_adapters.patching.merge import merged_bias, merged_weight
from lib_adapters.patching.overflow import out_of_range
from lib_adapters.patching.patch import Key, Target
from lib_adapters.patching.plan import by_parameter
from lib_adapters.patching.pointer import BaseOf, forget_casts, held, point, zero_bias
from lib_adapters.patching.record import Record, Step
from lib_adapters.patching.targets import Slot


class Merged:
    """Which parameters point at a W' now, and where each goes back to."""

    def __init__(self, witness: Witness, offload: bool | None = None, base_of: BaseOf | None = None) -> None:
        self._witness = witness
        self._base_of = base_of
        self._offload = offload  # None: decided by the memory that is free
        self._records: dict[Key, Record] = {}
        self._beyond: dict[Key, frozenset[str]] = {}  # parameters whose merged weight overflows -> keys of files
        self._dropped: list[Record] = []  # parameters that other code has replaced
        self._overwritten = False  # True while a change overwrites merged weights
        self.abandoned = False  # True if the last change failed and could not go back to the merged weights before
        self._whole = True  # False once a part of what was applied has been given back or lost

    def apply(self, targets: Mapping[Key, Target], change: Change) -> bool:
        """Merge exactly these targets; return whether other parameters are merged than before.

        A parameter that is merged already gets its new values in the memory it has. If that fails in the middle, the
        values before are gone, so rolling back restores the original weights, and `abandoned` is true.
        """
        self.settle()
        targets = by_parameter(targets)
        self.abandoned = self._overwritten = False
        same = targets.keys() == self._records.keys()
        changed = [t for key, t in targets.items() if not self._has(key, t)]
        again, fresh = [t for t in changed if self._is_reusable(t)], [t for t in changed if not self._is_reusable(t)]
        short = self._offload if self._offload is not None else is_short(t.slot for t in fresh)
        steps = self._steps([r for key, r in self._records.items() if key not in targets], fresh, short)
        change.back(self._restore_if_overwritten)
        change.back(partial(self._leave_out, self._beyond))
        self._leave_out({})
        # A list: every sum is done before the first pointer moves. Short of memory, one parameter at a time.
        self._run(self._one_by_one(steps) if short else self._in_range(list(steps)), change)
        self._overwrite(again, change)
        self._whole = True
        return not same or self._records.keys() != targets.keys()

    def _is_reusable(self, target: Target) -> bool:
        """True if the parameter points to a merged weight of ours that may be overwritten.

        A host that moves a model in inference mode makes it inference tensors, which nobody may write into outside.
        """
        record, parameter = self._records.get(target.slot.key), target.slot.parameter()
        if record is None or record.pristine is None or parameter is None or parameter.is_meta:
            return False
        return record.in_place() and not parameter.data.is_inference()

    def _overwrite(self, targets: Sequence[Target], change: Change) -> None:
        """Compute merged weights into the memory of the present ones."""
        if not targets:
            return
        self._overwritten = True
        change.then(self._keep)
        steps = self._in_range([self._again(target) for target in targets])
        if overflowing := [step for step in steps if step.signature is None]:
            self._run(overflowing, change)
        self._records = self._after([step for step in steps if step.signature is not None])
        forget_casts()

    def _again(self, target: Target) -> Step:
        slot, record = target.slot, self._records[target.slot.key]
        module, into, home = slot.module(), slot.tensor(), record.home()
        assert module is not None
        assert into is not None
        return Step(slot, self._merge(module, target, home, into), record.pristine, target.signature)

    def _merge(self, module: nn.Module, target: Target, original: Tensor | None, into: Tensor | None) -> Tensor:
        """Return the merged weight or bias, in `into` or as a new tensor."""
        merged = merged_bias if target.patches[0].of_bias else merged_weight
        return merged(self._base(module, target.slot.name, original), target.patches, into)

    def _keep(self) -> None:
        self._overwritten = False

    def _restore_if_overwritten(self) -> None:
        if self._overwritten:
            self._overwritten, self.abandoned = False, True
            self.restore()

    def base_of(self, slot: Slot) -> Tensor | None:
        """What deltas of this parameter are added to, whether it is patched now or not."""
        module, record = slot.module(), self._records.get(slot.key)
        if module is None:
            return None
        return self._base(module, slot.name, record.home() if record else held(module, slot.name))

    def restore(self) -> None:
        """Every parameter gets its own tensor back."""
        self.settle()
        self._back_from(list(self._records.values()))

    def release(self, module: nn.Module, *_: object) -> None:
        """Give one module its own weights back: something is about to write into it."""
        self._lose({key: record for key, record in self._records.items() if key[0] == id(module)})

    def bury(self, _: object = None) -> None:
        """A model was dropped: keep none of its weights; parts of it that live on get their own back."""
        self._lose({key: record for key, record in self._records.items() if record.slot.root() is None})

    def _lose(self, records: Mapping[Key, Record]) -> None:
        """Where the owner has put something else, that stays."""
        for key in [key for key, record in records.items() if not record.stands()]:
            self._records[key].retrieve()
            self._witness.forget(self._records.pop(key).slot)
        self._back_from([record for key, record in records.items() if key in self._records])
        self._whole = self._whole and not records

    @ordinary()
    def _back_from(self, records: list[Record]) -> None:
        with Change() as change:
            self._run(list(self._steps(records, [], False)), change)

    def settle(self) -> None:
        """Compare the records with the model: what was moved is still ours, what was replaced is not."""
        settled = {}
        for key, record in self._records.items():
            if record.in_place():
                settled[key] = record
            elif record.is_ours():
                settled[key] = record.found()
            else:
                record.retrieve()
                self._dropped.append(record)
                self._witness.forget(record.slot)
        self._whole = self._whole and len(settled) == len(self._records)
        self._records = settled

    def in_place(self) -> bool:
        """Is all that was applied still there, where we put it?"""
        return self._whole and all(record.in_place() for record in self._records.values())

    def out_of_range(self, file: str) -> int:
        """Return the number of parameters not merged, because the result of this file overflows (infinite or NaN)."""
        return sum(file in files for files in self._beyond.values())

    def records(self) -> list[Record]:
        """Return the records of all patched parameters."""
        return list(self._records.values())

    def written(self) -> list[Record]:
        """Return the records of merged tensors that other code has written into."""
        return [record for record in self.records() if record.is_written()]

    def dropped(self, *, keep: bool = False) -> list[Record]:
        """Return the records of parameters that other code has replaced, and forget them unless `keep`."""
        found = self._dropped
        self._dropped = found if keep else []
        return found

    def reclaim(self, modules: Iterable[nn.Module], change: Change) -> None:
        """Restore the original weights of these modules, whose current ones other code computed from merged ones."""
        if not (wanted := {id(module) for module in modules}):
            return
        dropped = {record.slot.key: record for record in self._dropped if id(record.slot.module()) in wanted}
        self._records = {**dropped, **self._records}
        taken = [record for key, record in self._records.items() if key[0] in wanted]
        self._run([Step(record.slot, record.home(), None, None) for record in taken], change)
        self._dropped = [record for record in self._dropped if record.slot.key not in dropped]
        self._whole = self._whole and not taken

    def pristine(self) -> dict[Key, Tensor]:
        """By parameter; a bias that was only lent has none."""
        return {key: record.pristine for key, record in self._records.items() if record.pristine is not None}

    def _has(self, key: Key, target: Target) -> bool:
        return key in self._records and self._records[key].signature == target.signature

    def _steps(self, gone: Iterable[Record], changed: Iterable[Target], short: bool) -> Iterator[Step]:
        for record in gone:
            yield Step(record.slot, record.home(), None, None)
        mappings = Mappings()
        for target in changed:
            yield from self._patch(target, short, mappings)

    def _patch(self, target: Target, short: bool, mappings: Mappings) -> Iterator[Step]:
        slot, record = target.slot, self._records.get(target.slot.key)
        if (module := slot.module()) is None:
            return
        pristine = record.home() if record else held(module, slot.name)
        if pristine is not None:
            self._witness.see(slot, pristine)
        tensor = self._merge(module, target, pristine, None if pristine is None else mappings.like(pristine))
        if pristine is None and not tensor.float().any():  # a layer without a bias needs none if the sum is zero
            if record is not None:  # an earlier patch added one
                yield Step(slot, None, None, None)
            return
        kept = record.pristine if record else (to_host(pristine) if short and pristine is not None else pristine)
        yield Step(slot, tensor, kept, target.signature)

    def _one_by_one(self, steps: Iterable[Step]) -> Iterator[Step]:
        for step in steps:
            yield from self._in_range([step])

    def _in_range(self, steps: list[Step]) -> list[Step]:
        """Replace the steps whose merged weight contains infinity or NaN: those parameters keep the original weight."""
        tensors = [step.tensor for step in steps if step.tensor is not None and step.signature is not None]
        bad = {id(t) for t, is_bad in zip(tensors, out_of_range(tensors), strict=True) if is_bad}
        found = []
        for step in steps:
            original, record = step.pristine, self._records.get(step.slot.key)
            if id(step.tensor) not in bad or (original is not None and not original.float().isfinite().all()):
                found.append(step)  # in range, or the original weight was not either
                continue
            self._beyond[step.slot.key] = frozenset(key[0] for key in step.signature or ())
            if record is not None:
                found.append(Step(step.slot, record.home(), None, None))
        return found

    def _leave_out(self, beyond: dict[Key, frozenset[str]]) -> None:
        self._beyond = beyond

    def _base(self, module: nn.Module, name: str, pristine: Tensor | None) -> Tensor:
        """What deltas are added to: the most exact form of the weight that there is."""
        if pristine is None:
            return zero_bias(module, name)
        exact = self._base_of(module, name) if self._base_of else None
        return pristine if exact is None else exact.to(pristine.device)

    def _run(self, steps: Iterable[Step], change: Change) -> None:
        """Move the pointers."""
        done, replaced, records = [], [], self._records
        change.back(lambda: self._remember(records))
        for step in steps:
            before = self._before(step)
            change.back(partial(self._point, step.slot, before))
            self._point(step.slot, step.tensor)
            done.append(step)
            if step.slot.key in records and before is not None:
                replaced.append(before)
        self._records = self._after(done)
        change.then(lambda: let_go(replaced))

    def _point(self, slot: Slot, tensor: Tensor | None) -> None:
        if (module := slot.module()) is not None:
            point(module, slot.name, tensor)
            self._witness.follow(slot)

    def _remember(self, records: dict[Key, Record]) -> None:
        self._records = records

    def _before(self, step: Step) -> Tensor | None:
        """What rolling back gives the parameter; off the GPU where `step` took the pristine tensor off it."""
        first = step.slot.key not in self._records
        return step.pristine if first else held(step.slot.module(), step.slot.name)

    def _after(self, done: list[Step]) -> dict[Key, Record]:
        records = dict(self._records)
        for step in done:
            records.pop(step.slot.key, None)
        patched = [(s, s.tensor, s.signature) for s in done if s.signature is not None and s.tensor is not None]
        for (step, _, signature), sample in zip(patched, samples([t for _, t, _ in patched]), strict=True):
            parameter, tensor = step.slot.parameter(), step.slot.tensor()
            if parameter is not None and tensor is not None:
                known = weakref.ref(parameter), tensor.data_ptr(), sample, version_of(parameter)
                records[step.slot.key] = Record(step.slot, step.pristine, signature, *known)
        return records
