"""`<aesthetic:...>` and the accordion: which embedders of the present model lead the prompt, and what is said of it.

The host asks for conditioning after it has told us the tags, or not at all where it has it in its cache.
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lib_adapters.catalogue import About
from lib_adapters.conditioning.aesthetic import Aesthetic, open_aesthetic
from lib_adapters.conditioning.aesthetic_steering import Progress, Steered, Steerer
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.webui import host, settings, wanted
from lib_adapters.hosts.webui.leading import Lead, Listener, Wish
from lib_adapters.hosts.webui.names import Names
from lib_adapters.hosts.webui.projections import Place, Projections
from lib_adapters.hosts.webui.rounds import BATCH
from lib_adapters.hosts.webui.voice import Voice
from lib_adapters.prompt.aesthetic import KIND, AestheticTag, Parsed, parse

MOST_TOLD = 64


class Interrupted(Exception):
    """The user wants the picture no more."""


class Aesthetics:
    """Nothing is on a model but while a picture wants it."""

    def __init__(self) -> None:
        self.names: Names[Aesthetic] = Names(
            lambda: {KIND: settings.aesthetic_folders()}, lambda _: About("", ""), open_aesthetic, "aesthetic embedding"
        )
        self.voice = Voice("Aesthetic problems")
        self.used: list[Path] = []  # the files of the last call
        self._projections = Projections()
        self._steerer = Steerer()
        self._on: list[tuple[weakref.ref[Any], Lead]] = []  # by embedder
        self._chosen: list[tuple[weakref.ref[Any], str]] = []  # by picture, the tag that its accordion stands for
        self._present: weakref.ref[Any] | None = None  # the picture that is being made
        self._waiting: list[Wish] = []  # what is not said of it yet
        self._told: OrderedDict[str, str] = OrderedDict()  # for conditioning that comes out of the host's cache

    def choose(self, p: Any, tag: str) -> None:
        """What this picture's accordion says; a tag in the prompt wins over it."""
        others = [(ref, text) for ref, text in self._chosen if ref() is not None and ref() is not p]
        self._chosen = [*others, (weakref.ref(p), tag)] if tag else others

    def activate(self, p: Any, params: Sequence[Any]) -> None:
        self.take_off()
        parsed = self._asked(p, params)
        problems, notes = list(parsed.problems), list[str]()
        model = host.current_model()
        found = [] if model is None else self._found(model, parsed.tags, problems, notes)
        self._present, self._waiting = weakref.ref(p), [wish for _, wish in found]
        _mark(p, lambda given: self._state(model, self._asked(p, given).tags))
        self._put_on(found)
        self.used = [wish.aesthetic.path for _, wish in found]
        self.voice.say(p, [*problems, *_misplaced(p)], notes)

    def finished(self, p: Any) -> None:
        """The host had this conditioning in its cache: what was said when it was made is said again."""
        for wish in self._waiting if self._present is not None and self._present() is p else ():
            if line := self._told.get(_key(p, wish)):
                self.voice.add(p, line)

    def restore(self) -> None:
        self.take_off()
        self.voice.forget()

    def take_off(self) -> None:
        while self._on:
            embedder, lead = self._on[-1]
            lead.take_off(embedder())
            self._on.pop()

    def _asked(self, p: Any, params: Sequence[Any]) -> Parsed:
        text = wanted.text_of(KIND, params)
        return parse(text or next((tag for ref, tag in self._chosen if ref() is p), ""))

    def _found(
        self, model: nn.Module, tags: Sequence[AestheticTag], problems: list[str], notes: list[str]
    ) -> list[tuple[Place, Wish]]:
        found = []
        for tag in (tag for tag in tags if tag.options.weight):
            try:
                file = self.names.find(KIND, tag.name)
                place = self._projections.place(model, file.opened)
            except AdapterError as error:
                problems.append(f"{tag.text}: {error}")
                continue
            found.append((place, Wish(file.opened, tag.options, place.projection, tag.text)))
            notes += [file.notice] if file.notice else []
        return found

    def _state(self, model: nn.Module | None, tags: Sequence[AestheticTag]) -> str:
        found = [] if model is None else self._found(model, tags, [], [])
        return " ".join(f"{wish.state} {settings.clip_folder()}" for _, wish in found)

    def _put_on(self, found: Sequence[tuple[Place, Wish]]) -> None:
        listener = Listener(self._said, _progress, self._failed)
        embedders = {id(place.embedder): place.embedder for place, _ in found}
        for embedder in embedders.values():
            wishes = [wish for place, wish in found if place.embedder is embedder]
            self._on.append((weakref.ref(embedder), Lead(wishes, self._steerer, listener)))
            self._on[-1][1].put_on(embedder)

    def _said(self, wish: Wish, steered: Steered) -> None:
        """Of a long prompt the first part is told."""
        p = self._present() if self._present is not None else None
        if wish not in self._waiting:
            return
        self._waiting.remove(wish)
        options = wish.options
        line = (
            f"{wish.aesthetic.name} (aesthetic gradients): {options.steps} steps, weight {options.weight:g}, "
            f"cosine {steered.before:.2f} -> {steered.after:.2f}"
        )
        self._told[_key(p, wish)] = line
        while len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        self.voice.add(p, line)

    def _failed(self, error: Exception) -> None:
        """The plain text must not be taken for the led one: the host keeps it under this picture's data."""
        p = self._present() if self._present is not None else None
        make = host.module("extra_networks").ExtraNetworkParams
        for data in wanted.all_data(p):
            wanted.mark(data, f"not led {time.monotonic_ns()}", make, KIND)
        if isinstance(error, Interrupted):
            return
        if not isinstance(error, AdapterError):
            host.module("errors").report("LyCORIS: aesthetic gradients failed", exc_info=True)
        reason = str(error).strip().rstrip(".") or type(error).__name__
        self.voice.add(p, f"Aesthetic gradients: the prompt was left as it is ({reason}).", problem=True)


