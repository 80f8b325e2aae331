"""What a user asks for: one adapter, and how strongly in each part of the model."""

from __future__ import annotations

from dataclasses import dataclass

from lib_adapters.algorithms.base import LARGEST
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter


@dataclass(frozen=True)
class Request:
    """Strengths may be any finite number, up to where float32 ends; `dyn` cuts the adapter to its first ranks."""

    adapter: Adapter
    unet: float = 1.0
    te: float = 1.0
    dyn: int | None = None

    def __post_init__(self) -> None:
        if not (abs(self.unet) <= LARGEST and abs(self.te) <= LARGEST):  # NaN is never <=
            numbers = f"{self.unet} / {self.te}"
            raise AdapterError(
                f"{self.adapter.name}: a strength must be a finite number, at most {LARGEST:g}, not {numbers}."
            )
        if self.dyn is not None and self.dyn < 1:
            raise AdapterError(f"{self.adapter.name}: dyn is a number of ranks, at least 1, not {self.dyn}.")

    @property
    def key(self) -> tuple[str, float, float, int]:
        """Sorts and compares requests without looking into the file."""
        return self.adapter.key, self.unet, self.te, self.dyn or 0

    def strength(self, part: str) -> float:
        return float(self.unet if part == "unet" else self.te)
