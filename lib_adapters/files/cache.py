"""Loaded adapters, kept while there is room for their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.files.adapter import Adapter
from lib_adapters.files.load import Loaded

DEFAULT_BYTES = 1 << 29  # what a machine with 16 GB can spare beside a model
_Where = tuple[str, str]


class LoadedCache:
    """Least recently used first out; `budget` in bytes of memory.

    An adapter may take more memory than its file: factors of 8 bits are kept as float32, and what layers draw from a
    seed is kept with the adapter once a model has asked for it.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[_Where, tuple[Loaded, int]] = OrderedDict()  # with the bytes of what was read

    def get(self, adapter: Adapter, device: torch.device | str) -> Loaded:
        """From memory, or from the file. An adapter larger than the budget is not kept. Raises as its `load`."""
        where = (adapter.key, str(device))
        found = self._kept.pop(where, None)
        if found is None:
            loaded = adapter.load(device)
            found = loaded, bytes_in(loaded.algorithms.values())
        self._kept[where] = found  # last: the newest
        self._evict()
        return found[0]

    def clear(self) -> None:
        """Forgets all of them; who still holds one keeps it."""
        self._kept.clear()

    def _evict(self) -> None:
        sizes = {where: read + bytes_in(loaded.shared.values()) for where, (loaded, read) in [*self._kept.items()]}
        total = sum(sizes.values())
        large = [where for where, size in sizes.items() if size > self._budget]
        for where in [*large, *(where for where in sizes if where not in large)]:
            if total <= self._budget:
                return
            total -= sizes[where]
            self._kept.pop(where, None)  # another thread may have been here


def bytes_in(parts: Iterable[object]) -> int:
    """Return the bytes of memory behind all tensors in these parts; memory that several share counts once."""
    storages = {storage.data_ptr(): storage.nbytes() for t in _tensors(parts) for storage in (t.untyped_storage(),)}
    return sum(storages.values())


def _tensors(parts: Iterable[object]) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, (tuple, list)):
            yield from _tensors(part)
        elif isinstance(part, Algorithm):
            yield from _tensors(vars(part).values())
