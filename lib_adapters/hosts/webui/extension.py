"""The extension: brings the adapters on the loaded model in line with the tags of each job.

The host calls at every load with nothing, once per batch, again for the second pass, again after an exception, from
other threads, and sometimes not at all. So each call works out everything that is wanted now, and makes it so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.hosts.tab.report_json import report_json
from lib_adapters.hosts.webui import infotext, processing, settings, webui_modules
from lib_adapters.hosts.webui.aesthetic_handler import AestheticHandler
from lib_adapters.hosts.webui.builtin_lora import BuiltinDifferences
from lib_adapters.hosts.webui.embeddings import BundledEmbeddings
from lib_adapters.hosts.webui.hypernetwork_handler import KIND as HYPERNET
from lib_adapters.hosts.webui.hypernetwork_handler import HypernetworkHandler
from lib_adapters.hosts.webui.image_job import ImageJob, ImageJobBuilder, cache_key
from lib_adapters.hosts.webui.infotext import AdapterHashes
from lib_adapters.hosts.webui.library_backend import LibraryBackend
from lib_adapters.hosts.webui.messages import MessageLog
from lib_adapters.hosts.webui.model_sessions import ModelSessions
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.hosts.webui.nested_jobs import NestedJobs
from lib_adapters.hosts.webui.sampling import SamplingTracker
from lib_adapters.prompt.aesthetic_tag import KIND as AESTHETIC_MESSAGE
from lib_adapters.prompt.tags import Tag
from lib_adapters.session import Report, Request


class Extension:
    """The only memory of the extension."""

    def __init__(self) -> None:
        self.library_backend = LibraryBackend(self._rescan)
        self.resolver: NameResolver[Adapter] = NameResolver(
            settings.adapter_folders,
            self.library_backend.library.file_info,
            open_adapter,
            preferred_folders=settings.preferred_folders,
        )
        self.hashes = AdapterHashes(self.resolver)
        self.hypernetworks = HypernetworkHandler()
        self.aesthetics = AestheticHandler()
        self._handlers: dict[str, HypernetworkHandler | AestheticHandler] = {
            HYPERNET: self.hypernetworks,
            AESTHETIC_MESSAGE: self.aesthetics,
        }
        self._job_builder = ImageJobBuilder(self.resolver, self.library_backend.preset_file.presets)
        self._message_log = MessageLog("Lyco problems")
        self._model_sessions = ModelSessions()
        self._embeddings = BundledEmbeddings()
        self._builtin_differences = BuiltinDifferences()
        self._nested_jobs = NestedJobs(self._current_report)
        self._last_data: processing.NetworkData | None = None  # that the last call was for
        self._params_without_job: dict[
            str, Sequence[Any]
        ] = {}  # by kind: the last call that had nothing of a picture behind it
        self._lock = threading.RLock()
        self._sampling = SamplingTracker(self._model_sessions, self._message_log, self._on_sampling_error, self._lock)

    def activate(self, kind: str, p: Any, params: Sequence[Any]) -> None:
        """What the host calls for each kind of tag. Never raises: an exception would only hide what went wrong."""
        with self._lock:
            try:
                self._nested_jobs.start(p)
                if (other := self._handlers.get(kind)) is not None:
                    other.activate(p, params)
                    self.library_backend.record_use(other.used_files)
                else:
                    self._reconcile(kind, p, params)
            except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
                self._on_error(p, error)

    def on_cfg_denoiser(self, params: Any) -> None:
        """The host is about to run its denoiser. Never raises."""
        with self._lock:
            self._sampling.on_cfg_denoiser(params)

    def end_job(self, p: Any) -> None:
        """The picture is drawn; weights can wait for the next one."""
        with self._lock:
            self._nested_jobs.finish(p)
            self._sampling.stop()

    def _rescan(self) -> None:
        self.resolver.rescan()
        for other in self._handlers.values():
            other.resolver.rescan()

    def on_tag_released(self, kind: str) -> None:
        """The user has given this kind of tag back to the host."""
        if kind == HYPERNET and self.hypernetworks.reports:
            with self._lock:
                self.hypernetworks.restore()

    @property
    def report(self) -> Report:
        """Of what is active now."""
        return self._model_sessions.report

    def last_job_report(self) -> dict[str, Any]:
        """Return the report of the last job for the tab: lines, problems, and a table for each adapter."""
        return self._nested_jobs.report()

    def _current_report(self) -> dict[str, Any]:
        logs = [self._message_log, *(other.message_log for other in self._handlers.values())]
        lines = [line for one in logs for line in one.messages]
        problems = [line for one in logs for line in one.problems]
        return report_json(self.report, lines, problems, self.hypernetworks.reports)

    def restore(self) -> None:
        """The models as if we had never been there."""
        with self._lock:
            self._restore_models()
            self._model_sessions.shutdown()
            if (model := webui_modules.current_model()) is not None:
                self._embeddings.sync(model, ())
            self._message_log.clear()

    def _restore_models(self) -> None:
        self._sampling.stop()
        self._model_sessions.restore()
        for other in self._handlers.values():
            other.restore()

    def _reconcile(self, kind: str, p: Any, params: Sequence[Any]) -> None:
        kinds = ("lyco", "lora") if settings.handles_lora() else ("lyco",)
        self._last_data = data = processing.network_data_for(p, kind, params, self._last_data)
        model = webui_modules.current_model()
        if data is None and self._sampling.is_mid_job(model):
            return
        now = self._job_builder.build(p, kinds, self._params_of_all_kinds(kind, params, data))
        self._sampling.start(p if data is not None else None, now, model)
        if data is not None:
            infotext.add_to_prompts(p, now.default_tags, now.sampled_texts)
        if model is None:
            return
        self._model_sessions.detect_builtin(kinds, data)
        report = self._model_sessions.apply(model, now)
        if data is not None:
            infotext.write_settings(p, kinds)
            now.write_prompts(p)
            self.library_backend.record_use(one.adapter.path for _, one in self._applied(now))
            self._set_cache_keys(p, kinds, data, cache_key(now, report))
            handled = {request.adapter.name for tag, request in self._applied(now) if tag.kind == "lora"}
            now.notes += self._builtin_differences.notes(p, (one for one in report.adapters if one.name in handled))
        now.notes += self._embeddings.sync(model, [request.adapter for request in now.requests])
        self._log_messages(p, now, kinds)
        infotext.write_hashes(p, [(tag, self.hashes.short_hash(one.adapter)) for tag, one in self._applied(now)])

    def _set_cache_keys(self, p: Any, kinds: Sequence[str], data: processing.NetworkData, text: str) -> None:
        """The other pass's data too: the host may make its conditioning now, and keeps the data itself as the key."""
        make = webui_modules.import_module("extra_networks").ExtraNetworkParams
        processing.set_cache_key(data, text, make)
        for other in processing.all_network_data(p):
            if other is not data and not processing.has_cache_key(other):
                processing.set_cache_key(other, cache_key(self._job_builder.build(p, kinds, other), Report()), make)

    def _params_of_all_kinds(
        self, kind: str, params: Sequence[Any], data: processing.NetworkData | None
    ) -> Mapping[str, Sequence[Any]]:
        """The parameters of both kinds."""
        if data is not None:
            return data
        self._params_without_job[kind] = list(params)
        return self._params_without_job

    def _applied(self, now: ImageJob) -> list[tuple[Tag, Request]]:
        unused = {one.name for one in self.report.adapters if one.error}
        pairs = zip(now.tags, now.requests, strict=True)
        return [(tag, request) for tag, request in pairs if request.adapter.name not in unused]

    def _log_messages(self, p: Any, now: ImageJob, kinds: Sequence[str]) -> None:
        problems = list(now.problems)
        problems += [one.summary() for one in self.report.adapters if one.incomplete]
        plain = [] if settings.negative_tags_enabled() else processing.negative_tag_texts(p, kinds)
        problems += [f"{text} stands in the negative prompt, where tags are plain words." for text in plain]
        lines = [one.summary() for one in self.report.adapters if not one.incomplete]
        lines += [f"{one.name}: {note}" for one in self.report.adapters for note in one.notes] + now.notes
        self._message_log.start(p, problems, lines)

    def _on_error(self, p: Any, error: Exception) -> None:
        """What was active before is not what this picture asks for: nothing is better than that."""
        self._abort(p, error, "no adapter was applied")

    def _on_sampling_error(self, p: Any, error: Exception) -> None:
        """In the middle of a picture."""
        self._abort(p, error, "from some step on no adapter was applied")

    def _abort(self, p: Any, error: Exception, what: str) -> None:
        webui_modules.import_module("errors").report("LyCORIS: applying adapters failed", exc_info=True)
        self._restore_models()
        make = webui_modules.import_module("extra_networks").ExtraNetworkParams
        for data in processing.all_network_data(
            p
        ):  # conditionings with this key must not be taken for those with adapters
            processing.set_cache_key(data, what, make)
            if processing.has_cache_key(data, AESTHETIC_MESSAGE):
                processing.set_cache_key(data, what, make, AESTHETIC_MESSAGE)
        reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
        self._message_log.start(p, [f"LyCORIS: {what} ({reason})."], [])
