"""Layers that other code made of merged weights: found by their values, and given the original ones.

`fuse_qkv_projections()` while adapters are active copies merged weights into new layers, and so do wrappers that keep
a layer twice. A new layer that has merged weights to the bit, whole or in rows, is given what a copy of the original
weights would have; one that must have been made of them and has not is named, for nothing can be given back exactly.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib_adapters.patching.change import Change
from lib_adapters.patching.fused import FUSED
from lib_adapters.patching.losses import COPIED, Losses
from lib_adapters.patching.pointer import held, point
from lib_adapters.patching.record import Record
from lib_adapters.patching.walk import named_modules

HEAD = 8  # values of a first row that tell where a comparison is worth while

Weak = weakref.ref[nn.Module]


class _New(NamedTuple):
    path: str
    module: nn.Module
    name: str
    tensor: Tensor


class Copies:
    """Knows the modules that a model has, so that new ones can be looked at."""

    def __init__(self) -> None:
        self._known: dict[int, Weak] = {}
        self._parents: list[tuple[Weak, tuple[int, ...]]] = []

    def remember(self, roots: Sequence[nn.Module], patched: Iterable[nn.Module]) -> None:
        """These are the modules of the model now; `patched` are those with adapters on them."""
        wanted = {id(module) for module in patched}
        modules = [module for root in roots for _, module in named_modules(root)] if wanted else []
        self._known = {id(module): weakref.ref(module) for module in modules}
        children = ((module, tuple(map(id, module._modules.values()))) for module in modules if module._modules)
        self._parents = [(weakref.ref(module), ids) for module, ids in children if not wanted.isdisjoint(ids)]

    def has_changed(self) -> bool:
        """True if modules were added or exchanged beside a patched one; cheap enough for each run."""
        found = ((ref(), ids) for ref, ids in self._parents)
        return any(m is not None and tuple(map(id, m._modules.values())) != ids for m, ids in found)

    def mend(self, roots: Sequence[nn.Module], records: Sequence[Record], losses: Losses, change: Change) -> None:
        """Give the original weights to every new layer that has merged ones; what cannot be is a loss."""
        merged = [record for record in records if record.in_place()]
        for new in self._new(roots) if merged else ():
            mended, is_found = _with_originals(new.tensor, merged)
            if is_found:
                change.back(partial(point, new.module, new.name, new.tensor))
                point(new.module, new.name, mended)
            if mended is not None and self._is_stale(new._replace(tensor=mended), merged):
                losses.add(new.path, new.module, COPIED)

    def _new(self, roots: Sequence[nn.Module]) -> Iterator[_New]:
        for path, module in (pair for root in roots for pair in named_modules(root)):
            known = self._known.get(id(module))
            for name in module._parameters if known is None or known() is not module else ():
                tensor = held(module, name)
                if tensor is not None and not tensor.is_meta and tensor.is_floating_point():
                    yield _New(path, module, name, tensor)

    @staticmethod
    def _is_stale(new: _New, merged: Sequence[Record]) -> bool:
        """Was a fused projection made of other merged weights than there are now?"""
        stem, dot, leaf = new.path.rpartition(".")
        parts = {f"{stem}{dot}{part}" for part in FUSED.get(leaf, ())}
        own = [record for record in merged if record.slot.name == new.name and record.slot.path in parts]
        originals = [record.pristine for record in own if record.pristine is not None]
        return any(not _places(new.tensor, original) for original in originals)


def _with_originals(tensor: Tensor, merged: Sequence[Record]) -> tuple[Tensor | None, bool]:
    """Return the tensor with original rows in the place of merged ones, and whether there were any.

    None where the whole tensor is a bias that was only lent.
    """
    out = tensor
    for record in merged:
        if (now := record.slot.tensor()) is None:
            continue
        for start in _places(tensor, now):
            if record.pristine is None:
                return None, True
            out = tensor.clone() if out is tensor else out
            out[start : start + len(now)] = record.pristine.to(out.device, out.dtype)
    return out, out is not tensor


def _places(tensor: Tensor, part: Tensor) -> list[int]:
    """Return the rows at which the tensor has the values of `part` to the bit, cast as the tensor is."""
    if not part.ndim or not part.numel() or part.ndim != tensor.ndim or part.shape[1:] != tensor.shape[1:]:
        return []
    part = part.to(tensor.device, tensor.dtype)
    first = part[0].reshape(-1)[:HEAD]
    starts = (tensor.reshape(len(tensor), -1)[:, : len(first)] == first).all(1).nonzero().flatten().tolist()
    whole = (start for start in starts if start + len(part) <= len(tensor))
    return [start for start in whole if torch.equal(tensor[start : start + len(part)], part)]
