"""A cache of loaded adapters, limited by their size in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.files.adapter import Adapter
from lib_adapters.files.loading import LoadedAdapter

DEFAULT_CACHE_BYTES = 1 << 29  # what a machine with 16 GB can spare beside a model
_CacheKey = tuple[str, str]


class AdapterCache:
    """Least recently used first out; `budget` in bytes of memory.

    An adapter may take more memory than its file: factors of 8 bits are kept as float32, and what layers draw from a
    seed is kept with the adapter once a model has asked for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[_CacheKey, tuple[LoadedAdapter, int]] = (
            OrderedDict()
        )  # with the bytes of what was read

    def get(self, adapter: Adapter, device: torch.device | str) -> LoadedAdapter:
        """From memory, or from the file. An adapter larger than the budget is not kept. Raises as its `load`."""
        where = (adapter.cache_key, str(device))
        found = self._entries.pop(where, None)
        if found is None:
            loaded = adapter.load(device)
            found = loaded, unique_nbytes(loaded.algorithms.values())
        self._entries[where] = found  # last: the newest
        self._evict()
        return found[0]

    def clear(self) -> None:
        """Forgets all of them; who still holds one keeps it."""
        self._entries.clear()

    def _evict(self) -> None:
        sizes = {
            where: read + unique_nbytes(loaded.shared.values()) for where, (loaded, read) in [*self._entries.items()]
        }
        total = sum(sizes.values())
        large = [where for where, size in sizes.items() if size > self._max_bytes]
        for where in [*large, *(where for where in sizes if where not in large)]:
            if total <= self._max_bytes:
                return
            total -= sizes[where]
            self._entries.pop(where, None)  # another thread may have been here


def unique_nbytes(values: Iterable[object]) -> int:
    """Return the bytes of memory behind all tensors in these parts; memory that several share counts once."""
    storages = {storage.data_ptr(): storage.nbytes() for t in _tensors(values) for storage in (t.untyped_storage(),)}
    return sum(storages.values())


def _tensors(parts: Iterable[object]) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, (tuple, list)):
            yield from _tensors(part)
        elif isinstance(part, Algorithm):
            yield from _tensors(vars(part).values())
