"""From the host's calls to what is active on its model: a reconciliation, not an event.

The host calls at every load with nothing, once per batch, again for the second pass, again after an exception, from
other threads, and sometimes not at all. So each call works out everything that is wanted now, and makes it so.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import nn

from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.hosts.webui import host, infotext, settings, wanted
from lib_adapters.hosts.webui.aesthetics import Aesthetics
from lib_adapters.hosts.webui.builtin import Builtin
from lib_adapters.hosts.webui.cards import Cards
from lib_adapters.hosts.webui.denoising import moment_of
from lib_adapters.hosts.webui.embeddings import Embeddings
from lib_adapters.hosts.webui.hashes import Hashes
from lib_adapters.hosts.webui.hypernets import KIND as HYPERNET
from lib_adapters.hosts.webui.hypernets import Hypernets
from lib_adapters.hosts.webui.lifecycle import Sessions
from lib_adapters.hosts.webui.model import parts_of
from lib_adapters.hosts.webui.names import Names
from lib_adapters.hosts.webui.rounds import Round, Rounds, state
from lib_adapters.hosts.webui.voice import Voice
from lib_adapters.hosts.webui.voices import Voices
from lib_adapters.prompt.aesthetic import KIND as AESTHETIC
from lib_adapters.prompt.tags import Tag
from lib_adapters.session import Report, Request


class Runtime:
    """The only memory of the extension."""

    def __init__(self) -> None:
        self.cards = Cards(self._rescan)
        self.names: Names[Adapter] = Names(settings.folders, self.cards.catalogue.about, open_adapter)
        self.hashes = Hashes(self.names)
        self.report = Report()
        self.hypernets = Hypernets()
        self.aesthetics = Aesthetics()
        self._others: dict[str, Hypernets | Aesthetics] = {HYPERNET: self.hypernets, AESTHETIC: self.aesthetics}
        self._rounds = Rounds(self.names, self.cards.presets.presets)
        self._now = Round()  # what the picture that is drawn asks for
        self._job: Any = None  # the host's, while it samples
        self._voices = Voices()
        self._voice = Voice()
        self._sessions = Sessions()
        self._builtin = Builtin()
        self._embeddings = Embeddings()
        self._shared = False  # does the built-in write into the same weights?
        self._lone: dict[str, Sequence[Any]] = {}  # by kind: the last call that had nothing of a picture behind it
        self._lock = threading.RLock()

    def activate(self, kind: str, p: Any, params: Sequence[Any]) -> None:
        """What the host calls for each kind of tag. Never raises: an exception would only hide what went wrong."""
        with self._lock:
            try:
                if (other := self._others.get(kind)) is not None:
                    other.activate(p, params)
                    self.cards.used(other.used)
                else:
                    self._reconcile(kind, p, params)
            except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
                self._failed(p, error)

    def _rescan(self) -> None:
        self.names.rescan()
        for other in self._others.values():
            other.names.rescan()

    def left(self, kind: str) -> None:
        """The user has given this kind of tag back to the host."""
        if kind == HYPERNET and self.hypernets.reports:
            with self._lock:
                self.hypernets.restore()

    @property
    def voices(self) -> list[Voice]:
        """Who has spoken of the last picture."""
        return [self._voice, *(other.voice for other in self._others.values())]

    def restore(self) -> None:
        """The models as if we had never been there."""
        with self._lock:
            self._leave()
            self._builtin.take_off()
            if (model := host.current_model()) is not None:
                self._embeddings.sync(model, ())
            self._voice.forget()

    def _leave(self) -> None:
        self.finished()
        self._sessions.restore()
        for other in self._others.values():
            other.restore()
        self.report = Report()

    def _reconcile(self, kind: str, p: Any, params: Sequence[Any]) -> None:
        kinds = ("lyco", "lora") if settings.handles_lora() else ("lyco",)
        data = wanted.data_of(p, kind, params)
        model = host.current_model()
        if data is None and self._is_refined(model):
            return
        self._job = p if data is not None else None
        second = data is not None and data is getattr(p, "hr_extra_network_data", None)
        self._now = now = self._rounds.of(p, kinds, self._all(kind, params, data), second)
        if data is not None:
            infotext.add_to_prompts(p, now.defaults, now.drawn)
        if model is None:
            return
        self._shared = self._is_shared(kinds, data)
        self.report = self._apply(model, now)
        self._mark_texts(p, model, second)
        if data is not None:
            self.cards.used(one.adapter.path for _, one in self._applied(now))
            self._mark(p, kinds, data, state(now, self.report))
        now.notes += self._embeddings.sync(model, [request.adapter for request in now.requests])
        self._tell(p, now, kinds)
        infotext.write(p, [(tag, self.hashes.short(one.adapter)) for tag, one in self._applied(now)])

    def _mark(self, p: Any, kinds: Sequence[str], data: wanted.Data, text: str) -> None:
        """The other pass's data too: the host may make its conditioning now, and keeps the data itself as the key."""
        make = host.module("extra_networks").ExtraNetworkParams
        wanted.mark(data, text, make)
        for other in wanted.all_data(p):
            if other is not data and not wanted.is_marked(other):
                second = other is getattr(p, "hr_extra_network_data", None)
                wanted.mark(other, state(self._rounds.of(p, kinds, other, second), Report()), make)

    def _all(self, kind: str, params: Sequence[Any], data: wanted.Data | None) -> dict[str, Sequence[Any]]:
        """The parameters of both kinds."""
        if data is not None:
            return dict(data)
        self._lone[kind] = list(params)
        return self._lone

    def _mark_texts(self, p: Any, model: nn.Module, second: bool) -> None:
        """Tags leave the negative prompt; where texts have adapters of their own, each tells the row that it is for."""
        now, session = self._now, self._sessions.session(model)
        if now.sides is None:
            self._voices.take_off()
            return
        prompts, negatives = ("hr_prompts", "hr_negative_prompts") if second else ("prompts", "negative_prompts")
        if now.speaks and session is not None:
            texts = now.sides.marked()
            for name, marked in zip((prompts, negatives), texts, strict=True):
                setattr(p, name, marked)
            self._voices.put_on(model, session.speak)
        elif settings.negative_tags():
            setattr(p, negatives, [side.text for side in now.sides.rows if side.negative])

    def _is_refined(self, model: nn.Module | None) -> bool:
        """A model that the host loads in the middle of a picture goes on with what the picture asks for."""
        if self._job is None or model is None or not getattr(host.module("shared").state, "job", ""):
            return False
        self.report = self._apply(model, self._now)
        return True

    def denoising(self, params: Any) -> None:
        """The host is about to run its denoiser. Never raises."""
        model, job = host.current_model(), self._job
        if job is None or model is None or not self._now.requests:
            return
        with self._lock:
            try:
                if not self._sessions.is_on(model):
                    self.report = self._apply(model, self._now)  # a refiner that was in memory already
                session = self._sessions.session(model)
                if session is not None and session.moves:
                    session.at(moment_of(params, job), self._now.rows)
                    self._voice.late(job, session.report.motion)
            except Exception as error:  # noqa: BLE001 - as in `activate`
                self._failed(job, error)

    def finished(self) -> None:
        """The picture is drawn; weights can wait for the next one."""
        self._job = None
        self._voices.take_off()

    def _is_shared(self, kinds: Sequence[str], data: wanted.Data | None) -> bool:
        """Will the built-in write into the same weights?"""
        if "lora" in kinds or host.builtin_networks() is None:
            return False
        return bool((data or {}).get("lora")) or host.option("sd_lora", settings.NOTHING) != settings.NOTHING

    def _apply(self, model: nn.Module, now: Round) -> Report:
        before = self._sessions.mode(model)
        if before == "live" and not self._shared:
            self._sessions.leave(model)
        parts = parts_of(model)
        if self._shared:
            report = self._sessions.activate(model, now.requests, "live", now.moment)
            self._builtin.write_first(self._sessions.layers(model))
            return report
        if now.requests or before or settings.handles_lora():
            self._builtin.stand_down([root for root in (parts.unet, *parts.encoders) if root is not None])
        return self._sessions.activate(model, now.requests, "merged", now.moment)

    def _applied(self, now: Round) -> list[tuple[Tag, Request]]:
        unused = {one.name for one in self.report.adapters if one.error}
        pairs = zip(now.tags, now.requests, strict=True)
        return [(tag, request) for tag, request in pairs if request.adapter.name not in unused]

    def _tell(self, p: Any, now: Round, kinds: Sequence[str]) -> None:
        problems = list(now.problems)
        problems += [one.line() for one in self.report.adapters if one.error or one.unmatched]
        plain = [] if settings.negative_tags() else wanted.in_negative(p, kinds)
        problems += [f"{text} stands in the negative prompt, where tags are plain words." for text in plain]
        lines = [one.line() for one in self.report.adapters if not (one.error or one.unmatched)]
        lines += [f"{one.name}: {note}" for one in self.report.adapters for note in one.notes] + now.notes
        self._voice.say(p, problems, lines)

    def _failed(self, p: Any, error: Exception) -> None:
        """What was active before is not what this picture asks for: nothing is better than that."""
        host.module("errors").report("LyCORIS: applying adapters failed", exc_info=True)
        self._leave()
        for data in wanted.all_data(p):  # conditionings made now must not be taken for those with adapters
            wanted.mark(data, "nothing was applied", host.module("extra_networks").ExtraNetworkParams)
        reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
        self._voice.say(p, [f"LyCORIS: no adapter was applied ({reason})."], [])
