"""The strength of one request in one part of the model, as it is for the coming run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.patching.request import Request
from lib_adapters.prompt.control import TIMESTEP
from lib_adapters.prompt.schedule import Curve, Moment, strength_at


@dataclass(eq=False)
class Dial:
    """What hosts turn; patches read it when they are computed."""

    request: Request
    part: str  # "unet", or "te" for any text encoder
    strength: float = 0.0  # in this step, for whatever rows it acts on
    share: float = 1.0  # 0 where it acts on none of the rows
    rows: tuple[float, ...] | None = None  # one factor for each row where they differ
    rank: int | None = None
    clear: float | None = None  # how much of the noise is gone, where the number of ranks follows it

    def turn(self, moment: Moment) -> None:
        """To what holds in this step."""
        request = self.request
        self.strength = strength_at(request.unet, request.window, moment) if self.part == "unet" else request.te
        if isinstance(request.dyn, Curve):
            self.rank = max(1, math.floor(request.dyn.at(moment) + 1e-9))
        elif request.dyn == TIMESTEP:
            self.clear = moment.clear
        elif isinstance(request.dyn, int):
            self.rank = request.dyn

    def choose(self, rows: Sequence[int] | None) -> None:
        """Which of these rows it acts on; None from a host that tells nothing: then on all."""
        scope = self.request.scope
        factors = (1.0,) if scope is None or rows is None else tuple(float(row in scope) for row in rows)
        alike = len(set(factors)) <= 1
        self.rows, self.share = (None, next(iter(factors), 0.0)) if alike else (factors, 1.0)

    def cut(self, algorithm: Algorithm) -> Algorithm:
        """T-LoRA trains ⌊(1 − t/T)·(R − 1)⌋ + 1 ranks at the timestep t (arXiv:2507.05964, its defaults)."""
        if self.clear is not None and algorithm.rank is not None:
            return algorithm.truncated(math.floor(self.clear * (algorithm.rank - 1)) + 1)
        return algorithm if self.rank is None else algorithm.truncated(self.rank)

    @property
    def moves(self) -> bool:
        """True if the strength is scheduled; False if only `mode=live` requires a dial."""
        return self.request.moves(self.part)

    @property
    def value(self) -> float:
        """The strength for all rows that it acts on; 0 where it acts on none."""
        return self.strength * self.share

    @property
    def setting(self) -> tuple[object, ...]:
        """Equal where nothing has to be computed anew."""
        return self.value, self.rank, self.clear, self.rows
