"""What a user asks for: one adapter, and how strongly in each part of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter


@dataclass(frozen=True)
class Request:
    """Strengths may be any finite number; `dyn` cuts the adapter to its first ranks."""

    adapter: Adapter
    unet: float = 1.0
    te: float = 1.0
    dyn: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.unet) and math.isfinite(self.te)):
            raise AdapterError(f"{self.adapter.name}: a strength must be a finite number, not {self.unet} / {self.te}.")
        if self.dyn is not None and self.dyn < 1:
            raise AdapterError(f"{self.adapter.name}: dyn is a number of ranks, at least 1, not {self.dyn}.")

    @property
    def key(self) -> tuple[str, float, float, int]:
        """Sorts and compares requests without looking into the file."""
        return self.adapter.key, self.unet, self.te, self.dyn or 0

    def strength(self, part: str) -> float:
        return self.unet if part == "unet" else self.te
