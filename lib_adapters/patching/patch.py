"""A patch: the contribution of one adapter to one parameter, with a static or a scheduled strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.patching.layers import ParamRef, WeightView
from lib_adapters.patching.request import Request
from lib_adapters.prompt.schedule import Curve, SamplingStep, strength_at
from lib_adapters.prompt.tag_options import TIMESTEP


@dataclass(eq=False)
class ScheduledStrength:
    """What hosts turn; patches read it when they are computed."""

    request: Request
    component: str  # "unet", or "te" for any text encoder
    strength: float = 0.0  # in this step, for whatever rows it acts on
    progress: float = 1.0  # 0 where it acts on none of the rows
    row_strengths: tuple[float, ...] | None = None  # one factor for each row where they differ
    rank: int | None = None
    denoised: float | None = None  # how much of the noise is gone, where the number of ranks follows it

    def set_step(self, step: SamplingStep) -> None:
        """To what holds in this step."""
        request = self.request
        self.strength = strength_at(request.unet, request.window, step) if self.component == "unet" else request.te
        if isinstance(request.dyn, Curve):
            self.rank = max(1, math.floor(request.dyn.value_at(step) + 1e-9))
        elif request.dyn == TIMESTEP:
            self.denoised = step.denoised
        elif isinstance(request.dyn, int):
            self.rank = request.dyn

    def set_rows(self, rows: Sequence[int] | None) -> None:
        """Which of these rows it acts on; None from a host that tells nothing: then on all."""
        scope = self.request.rows
        factors = (1.0,) if scope is None or rows is None else tuple(float(row in scope) for row in rows)
        alike = len(set(factors)) <= 1
        self.row_strengths, self.progress = (None, next(iter(factors), 0.0)) if alike else (factors, 1.0)

    def truncate(self, algorithm: Algorithm) -> Algorithm:
        """T-LoRA trains ⌊(1 − t/T)·(R − 1)⌋ + 1 ranks at the timestep t (arXiv:2507.05964, its defaults)."""
        if self.denoised is not None and algorithm.rank is not None:
            return algorithm.truncate(math.floor(self.denoised * (algorithm.rank - 1)) + 1)
        return algorithm if self.rank is None else algorithm.truncate(self.rank)

    @property
    def is_dynamic(self) -> bool:
        """True if the strength is scheduled; False if only `mode=live` requires a dial."""
        return self.request.is_dynamic(self.component)

    @property
    def value(self) -> float:
        """The strength for all rows that it acts on; 0 where it acts on none."""
        return self.strength * self.progress

    @property
    def state(self) -> tuple[object, ...]:
        """Equal where nothing has to be computed anew."""
        return self.value, self.rank, self.denoised, self.row_strengths


# One adapter's contribution to one parameter, and everything that is added to one parameter.


PatchKey = tuple[str, LayerKey, float, int, str]
Key = tuple[int, str]


@dataclass(frozen=True)
class Patch:
    """At the strength that its key names; with a dial, at the dial's, times the factor of its block."""

    key: PatchKey
    view: WeightView
    algorithm: Algorithm
    strength: float
    is_bias: bool = False
    scheduled: ScheduledStrength | None = None

    def resolve(self, row: int | None = None) -> Patch | None:
        """As it is at this moment, in this row; None where it is not there."""
        if self.scheduled is None:
            return self
        scheduled = self.scheduled
        strength = (
            self.strength
            * scheduled.value
            * (1.0 if scheduled.row_strengths is None or row is None else scheduled.row_strengths[row])
        )
        if not strength:
            return None
        algorithm = scheduled.truncate(self.algorithm)
        name, stem, _, _, kind = self.key
        cut = 0 if algorithm is self.algorithm else algorithm.rank or 0
        return Patch((name, stem, strength, cut, kind), self.view, algorithm, strength, self.is_bias)


@dataclass
class ParamPatches:
    """A parameter and everything that is added to it."""

    ref: ParamRef
    patches: list[Patch] = field(default_factory=list)

    @property
    def signature(self) -> tuple[PatchKey, ...]:
        """Equal where the same is added to the same."""
        return tuple(patch.key for patch in self.patches)

    @property
    def is_dynamic(self) -> bool:
        """Does anything depend on the step, the row or the text?"""
        return any(patch.scheduled is not None for patch in self.patches)

    def resolve(self, row: int | None = None) -> ParamPatches | None:
        """Without dials, as it is at this moment; None where nothing is added."""
        patches = [found for patch in self.patches if (found := patch.resolve(row)) is not None]
        return ParamPatches(self.ref, _in_order(patches)) if patches else None

    def split_static_dynamic(self) -> tuple[ParamPatches | None, ParamPatches | None]:
        """What stays and what moves."""
        still = [patch for patch in self.patches if patch.scheduled is None]
        moving = [patch for patch in self.patches if patch.scheduled is not None]
        return (ParamPatches(self.ref, still) if still else None), (ParamPatches(self.ref, moving) if moving else None)


PatchesByParam = dict[Key, ParamPatches]


def _in_order(patches: Sequence[Patch]) -> list[Patch]:
    """An order of their own, never the prompt's: sums of floats depend on their order."""
    return sorted(patches, key=lambda patch: patch.key)
