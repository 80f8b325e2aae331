"""The handler of `<aesthetic:...>` tags and of the accordion: optimizes the positive prompt's embedding.

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

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding, open_aesthetic
from lib_adapters.conditioning.aesthetic_gradients import AestheticOptimizer, OptimizedText, ProgressCallback
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.webui import processing, settings, webui_modules
from lib_adapters.hosts.webui.aesthetic_encoder import AestheticRequest, GuidanceCallbacks, GuidedEncoder
from lib_adapters.hosts.webui.clip_projection import EncoderMatch, ProjectionLoader
from lib_adapters.hosts.webui.image_job import BATCH_DIFFERS
from lib_adapters.hosts.webui.messages import MessageLog
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library import FileInfo
from lib_adapters.prompt.aesthetic_tag import KIND, AestheticTag, ParsedAesthetics, parse

MAX_CACHED_MESSAGES = 64


class Interrupted(Exception):
    """The user wants the picture no more."""


class AestheticHandler:
    """Nothing is on a model but while a picture wants it."""

    def __init__(self) -> None:
        self.resolver: NameResolver[AestheticEmbedding] = NameResolver(
            lambda: {KIND: settings.aesthetic_folders()},
            lambda _: FileInfo("", ""),
            open_aesthetic,
            "aesthetic embedding",
        )
        self.message_log = MessageLog("Aesthetic problems")
        self.used_files: list[Path] = []  # the files of the last call
        self._projection_loader = ProjectionLoader()
        self._optimizer = AestheticOptimizer()
        self._installed: list[tuple[weakref.ref[Any], GuidedEncoder]] = []  # by embedder
        self._script_tags: list[tuple[weakref.ref[Any], str]] = []  # by picture, the tag that its accordion stands for
        self._current_p: weakref.ref[Any] | None = None  # the picture that is being made
        self._unreported: list[AestheticRequest] = []  # what is not said of it yet
        self._cached_messages: OrderedDict[str, str] = (
            OrderedDict()
        )  # for conditioning that comes out of the host's cache

    def set_script_tag(self, p: Any, tag: str) -> None:
        """What this picture's accordion says; a tag in the prompt wins over it."""
        others = [(ref, text) for ref, text in self._script_tags if ref() is not None and ref() is not p]
        self._script_tags = [*others, (weakref.ref(p), tag)] if tag else others

    def activate(self, p: Any, params: Sequence[Any]) -> None:
        self.remove()
        parsed = self._parsed_tags(p, params)
        problems, notes = list(parsed.problems), list[str]()
        model = webui_modules.current_model()
        found = [] if model is None else self._resolve(model, parsed.tags, problems, notes)
        self._current_p, self._unreported = weakref.ref(p), [spec for _, spec in found]
        _mark(p, lambda given: self._cache_key(model, self._parsed_tags(p, given).tags))
        self._install(found)
        self.used_files = [spec.aesthetic.path for _, spec in found]
        self.message_log.start(p, [*problems, *_misplaced(p)], notes)

    def repeat_cached_messages(self, p: Any) -> None:
        """The host had this conditioning in its cache: what was said when it was made is said again."""
        for spec in self._unreported if self._current_p is not None and self._current_p() is p else ():
            if line := self._cached_messages.get(_key(p, spec)):
                self.message_log.add(p, line)

    def restore(self) -> None:
        self.remove()
        self.message_log.clear()

    def remove(self) -> None:
        while self._installed:
            embedder, lead = self._installed[-1]
            lead.remove(embedder())
            self._installed.pop()

    def _parsed_tags(self, p: Any, params: Sequence[Any]) -> ParsedAesthetics:
        text = processing.tag_text(KIND, params)
        return parse(text or next((tag for ref, tag in self._script_tags if ref() is p), ""))

    def _resolve(
        self, model: nn.Module, tags: Sequence[AestheticTag], problems: list[str], notes: list[str]
    ) -> list[tuple[EncoderMatch, AestheticRequest]]:
        found = []
        for tag in (tag for tag in tags if tag.options.weight):
            try:
                file = self.resolver.resolve(KIND, tag.name)
                place = self._projection_loader.match(model, file.value)
            except AdapterError as error:
                problems.append(f"{tag.text}: {error}")
                continue
            found.append((place, AestheticRequest(file.value, tag.options, place.projection, tag.text)))
            notes += [file.notice] if file.notice else []
        return found

    def _cache_key(self, model: nn.Module | None, tags: Sequence[AestheticTag]) -> str:
        found = [] if model is None else self._resolve(model, tags, [], [])
        return " ".join(f"{spec.cache_key} {settings.clip_folder()}" for _, spec in found)

    def _install(self, found: Sequence[tuple[EncoderMatch, AestheticRequest]]) -> None:
        listener = GuidanceCallbacks(self._on_optimized, _progress, self._on_error)
        embedders = {id(place.embedder): place.embedder for place, _ in found}
        for embedder in embedders.values():
            wishes = [spec for place, spec in found if place.embedder is embedder]
            self._installed.append((weakref.ref(embedder), GuidedEncoder(wishes, self._optimizer, listener)))
            self._installed[-1][1].install(embedder)

    def _on_optimized(self, spec: AestheticRequest, steered: OptimizedText) -> None:
        """Of a long prompt the first part is told."""
        p = self._current_p() if self._current_p is not None else None
        if spec not in self._unreported:
            return
        self._unreported.remove(spec)
        options = spec.options
        line = (
            f"{spec.aesthetic.name} (aesthetic gradients): {options.steps} steps, weight {options.weight:g}, "
            f"cosine {steered.cosine_before:.2f} -> {steered.cosine_after:.2f}"
        )
        self._cached_messages[_key(p, spec)] = line
        while len(self._cached_messages) > MAX_CACHED_MESSAGES:
            self._cached_messages.popitem(last=False)
        self.message_log.add(p, line)

    def _on_error(self, error: Exception) -> None:
        """The plain text must not be taken for the led one: the host keeps it under this picture's data."""
        p = self._current_p() if self._current_p is not None else None
        make = webui_modules.import_module("extra_networks").ExtraNetworkParams
        for data in processing.all_network_data(p):
            processing.set_cache_key(data, f"not led {time.monotonic_ns()}", make, KIND)
        if isinstance(error, Interrupted):
            return
        if not isinstance(error, AdapterError):
            webui_modules.import_module("errors").report("LyCORIS: aesthetic gradients failed", exc_info=True)
        reason = str(error).strip().rstrip(".") or type(error).__name__
        self.message_log.add(p, f"Aesthetic gradients: the prompt was left as it is ({reason}).", problem=True)


