"""Reports: what was applied and what was not, in numbers and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lib_adapters.prompt.schedule import Strength, format_strength

ROWS_UNRESOLVED = (
    "In some runs of the UNet the rows could not be told apart: what is for single parts, sides or pictures "
    "was left out of them."
)
_OUT_OF_RANGE = (
    "weights or biases keep their original values, because at this strength the merged values overflow the model's "
    "dtype (infinite or NaN): lower the strength"
)
ABANDONED = (
    "Changing the adapters failed. The original weights were restored, and no adapter is active. Activate the "
    "adapters again."
)
TAKEN_OVER = "Another Session had adapters on this model; they were removed first."
DISPLACED = "Another Session activated adapters on this model; the adapters of this Session were removed."
MAX_REASONS = 3  # different reasons that a line of text names


@dataclass
class AdapterReport:
    """One adapter on one model: `matched` of its `total` layers are changed; `seconds` are of reading and fitting."""

    name: str
    unet: Strength
    te: float
    matched: int = 0
    total: int = 0
    algorithms: dict[str, int] = field(default_factory=dict)
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None  # why nothing of it was applied
    disabled_by_blocks: int = 0  # layers that a block weight of 0 leaves alone
    mode: str = "merged"  # how it is followed, in words
    seconds: float = 0.0
    out_of_range: int = 0  # parameters whose merged weight would be infinite or NaN in at least one step

    @property
    def incomplete(self) -> bool:
        """True if the file was not, or not completely, applied."""
        return bool(self.error or self.unmatched or self.out_of_range)

    def summary(self) -> str:
        """One line for the user; the error where nothing was applied."""
        if self.error is not None:
            return self.error
        kinds = ", ".join(f"{label} {count}" for label, count in self.algorithms.items())
        text = f"{self.name}: {self.matched} of {self.total} layers ({kinds})"
        text += f", te {self.te:g}, unet {format_strength(self.unet)}"
        text += ", live" if "live" in self.mode else ""
        text += f", {self.disabled_by_blocks} at a block weight of 0" if self.disabled_by_blocks else ""
        text += f"; {self.out_of_range} {_OUT_OF_RANGE}" if self.out_of_range else ""
        return f"{text}; {_reasons(self.unmatched)}" if self.unmatched else text


@dataclass
class Report:
    """All adapters of one activation, which took `seconds`."""

    adapters: list[AdapterReport] = field(default_factory=list)
    mode: str = "merged"
    seconds: float = 0.0
    schedule_note: str = ""  # how strengths that change while drawing are followed
    rows_unresolved: bool = False  # runs whose rows could not be told apart
    notes: list[str] = field(default_factory=list)  # whole sentences about the model

    def lines(self) -> list[str]:
        """One line for each adapter, and its notes behind it."""
        lines = [text for one in self.adapters for text in (one.summary(), *(f"{one.name}: {n}" for n in one.notes))]
        more = [
            *([f"{self.schedule_note}."] if self.schedule_note else []),
            *([ROWS_UNRESOLVED] if self.rows_unresolved else []),
        ]
        return [*lines, *more, *self.notes]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _reasons(unmatched: Sequence[tuple[str, str]]) -> str:
    counts: dict[str, list[str]] = {}
    for key, reason in unmatched:
        counts.setdefault(reason, []).append(key)
    parts = [f"{len(keys)} not applied ({reason}), e.g. {keys[0]}" for reason, keys in counts.items()]
    more = [f"and {len(parts) - MAX_REASONS} other reasons"] if len(parts) > MAX_REASONS else []
    return "; ".join(parts[:MAX_REASONS] + more)
