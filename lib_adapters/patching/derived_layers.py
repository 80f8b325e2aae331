"""Detection of layers that other code built from merged weights, and their restoration.

`fuse_qkv_projections()` copies merged weights into new layers when adapters are active; so do wrappers that duplicate
a layer. A new layer that contains merged weights bit for bit, whole or as rows, gets the original weights instead. A
fused layer that matches neither the merged nor the original weights is reported, because it cannot be restored.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib_adapters.patching.fused import FUSED
from lib_adapters.patching.named_modules import named_modules
from lib_adapters.patching.parameters import assign, current_tensor
from lib_adapters.patching.snapshot import ParameterSnapshot
from lib_adapters.patching.transaction import Transaction
from lib_adapters.patching.unrestored_layers import COPIED, UnrestoredLayers

PREFIX_VALUES = 8  # first values of a row, compared before whole rows are

Weak = weakref.ref[nn.Module]


class _NewParameter(NamedTuple):
    path: str
    module: nn.Module
    name: str
    tensor: Tensor


class DerivedLayers:
    """Remembers the modules of a model, so that new ones can be found and checked."""

    def __init__(self) -> None:
        self._known_parameters: dict[int, Weak] = {}
        self._parents: list[tuple[Weak, tuple[int, ...]]] = []

    def record(self, components: Sequence[nn.Module], patched: Iterable[nn.Module]) -> None:
        """Record the current modules of the model; `patched` are those with adapters."""
        wanted = {id(module) for module in patched}
        modules = [module for root in components for _, module in named_modules(root)] if wanted else []
        self._known_parameters = {id(module): weakref.ref(module) for module in modules}
        children = ((module, tuple(map(id, module._modules.values()))) for module in modules if module._modules)
        self._parents = [(weakref.ref(module), ids) for module, ids in children if not wanted.isdisjoint(ids)]

    def has_changed(self) -> bool:
        """True if a sibling of a patched module was added or replaced; cheap enough to check before every forward."""
        found = ((ref(), ids) for ref, ids in self._parents)
        return any(m is not None and tuple(map(id, m._modules.values())) != ids for m, ids in found)

    def restore(
        self,
        components: Sequence[nn.Module],
        records: Sequence[ParameterSnapshot],
        unrestored: UnrestoredLayers,
        transaction: Transaction,
    ) -> None:
        """Restore the original weights in every new layer that has merged ones; add the others to `unrestored`."""
        merged = [record for record in records if record.is_in_place()]
        for new in self._new_parameters(components) if merged else ():
            restored, is_found = _with_originals(new.tensor, merged)
            if is_found:
                transaction.on_rollback(partial(assign, new.module, new.name, new.tensor))
                assign(new.module, new.name, restored)
            if restored is not None and self._is_stale(new._replace(tensor=restored), merged):
                unrestored.add(new.path, new.module, COPIED)

    def _new_parameters(self, components: Sequence[nn.Module]) -> Iterator[_NewParameter]:
        for path, module in (pair for root in components for pair in named_modules(root)):
            known = self._known_parameters.get(id(module))
            for name in module._parameters if known is None or known() is not module else ():
                tensor = current_tensor(module, name)
                if tensor is not None and not tensor.is_meta and tensor.is_floating_point():
                    yield _NewParameter(path, module, name, tensor)

    @staticmethod
    def _is_stale(new: _NewParameter, merged: Sequence[ParameterSnapshot]) -> bool:
        """True if a fused projection was built from earlier merged weights than the current ones."""
        stem, dot, tensor_name = new.path.rpartition(".")
        parts = {f"{stem}{dot}{part}" for part in FUSED.get(tensor_name, ())}
        own = [record for record in merged if record.ref.name == new.name and record.ref.path in parts]
        originals = [record.original for record in own if record.original is not None]
        return any(not _matching_rows(new.tensor, original) for original in originals)


def _with_originals(tensor: Tensor, merged: Sequence[ParameterSnapshot]) -> tuple[Tensor | None, bool]:
    """Return the tensor with merged rows replaced by original ones, and whether there were any.

    The tensor is None if it is a bias that the original layer did not have.
    """
    out = tensor
    for record in merged:
        if (now := record.ref.tensor()) is None:
            continue
        for start in _matching_rows(tensor, now):
            if record.original is None:
                return None, True
            out = tensor.clone() if out is tensor else out
            out[start : start + len(now)] = record.original.to(out.device, out.dtype)
    return out, out is not tensor


def _matching_rows(tensor: Tensor, part: Tensor) -> list[int]:
    """Return the start rows at which the tensor equals `part` bit for bit, in the tensor's dtype."""
    if not part.ndim or not part.numel() or part.ndim != tensor.ndim or part.shape[1:] != tensor.shape[1:]:
        return []
    part = part.to(tensor.device, tensor.dtype)
    first = part[0].reshape(-1)[:PREFIX_VALUES]
    starts = (tensor.reshape(len(tensor), -1)[:, : len(first)] == first).all(1).nonzero().flatten().tolist()
    whole = (start for start in starts if start + len(part) <= len(tensor))
    return [start for start in whole if torch.equal(tensor[start : start + len(part)], part)]
