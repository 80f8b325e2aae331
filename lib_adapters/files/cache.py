"""Loaded adapters, kept while there is room for their bytes."""

from __future__ import annotations

from collections import OrderedDict

import torch

from lib_adapters.files.adapter import Adapter
from lib_adapters.files.load import Loaded


class LoadedCache:
    """Least recently used first out; `budget` in bytes of tensors."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[str, str], Loaded] = OrderedDict()
        self._bytes = 0

    def get(self, adapter: Adapter, device: torch.device | str) -> Loaded:
        """From memory, or from the file. An adapter larger than the budget is not kept. Raises as its `load`."""
        where = (adapter.key, str(device))
        if where in self._kept:
            self._kept.move_to_end(where)
            return self._kept[where]
        loaded = adapter.load(device)
        if loaded.nbytes <= self._budget:
            self._kept[where] = loaded
            self._bytes += loaded.nbytes
            self._evict()
        return loaded

    def clear(self) -> None:
        """Forgets all of them; who still holds one keeps it."""
        self._kept.clear()
        self._bytes = 0

    def _evict(self) -> None:
        while self._bytes > self._budget:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