def _progress(spec: AestheticRequest) -> ProgressCallback:
    state = webui_modules.import_module("shared").state
    before = getattr(state, "textinfo", None)

    def done(step: int) -> None:
        if getattr(state, "interrupted", False) or getattr(state, "skipped", False):
            raise Interrupted
        last = step == spec.options.steps
        state.textinfo = before if last else f"{spec.aesthetic.name}: step {step} of {spec.options.steps}"

    return done


def _mark(p: Any, state: Callable[[Sequence[Any]], str]) -> None:
    """Once for each pass of each batch, before the host looks for conditioning; it keeps the data itself as the key."""
    make = webui_modules.import_module("extra_networks").ExtraNetworkParams
    for data in processing.all_network_data(p):
        if not processing.has_cache_key(data, KIND):
            processing.set_cache_key(data, state(data.get(KIND, ())), make, KIND)


def _key(p: Any, spec: AestheticRequest) -> str:
    """What the host's own key for conditioning is made of, as far as the line depends on it."""
    prompts = getattr(p, "hr_prompts" if getattr(p, "is_hr_pass", False) else "prompts", None) or [""]
    data = [
        (kind, [one.items for one in given])
        for data in processing.all_network_data(p)[:1]
        for kind, given in data.items()
    ]
    title = getattr(getattr(webui_modules.current_model(), "sd_checkpoint_info", None), "title", "")
    return f"{spec.cache_key} {prompts[0]} {sorted(data)} {title} {webui_modules.opt('CLIP_stop_at_last_layers', 1)}"


def _misplaced(p: Any) -> list[str]:
    meanings = {tuple((tag.name, tag.options) for tag in parse(text).tags) for text in processing.batch_prompts(p)}
    negative = (getattr(p, "negative_prompts", None) or [""])[:1]
    problems = [BATCH_DIFFERS.replace("adapters", "aesthetic embeddings")] if len(meanings) > 1 else []
    problems += processing.unsupported_editing(p, KIND, "an aesthetic embedding")
    return problems + [
        f"{tag.text} stands in the negative prompt, where tags are plain words."
        for text in negative
        for tag in parse(text).tags
    ]
