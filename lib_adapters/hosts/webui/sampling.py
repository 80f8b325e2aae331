"""Tracks a running job: sampling steps, text encoding and refiner switches.

A refiner comes in one of three ways (the same object overwritten, a new one, one that is in memory already), with a
call that has nothing behind it or with none. Its texts are encoded anew before it runs, so adapters go onto it then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lib_adapters.hosts.webui import webui_modules
from lib_adapters.hosts.webui.conditioning_hook import ConditioningHook
from lib_adapters.hosts.webui.image_job import ImageJob
from lib_adapters.hosts.webui.messages import MessageLog
from lib_adapters.hosts.webui.model_sessions import ModelSessions, other_loaded_models
from lib_adapters.hosts.webui.nested_jobs import job_start
from lib_adapters.hosts.webui.prompt_rows import decode_row_mark
from lib_adapters.patching.report import ROWS_UNRESOLVED
from lib_adapters.prompt.schedule import SamplingStep
from lib_adapters.session import Session

OnError = Callable[[Any, Exception], None]


class SamplingTracker:
    def __init__(
        self, model_sessions: ModelSessions, message_log: MessageLog, on_error: OnError, lock: threading.RLock
    ) -> None:
        self._model_sessions, self._message_log, self._on_error, self._lock = (
            model_sessions,
            message_log,
            on_error,
            lock,
        )
        self._conditioning_hook = ConditioningHook(self._on_encode)
        self._image_job = ImageJob()  # what the picture that is drawn asks for
        self._p: Any = None  # the host's, while it samples
        self._job_started: object = None  # when the host began it
        self._session: Session | None = None  # the one that has run, and the one of which it is said
        self._reported_session: Session | None = None

    def start(self, p: Any, image_job: ImageJob, model: nn.Module | None) -> None:
        """`job`: None for a call that has nothing of a picture behind it."""
        self.stop()
        self._p, self._image_job, self._job_started, self._reported_session = p, image_job, job_start(), None
        if p is None or model is None or not image_job.requests:
            return
        if image_job.needs_row_encoding:
            self._conditioning_hook.install(model)
        for other in other_loaded_models(model) if getattr(p, "refiner_checkpoint_info", None) is not None else ():
            self._conditioning_hook.install(other)

    def stop(self) -> None:
        """The picture is drawn, or will never be."""
        self._log_late_messages()
        self._p = self._session = None
        self._conditioning_hook.remove()

    def is_mid_job(self, model: nn.Module | None) -> bool:
        """Does the host load this model in the middle of the picture?

        It encodes an empty text with it next, for itself: so nothing is put on it before the picture's own texts.
        """
        if (
            self._p is None
            or not getattr(webui_modules.import_module("shared").state, "job", "")
            or self._job_started != job_start()
        ):
            return False
        if model is not None and self._image_job.requests:
            self._conditioning_hook.install(model)
        return True

    def on_cfg_denoiser(self, params: Any) -> None:
        """The host is about to run its denoiser. Never raises."""
        model, job = webui_modules.current_model(), self._p
        if job is None or model is None or not self._image_job.requests:
            return
        try:
            self._log_late_messages()
            session = self._model_sessions.ensure_applied(model, self._image_job)
            if session is not None and session.is_dynamic:
                session.set_step(sampling_step(params, job), self._image_job.rows)
                self._session = session
        except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
            self._on_error(job, error)

    def _log_late_messages(self) -> None:
        """How strengths are followed, once: it is known when the denoiser has run."""
        if self._session is not None and self._session is not self._reported_session:
            self._message_log.add_once(self._p, self._session.report.schedule_note)
            self._reported_session = self._session
        if self._session is not None and self._session.report.rows_unresolved:
            self._message_log.add_once(self._p, ROWS_UNRESOLVED.removesuffix("."))
        for one in self._session.report.adapters if self._session is not None else ():
            if one.out_of_range and one.summary() not in self._message_log.messages:  # detected only in a later step
                self._message_log.add(self._p, one.summary(), problem=True)

    def _on_encode(self, model: nn.Module, texts: Any) -> None:
        """Before the host encodes texts, and with None afterwards. Never raises."""
        with self._lock:
            if self._p is None or model is not webui_modules.current_model() or not _is_job_text(texts):
                return
            try:
                session = (
                    self._model_sessions.session(model)
                    if texts is None
                    else self._model_sessions.ensure_applied(model, self._image_job)
                )
                if session is not None:
                    session.set_text_row(None if texts is None else decode_row_mark(texts))
            except Exception as error:  # noqa: BLE001 - as in `denoising`
                self._on_error(self._p, error)


def _is_job_text(texts: Any) -> bool:
    """The host's own empty text is a bare list."""
    return texts is None or hasattr(texts, "is_negative_prompt")


# The host's samplers as moments: where a picture is when its denoiser is about to run.
#
# The denoiser counts its own runs; samplers of second order run it twice a step, and the host's own number of the step
# lags behind. Samplers that count in timesteps (DDIM, PLMS, UniPC) hand over a timestep in the place of the noise.


def sampling_step(params: Any, p: Any) -> SamplingStep:
    """`params`: of the host's callback; `p`: of the job, for releases whose callback has no denoiser."""
    denoiser = getattr(params, "denoiser", None) or getattr(getattr(p, "sampler", None), "model_wrap_cfg", None)
    runs = int(getattr(denoiser, "total_steps", None) or params.total_sampling_steps or 1)
    steps = int(getattr(denoiser, "steps", None) or params.total_sampling_steps or runs)
    run = int(getattr(denoiser, "step", params.sampling_step) or 0)
    sigma, timestep = _noise(params.sigma, denoiser)
    return SamplingStep(min(run * steps // runs, steps - 1), steps, sigma, timestep, runs)


def _noise(given: Any, denoiser: Any) -> tuple[float | None, float | None]:
    """Sigma and timestep, either from the other; None for what cannot be told."""
    value = float(given.flatten()[0]) if isinstance(given, Tensor) and given.numel() else None
    if value is None:
        return None, None
    alphas = getattr(denoiser, "alphas", None)
    if isinstance(alphas, Tensor):
        alpha = float(alphas[min(len(alphas) - 1, max(0, int(value)))])
        return ((1 - alpha) / alpha) ** 0.5 if alpha > 0 else None, value
    return value, _timestep(value, given, getattr(denoiser, "inner_model", None))


def _timestep(sigma: float, given: Tensor, model: Any) -> float | None:
    sigmas = getattr(model, "sigmas", None)
    if not isinstance(sigmas, Tensor) or not len(sigmas):
        return None
    nearest = int((sigmas.to(given.device) - sigma).abs().argmin())
    return nearest * 999 / max(1, len(sigmas) - 1)
