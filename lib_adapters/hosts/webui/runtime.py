"""From the host's calls to what is active on its model: a reconciliation, not an event.

The host calls at every load with nothing, once per batch, again for the second pass, again after an exception, from
other threads, and sometimes not at all. So each call works out everything that is wanted now, and makes it so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.hosts.tab.told import report_of
from lib_adapters.hosts.webui import host, infotext, settings, wanted
from lib_adapters.hosts.webui.aesthetics import Aesthetics
from lib_adapters.hosts.webui.applying import Applying
from lib_adapters.hosts.webui.builtin_differences import BuiltinDifferences
from lib_adapters.hosts.webui.cards import Cards
from lib_adapters.hosts.webui.embeddings import Embeddings
from lib_adapters.hosts.webui.following import Following
from lib_adapters.hosts.webui.hashes import Hashes
from lib_adapters.hosts.webui.hypernets import KIND as HYPERNET
from lib_adapters.hosts.webui.hypernets import Hypernets
from lib_adapters.hosts.webui.names import Names
from lib_adapters.hosts.webui.nested_jobs import NestedJobs
from lib_adapters.hosts.webui.rounds import Round, Rounds, state
from lib_adapters.hosts.webui.voice import Voice
from lib_adapters.prompt.aesthetic import KIND as AESTHETIC
from lib_adapters.prompt.tags import Tag
from lib_adapters.session import Report, Request


class Runtime:
    """The only memory of the extension."""

    def __init__(self) -> None:
        self.cards = Cards(self._rescan)
        self.names: Names[Adapter] = Names(
            settings.folders, self.cards.catalogue.about, open_adapter, first=settings.taken_first
        )
        self.hashes = Hashes(self.names)
        self.hypernets = Hypernets()
        self.aesthetics = Aesthetics()
        self._others: dict[str, Hypernets | Aesthetics] = {HYPERNET: self.hypernets, AESTHETIC: self.aesthetics}
        self._rounds = Rounds(self.names, self.cards.presets.presets)
        self._voice = Voice("Lyco problems")
        self._applying = Applying()
        self._embeddings = Embeddings()
        self._builtin_differences = BuiltinDifferences()
        self._jobs = NestedJobs(self._told)
        self._data: wanted.Data | None = None  # that the last call was for
        self._lone: dict[str, Sequence[Any]] = {}  # by kind: the last call that had nothing of a picture behind it
        self._lock = threading.RLock()
        self._following = Following(self._applying, self._voice, self._broke, self._lock)

    def activate(self, kind: str, p: Any, params: Sequence[Any]) -> None:
        """What the host calls for each kind of tag. Never raises: an exception would only hide what went wrong."""
        with self._lock:
            try:
                self._jobs.enter(p)
                if (other := self._others.get(kind)) is not None:
                    other.activate(p, params)
                    self.cards.used(other.used)
                else:
                    self._reconcile(kind, p, params)
            except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
                self._failed(p, error)

    def denoising(self, params: Any) -> None:
        """The host is about to run its denoiser. Never raises."""
        with self._lock:
            self._following.denoising(params)

    def finished(self, p: Any) -> None:
        """The picture is drawn; weights can wait for the next one."""
        with self._lock:
            self._jobs.leave(p)
            self._following.end()

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
    def report(self) -> Report:
        """Of what is active now."""
        return self._applying.report

    def told(self) -> dict[str, Any]:
        """Return the report of the last job for the tab: lines, problems, and a table for each adapter."""
        return self._jobs.report()

    def _told(self) -> dict[str, Any]:
        voices = [self._voice, *(other.voice for other in self._others.values())]
        lines = [line for one in voices for line in one.lines]
        problems = [line for one in voices for line in one.problems]
        return report_of(self.report, lines, problems, self.hypernets.reports)

    def restore(self) -> None:
        """The models as if we had never been there."""
        with self._lock:
            self._leave()
            self._applying.leave()
            if (model := host.current_model()) is not None:
                self._embeddings.sync(model, ())
            self._voice.forget()

    def _leave(self) -> None:
        self._following.end()
        self._applying.take_off()
        for other in self._others.values():
            other.restore()

    def _reconcile(self, kind: str, p: Any, params: Sequence[Any]) -> None:
        kinds = ("lyco", "lora") if settings.handles_lora() else ("lyco",)
        self._data = data = wanted.data_of(p, kind, params, self._data)
        model = host.current_model()
        if data is None and self._following.goes_on(model):
            return
        now = self._rounds.of(p, kinds, self._all(kind, params, data))
        self._following.begin(p if data is not None else None, now, model)
        if data is not None:
            infotext.add_to_prompts(p, now.defaults, now.drawn)
        if model is None:
            return
        self._applying.share(kinds, data)
        report = self._applying.put_on(model, now)
        if data is not None:
            infotext.write_choices(p, kinds)
            now.write_texts(p)
            self.cards.used(one.adapter.path for _, one in self._applied(now))
            self._mark(p, kinds, data, state(now, report))
            handled = {request.adapter.name for tag, request in self._applied(now) if tag.kind == "lora"}
            now.notes += self._builtin_differences.notes(p, (one for one in report.adapters if one.name in handled))
        now.notes += self._embeddings.sync(model, [request.adapter for request in now.requests])
        self._tell(p, now, kinds)
        infotext.write(p, [(tag, self.hashes.short(one.adapter)) for tag, one in self._applied(now)])

    def _mark(self, p: Any, kinds: Sequence[str], data: wanted.Data, text: str) -> None:
        """The other pass's data too: the host may make its conditioning now, and keeps the data itself as the key."""
        make = host.module("extra_networks").ExtraNetworkParams
        wanted.mark(data, text, make)
        for other in wanted.all_data(p):
            if other is not data and not wanted.is_marked(other):
                wanted.mark(other, state(self._rounds.of(p, kinds, other), Report()), make)

    def _all(self, kind: str, params: Sequence[Any], data: wanted.Data | None) -> Mapping[str, Sequence[Any]]:
        """The parameters of both kinds."""
        if data is not None:
            return data
        self._lone[kind] = list(params)
        return self._lone

    def _applied(self, now: Round) -> list[tuple[Tag, Request]]:
        unused = {one.name for one in self.report.adapters if one.error}
        pairs = zip(now.tags, now.requests, strict=True)
        return [(tag, request) for tag, request in pairs if request.adapter.name not in unused]

    def _tell(self, p: Any, now: Round, kinds: Sequence[str]) -> None:
        problems = list(now.problems)
        problems += [one.line() for one in self.report.adapters if one.incomplete]
        plain = [] if settings.negative_tags() else wanted.in_negative(p, kinds)
        problems += [f"{text} stands in the negative prompt, where tags are plain words." for text in plain]
        lines = [one.line() for one in self.report.adapters if not one.incomplete]
        lines += [f"{one.name}: {note}" for one in self.report.adapters for note in one.notes] + now.notes
        self._voice.say(p, problems, lines)

    def _failed(self, p: Any, error: Exception) -> None:
        """What was active before is not what this picture asks for: nothing is better than that."""
        self._give_up(p, error, "no adapter was applied")

    def _broke(self, p: Any, error: Exception) -> None:
        """In the middle of a picture."""
        self._give_up(p, error, "from some step on no adapter was applied")

    def _give_up(self, p: Any, error: Exception, what: str) -> None:
        host.module("errors").report("LyCORIS: applying adapters failed", exc_info=True)
        self._leave()
        make = host.module("extra_networks").ExtraNetworkParams
        for data in wanted.all_data(p):  # conditionings with this key must not be taken for those with adapters
            wanted.mark(data, what, make)
            if wanted.is_marked(data, AESTHETIC):
                wanted.mark(data, what, make, AESTHETIC)
        reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
        self._voice.say(p, [f"LyCORIS: {what} ({reason})."], [])
