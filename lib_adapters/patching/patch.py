"""One adapter's contribution to one parameter, and everything that is added to one parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.files.names import Stem
from lib_adapters.patching.dial import Dial
from lib_adapters.patching.targets import Slot, View

PatchKey = tuple[str, Stem, float, int, str]
Key = tuple[int, str]


@dataclass(frozen=True)
class Patch:
    """At the strength that its key names; with a dial, at the dial's, times the factor of its block."""

    key: PatchKey
    view: View
    algorithm: Algorithm
    strength: float
    of_bias: bool = False
    dial: Dial | None = None

    def now(self, row: int | None = None) -> Patch | None:
        """As it is at this moment, in this row; None where it is not there."""
        if self.dial is None:
            return self
        dial = self.dial
        strength = self.strength * dial.value * (1.0 if dial.rows is None or row is None else dial.rows[row])
        if not strength:
            return None
        algorithm = dial.cut(self.algorithm)
        name, stem, _, _, kind = self.key
        cut = 0 if algorithm is self.algorithm else algorithm.rank or 0
        return Patch((name, stem, strength, cut, kind), self.view, algorithm, strength, self.of_bias)


@dataclass
class Target:
    """A parameter and everything that is added to it."""

    slot: Slot
    patches: list[Patch] = field(default_factory=list)

    @property
    def signature(self) -> tuple[PatchKey, ...]:
        """Equal where the same is added to the same."""
        return tuple(patch.key for patch in self.patches)

    @property
    def moves(self) -> bool:
        """Does anything depend on the step, the row or the text?"""
        return any(patch.dial is not None for patch in self.patches)

    def now(self, row: int | None = None) -> Target | None:
        """Without dials, as it is at this moment; None where nothing is added."""
        patches = [found for patch in self.patches if (found := patch.now(row)) is not None]
        return Target(self.slot, _in_order(patches)) if patches else None

    def parted(self) -> tuple[Target | None, Target | None]:
        """What stays and what moves."""
        still = [patch for patch in self.patches if patch.dial is None]
        moving = [patch for patch in self.patches if patch.dial is not None]
        return (Target(self.slot, still) if still else None), (Target(self.slot, moving) if moving else None)


Targets = dict[Key, Target]


def _in_order(patches: Sequence[Patch]) -> list[Patch]:
    """An order of their own, never the prompt's: sums of floats depend on their order."""
    return sorted(patches, key=lambda patch: patch.key)
