"""The same wishes on a model of its own that nothing else was done to, by a session that is new each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_adapters import Session
from lib_adapters.prompt.schedule import SamplingStep
from tests.support.state_machines.random_requests import START, At, Want, plainly
from tests.support.state_machines.versioned_adapters import Shelf
from tests.support.tiny_model_pair import Pair, Weights, differing, holding, noise, traces, write


@dataclass(frozen=True)
class Situation:
    """Everything that weights may depend on."""

    kind: str
    weights: Weights
    wants: tuple[Want, ...] = ()
    mode: str = "merged"
    moment: SamplingStep = START
    rows: tuple[int, ...] | None = None
    voice: int | None = None
    measured: bool = False  # has the session seen how large a picture is?

    @property
    def key(self) -> tuple[object, ...]:
        rest = (self.wants, self.mode, self.moment, self.rows, self.voice, self.measured)
        return self.kind, id(self.weights), *rest

    @property
    def moves(self) -> bool:
        return self.mode == "live" or not all(want.stays for want in self.wants)


class Fresh:
    def __init__(self, shelf: Shelf):
        self._shelf = shelf
        self._models = {kind: Pair(kind) for kind in ("usual", "narrow")}
        self._known: dict[tuple[object, ...], tuple[Situation, dict[str, Tensor]]] = {}

    def weights(self, now: Situation) -> dict[str, Tensor]:
        """Those that are not the model's own then, checked against the plain sum."""
        if now.key not in self._known:
            with self._put_on(now) as (model, _):
                found = {name: tensor.clone() for name, tensor in differing(model, now.weights).items()}
            self._check(now, found)
            self._known[now.key] = now, found
        return self._known[now.key][1]

    def pictures(self, now: Situation, steps: int, cut: bool) -> list[Tensor]:
        """The UNet's output in each step, checked against each row by itself on plain weights."""
        rows, found = now.rows or (None, None), []
        with self._put_on(now) as (model, session):
            for step in range(steps):
                session.set_step(SamplingStep(step, steps), now.rows)
                found.append(drawn(model, noise(len(rows)), cut))
        for step, together in enumerate(found):
            for n, row in enumerate(rows):
                alone = self._plain(now, At(SamplingStep(step, steps), row)).draw_at(noise(len(rows))[n : n + 1])
                _close(together[n : n + 1], alone)
        return found

    def text(self, now: Situation) -> Tensor:
        with self._put_on(now) as (model, _):
            found = model.read()
        _close(found, self._plain(now, At(now.moment, None, now.voice)).read())
        return found

    @contextmanager
    def _put_on(self, now: Situation) -> Iterator[tuple[Pair, Session]]:
        model = self._model(now)
        session = Session(model.unet, [model.te], mode=now.mode)
        requests = [want.request(self._shelf.aside(want.file)) for want in now.wants]
        report = session.activate(requests, now.moment)
        assert not [one.error for one in report.adapters if one.error]
        session.set_step(now.moment, now.rows)
        if now.measured:
            model.draw(noise(len(now.rows or (0, 1))))
        session.set_text_row(now.voice)
        yield model, session
        session.deactivate()
        assert not differing(model, now.weights)
        assert not traces(model)

    def _model(self, now: Situation) -> Pair:
        model = self._models[now.kind]
        write(model, now.weights)
        return model

    def _check(self, now: Situation, found: dict[str, Tensor]) -> None:
        row = None if now.rows is None else now.rows[0]
        plain = self._changes(now, At(now.moment, row, now.voice))
        if not now.moves:
            assert found.keys() == {name for name in plain if _differs(plain[name], now.weights.get(name))}
        if now.rows is None and not now.moves:
            for name, tensor in found.items():
                _close(tensor, plain[name])

    def _changes(self, now: Situation, at: At) -> dict[str, Tensor]:
        pairs: Sequence[tuple[Want, object]] = [(want, self._shelf.layers(want.file)) for want in now.wants]
        return plainly(now.weights, pairs, at)

    def _plain(self, now: Situation, at: At) -> Plain:
        return Plain(self._model(now), self._changes(now, at))


def drawn(model: Pair, x: Tensor, cut: bool) -> Tensor:
    """At once, or the first row by itself."""
    return torch.cat([model.draw(piece) for piece in (x.split([1, len(x) - 1]) if cut and len(x) > 1 else [x])])


@dataclass(frozen=True)
class Plain:
    model: Pair
    changes: dict[str, Tensor]

    def draw_at(self, x: Tensor) -> Tensor:
        with holding(self.model, self.changes):
            return self.model.draw(x)

    def read(self) -> Tensor:
        with holding(self.model, self.changes):
            return self.model.read()


def _differs(tensor: Tensor, base: Tensor | None) -> bool:
    return base is None or not torch.equal(tensor, base)


def _close(found: Tensor, wanted: Tensor) -> None:
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * scale)
