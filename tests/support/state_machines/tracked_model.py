"""One model under test with its session, what its own weights are by now, and what must be on it."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from torch import Tensor, nn

from lib_adapters import Session
from lib_adapters.prompt.schedule import SamplingStep
from tests.support.state_machines.random_requests import START, Want
from tests.support.state_machines.reference_session import Fresh, Situation, drawn
from tests.support.tiny_model_pair import Pair, Weights, differing, noise, traces, weights_of


class Kept:
    def __init__(self, kind: str, mode: str):
        self.kind, self.model = kind, Pair(kind)
        self.weights: Weights = weights_of(self.model)
        self.begin(mode)

    def begin(self, mode: str) -> None:
        """With a session that knows nothing yet."""
        self.mode, self.session = mode, Session(self.model.unet, [self.model.te], mode=mode)
        self.voice: int | None = None
        self.idle()

    def idle(self) -> None:
        """Nothing is wanted any more."""
        self.wanted((), START)

    def wanted(self, wants: Sequence[Want], moment: SamplingStep) -> None:
        self.wants, self.moment = tuple(sorted(wants, key=repr)), moment
        self.rows: tuple[int, ...] | None = None
        self.stale: tuple[str, ...] = ()  # beginnings of what was written over, and has not run since

    @property
    def now(self) -> Situation:
        measured = self.session._controller._mode_selector._last_latent is not None
        return Situation(self.kind, self.weights, self.wants, self.mode, self.moment, self.rows, self.voice, measured)

    def owns(self, changes: Weights, seen: str = "") -> None:
        """These are its own weights from now on, whoever has written them."""
        self.weights = {**self.weights, **changes}
        self.stale += (seen,)

    def draw(self, step: SamplingStep, rows: tuple[int, ...] | None, cut: bool) -> Tensor:
        self.session.set_step(step, rows)
        self.moment, self.rows = step, rows
        found = drawn(self.model, noise(len(rows or (0, 1))), cut)
        self.stale = ()
        return found

    def read(self, voice: int | None) -> Tensor:
        self.session.set_text_row(voice)
        self.voice = voice if any(want.moves for want in self.wants) else self.voice
        found = self.model.read()
        self.stale = ()
        return found

    def check(self, fresh: Fresh) -> None:
        """Every weight to the bit, no hook without need, and pristine weights as they were first seen."""
        changed = fresh.weights(self.now) if self.wants else {}
        on = {name: tensor for name, tensor in changed.items() if not name.startswith(self.stale)}
        wanted = {**self.weights, **on}
        assert not sorted(differing(self.model, wanted)), self.wants
        assert self.session.verify()
        if not self.wants:
            assert not traces(self.model)

    def thrown_away(self, by: str) -> None:
        """As hosts do: sent to nowhere, or let go. Nobody else holds it."""
        if by == "meta":
            self.model.to("meta")
        del self.model, self.weights
        gc.collect() if by == "gc" else None
        self.session.deactivate()
        assert not self.session._weight_patcher.originals()


def place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