def _progress(wish: Wish) -> Progress:
    state = host.module("shared").state
    before = getattr(state, "textinfo", None)

    def done(step: int) -> None:
        if getattr(state, "interrupted", False) or getattr(state, "skipped", False):
            raise Interrupted
        last = step == wish.options.steps
        state.textinfo = before if last else f"{wish.aesthetic.name}: step {step} of {wish.options.steps}"

    return done


def _mark(p: Any, state: Callable[[Sequence[Any]], str]) -> None:
    """Once for each pass of each batch, before the host looks for conditioning; it keeps the data itself as the key."""
    make = host.module("extra_networks").ExtraNetworkParams
    for data in wanted.all_data(p):
        if not wanted.is_marked(data, KIND):
            wanted.mark(data, state(data.get(KIND, ())), make, KIND)


def _key(p: Any, wish: Wish) -> str:
    """What the host's own key for conditioning is made of, as far as the line depends on it."""
    prompts = getattr(p, "hr_prompts" if getattr(p, "is_hr_pass", False) else "prompts", None) or [""]
    data = [(kind, [one.items for one in given]) for data in wanted.all_data(p)[:1] for kind, given in data.items()]
    title = getattr(getattr(host.current_model(), "sd_checkpoint_info", None), "title", "")
    return f"{wish.state} {prompts[0]} {sorted(data)} {title} {host.option('CLIP_stop_at_last_layers', 1)}"


def _misplaced(p: Any) -> list[str]:
    meanings = {tuple((tag.name, tag.options) for tag in parse(text).tags) for text in wanted.of_batch(p)}
    negative = (getattr(p, "negative_prompts", None) or [""])[:1]
    problems = [BATCH.replace("adapters", "aesthetic embeddings")] if len(meanings) > 1 else []
    problems += wanted.unfollowed(p, KIND, "an aesthetic embedding")
    return problems + [
        f"{tag.text} stands in the negative prompt, where tags are plain words."
        for text in negative
        for tag in parse(text).tags
    ]
