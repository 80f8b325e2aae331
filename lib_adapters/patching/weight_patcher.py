"""Applies merged weights: a patched parameter points to its merged weight; the original tensor is never written.

Restoring is giving the pointer back: exact, and microseconds. A merged weight is ours, so a change of strength is
computed into it; only a parameter that was not merged before needs new memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from lib_adapters.ops.torch_modes import plain_tensors
from lib_adapters.patching.checksum import OriginalChecksums, sample_values, version_of
from lib_adapters.patching.layers import ParamRef
from lib_adapters.patching.memory import MappedAllocator, free_async, is_low_on_vram, to_pinned
from lib_adapters.patching.merge import merged_bias, merged_weight
from lib_adapters.patching.overflow import overflowing
from lib_adapters.patching.parameters import BaseOf, assign, clear_autocast_cache, current_tensor, zero_bias
from lib_adapters.patching.patch import Key, ParamPatches
from lib_adapters.patching.plan import merge_tied
from lib_adapters.patching.snapshot import ParameterSnapshot, Swap
from lib_adapters.patching.transaction import Transaction


class WeightPatcher:
    """Which parameters point at a W' now, and where each goes back to."""

    def __init__(
        self, checksums: OriginalChecksums, offload: bool | None = None, base_of: BaseOf | None = None
    ) -> None:
        self._checksums = checksums
        self._base_of = base_of
        self._offload = offload  # None: decided by the memory that is free
        self._snapshots: dict[Key, ParameterSnapshot] = {}
        self._overflowing: dict[Key, frozenset[str]] = {}  # parameters whose merged weight overflows -> keys of files
        self._displaced: list[ParameterSnapshot] = []  # parameters that other code has replaced
        self._is_overwriting = False  # True while a change overwrites merged weights
        self.was_abandoned = False  # True if the last change failed and could not go back to the merged weights before
        self._is_complete = True  # False once a part of what was applied has been given back or lost

    def apply(self, targets: Mapping[Key, ParamPatches], transaction: Transaction) -> bool:
        """Merge exactly these targets; return whether other parameters are merged than before.

        A parameter that is merged already gets its new values in the memory it has. If that fails in the middle, the
        values before are gone, so rolling back restores the original weights, and `abandoned` is true.
        """
        self.refresh()
        targets = merge_tied(targets)
        self.was_abandoned = self._is_overwriting = False
        same = targets.keys() == self._snapshots.keys()
        changed = [t for key, t in targets.items() if not self.has_patches(key, t)]
        again, fresh = [t for t in changed if self._is_reusable(t)], [t for t in changed if not self._is_reusable(t)]
        short = self._offload if self._offload is not None else is_low_on_vram(t.ref for t in fresh)
        steps = self._plan_swaps([r for key, r in self._snapshots.items() if key not in targets], fresh, short)
        transaction.on_rollback(self._restore_if_overwritten)
        transaction.on_rollback(partial(self._exclude, self._overflowing))
        self._exclude({})
        # A list: every sum is done before the first pointer moves. Short of memory, one parameter at a time.
        self._commit(self._one_by_one(steps) if short else self._in_range(list(steps)), transaction)
        self._overwrite(again, transaction)
        self._is_complete = True
        return not same or self._snapshots.keys() != targets.keys()

    def _is_reusable(self, target: ParamPatches) -> bool:
        """True if the parameter points to a merged weight of ours that may be overwritten.

        A host that moves a model in inference mode makes it inference tensors, which nobody may write into outside.
        """
        record, parameter = self._snapshots.get(target.ref.key), target.ref.parameter()
        if record is None or record.original is None or parameter is None or parameter.is_meta:
            return False
        return record.is_in_place() and not parameter.data.is_inference()

    def _overwrite(self, targets: Sequence[ParamPatches], transaction: Transaction) -> None:
        """Compute merged weights into the memory of the present ones."""
        if not targets:
            return
        self._is_overwriting = True
        transaction.on_commit(self._end_overwriting)
        steps = self._in_range([self._remerge(target) for target in targets])
        if overflowing := [step for step in steps if step.signature is None]:
            self._commit(overflowing, transaction)
        self._snapshots = self._finish_swaps([step for step in steps if step.signature is not None])
        clear_autocast_cache()

    def _remerge(self, target: ParamPatches) -> Swap:
        ref, record = target.ref, self._snapshots[target.ref.key]
        module, into, home = ref.module(), ref.tensor(), record.original_on_device()
        assert module is not None
        assert into is not None
        return Swap(ref, self._merge(module, target, home, into), record.original, target.signature)

    def _merge(self, module: nn.Module, target: ParamPatches, original: Tensor | None, into: Tensor | None) -> Tensor:
        """Return the merged weight or bias, in `into` or as a new tensor."""
        merged = merged_bias if target.patches[0].is_bias else merged_weight
        return merged(self._base(module, target.ref.name, original), target.patches, into)

    def _end_overwriting(self) -> None:
        self._is_overwriting = False

    def _restore_if_overwritten(self) -> None:
        if self._is_overwriting:
            self._is_overwriting, self.was_abandoned = False, True
            self.restore()

    def base_of(self, ref: ParamRef) -> Tensor | None:
        """What deltas of this parameter are added to, whether it is patched now or not."""
        module, record = ref.module(), self._snapshots.get(ref.key)
        if module is None:
            return None
        return self._base(module, ref.name, record.original_on_device() if record else current_tensor(module, ref.name))

    def restore(self) -> None:
        """Every parameter gets its own tensor back."""
        self.refresh()
        self._restore_snapshots(list(self._snapshots.values()))

    def restore_module(self, module: nn.Module, *_: object) -> None:
        """Give one module its own weights back: something is about to write into it."""
        self._discard({key: record for key, record in self._snapshots.items() if key[0] == id(module)})

    def drop_collected(self, _: object = None) -> None:
        """A model was dropped: keep none of its weights; parts of it that live on get their own back."""
        self._discard({key: record for key, record in self._snapshots.items() if record.ref.root() is None})

    def _discard(self, records: Mapping[Key, ParameterSnapshot]) -> None:
        """Where the owner has put something else, that stays."""
        for key in [key for key, record in records.items() if not record.is_live()]:
            self._snapshots[key].retrieve()
            self._checksums.forget(self._snapshots.pop(key).ref)
        self._restore_snapshots([record for key, record in records.items() if key in self._snapshots])
        self._is_complete = self._is_complete and not records

    @plain_tensors()
    def _restore_snapshots(self, records: list[ParameterSnapshot]) -> None:
        with Transaction() as transaction:
            self._commit(list(self._plan_swaps(records, [], False)), transaction)

    def refresh(self) -> None:
        """Compare the records with the model: what was moved is still ours, what was replaced is not."""
        settled = {}
        for key, record in self._snapshots.items():
            if record.is_in_place():
                settled[key] = record
            elif record.holds_our_values():
                settled[key] = record.current()
            else:
                record.retrieve()
                self._displaced.append(record)
                self._checksums.forget(record.ref)
        self._is_complete = self._is_complete and len(settled) == len(self._snapshots)
        self._snapshots = settled

    def is_in_place(self) -> bool:
        """Is all that was applied still there, where we put it?"""
        return self._is_complete and all(record.is_in_place() for record in self._snapshots.values())

    def overflowing_of(self, file: str) -> int:
        """Return the number of parameters not merged, because the result of this file overflows (infinite or NaN)."""
        return sum(file in files for files in self._overflowing.values())

    def snapshots(self) -> list[ParameterSnapshot]:
        """Return the records of all patched parameters."""
        return list(self._snapshots.values())

    def written_layers(self) -> list[ParameterSnapshot]:
        """Return the records of merged tensors that other code has written into."""
        return [record for record in self.snapshots() if record.is_written()]

    def displaced_layers(self, *, keep: bool = False) -> list[ParameterSnapshot]:
        """Return the records of parameters that other code has replaced, and forget them unless `keep`."""
        found = self._displaced
        self._displaced = found if keep else []
        return found

    def reclaim(self, modules: Iterable[nn.Module], transaction: Transaction) -> None:
        """Restore the original weights of these modules, whose current ones other code computed from merged ones."""
        if not (wanted := {id(module) for module in modules}):
            return
        dropped = {record.ref.key: record for record in self._displaced if id(record.ref.module()) in wanted}
        self._snapshots = {**dropped, **self._snapshots}
        taken = [record for key, record in self._snapshots.items() if key[0] in wanted]
        self._commit([Swap(record.ref, record.original_on_device(), None, None) for record in taken], transaction)
        self._displaced = [record for record in self._displaced if record.ref.key not in dropped]
        self._is_complete = self._is_complete and not taken

    def originals(self) -> dict[Key, Tensor]:
        """By parameter; a bias that was only lent has none."""
        return {key: record.original for key, record in self._snapshots.items() if record.original is not None}

    def has_patches(self, key: Key, target: ParamPatches) -> bool:
        return key in self._snapshots and self._snapshots[key].signature == target.signature

    def _plan_swaps(
        self, gone: Iterable[ParameterSnapshot], changed: Iterable[ParamPatches], short: bool
    ) -> Iterator[Swap]:
        for record in gone:
            yield Swap(record.ref, record.original_on_device(), None, None)
        mappings = MappedAllocator()
        for target in changed:
            yield from self._merged_swap(target, short, mappings)

    def _merged_swap(self, target: ParamPatches, short: bool, mappings: MappedAllocator) -> Iterator[Swap]:
        ref, record = target.ref, self._snapshots.get(target.ref.key)
        if (module := ref.module()) is None:
            return
        original = record.original_on_device() if record else current_tensor(module, ref.name)
        if original is not None:
            self._checksums.record(ref, original)
        tensor = self._merge(module, target, original, None if original is None else mappings.empty_like(original))
        if original is None and not tensor.float().any():  # a layer without a bias needs none if the sum is zero
            if record is not None:  # an earlier patch added one
                yield Swap(ref, None, None, None)
            return
        kept = record.original if record else (to_pinned(original) if short and original is not None else original)
        yield Swap(ref, tensor, kept, target.signature)

    def _one_by_one(self, steps: Iterable[Swap]) -> Iterator[Swap]:
        for step in steps:
            yield from self._in_range([step])

    def _in_range(self, steps: list[Swap]) -> list[Swap]:
        """Replace the steps whose merged weight contains infinity or NaN: those parameters keep the original weight."""
        tensors = [step.tensor for step in steps if step.tensor is not None and step.signature is not None]
        bad = {id(t) for t, is_bad in zip(tensors, overflowing(tensors), strict=True) if is_bad}
        found = []
        for step in steps:
            original, record = step.original, self._snapshots.get(step.ref.key)
            if id(step.tensor) not in bad or (original is not None and not original.float().isfinite().all()):
                found.append(step)  # in range, or the original weight was not either
                continue
            self._overflowing[step.ref.key] = frozenset(key[0] for key in step.signature or ())
            if record is not None:
                found.append(Swap(step.ref, record.original_on_device(), None, None))
        return found

    def _exclude(self, beyond: dict[Key, frozenset[str]]) -> None:
        self._overflowing = beyond

    def _base(self, module: nn.Module, name: str, original: Tensor | None) -> Tensor:
        """What deltas are added to: the most exact form of the weight that there is."""
        if original is None:
            return zero_bias(module, name)
        exact = self._base_of(module, name) if self._base_of else None
        return original if exact is None else exact.to(original.device)

    def _commit(self, steps: Iterable[Swap], transaction: Transaction) -> None:
        """Move the pointers."""
        done, replaced, records = [], [], self._snapshots
        transaction.on_rollback(lambda: self._remember(records))
        for step in steps:
            before = self._prepare_swap(step)
            transaction.on_rollback(partial(self._assign, step.ref, before))
            self._assign(step.ref, step.tensor)
            done.append(step)
            if step.ref.key in records and before is not None:
                replaced.append(before)
        self._snapshots = self._finish_swaps(done)
        transaction.on_commit(lambda: free_async(replaced))

    def _assign(self, ref: ParamRef, tensor: Tensor | None) -> None:
        if (module := ref.module()) is not None:
            assign(module, ref.name, tensor)
            self._checksums.track(ref)

    def _remember(self, records: dict[Key, ParameterSnapshot]) -> None:
        self._snapshots = records

    def _prepare_swap(self, step: Swap) -> Tensor | None:
        """What rolling back gives the parameter; off the GPU where `step` took the pristine tensor off it."""
        first = step.ref.key not in self._snapshots
        return step.original if first else current_tensor(step.ref.module(), step.ref.name)

    def _finish_swaps(self, done: list[Swap]) -> dict[Key, ParameterSnapshot]:
        records = dict(self._snapshots)
        for step in done:
            records.pop(step.ref.key, None)
        patched = [(s, s.tensor, s.signature) for s in done if s.signature is not None and s.tensor is not None]
        for (step, _, signature), sample in zip(patched, sample_values([t for _, t, _ in patched]), strict=True):
            parameter, tensor = step.ref.parameter(), step.ref.tensor()
            if parameter is not None and tensor is not None:
                known = weakref.ref(parameter), tensor.data_ptr(), sample, version_of(parameter)
                records[step.ref.key] = ParameterSnapshot(step.ref, step.original, signature, *known)
        return records
