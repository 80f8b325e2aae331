"""A picture is followed while the host draws it: its steps, whose text is encoded, and models that come in between.

A refiner comes in one of three ways (the same object overwritten, a new one, one that is in memory already), with a
call that has nothing behind it or with none. Its texts are encoded anew before it runs, so adapters go onto it then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import nn

from lib_adapters.hosts.webui import host
from lib_adapters.hosts.webui.applying import Applying, others_loaded
from lib_adapters.hosts.webui.denoising import moment_of
from lib_adapters.hosts.webui.nested_jobs import job_start
from lib_adapters.hosts.webui.rounds import Round
from lib_adapters.hosts.webui.sides import spoken
from lib_adapters.hosts.webui.voice import Voice
from lib_adapters.hosts.webui.voices import Voices
from lib_adapters.patching.report import LOST
from lib_adapters.session import Session

Failed = Callable[[Any, Exception], None]


class Following:
    def __init__(self, applying: Applying, voice: Voice, failed: Failed, lock: threading.RLock) -> None:
        self._applying, self._voice, self._failed, self._lock = applying, voice, failed, lock
        self._voices = Voices(self._listen)
        self._now = Round()  # what the picture that is drawn asks for
        self._job: Any = None  # the host's, while it samples
        self._began: object = None  # when the host began it
        self._run: Session | None = None  # the one that has run, and the one of which it is said
        self._said: Session | None = None

    def begin(self, job: Any, now: Round, model: nn.Module | None) -> None:
        """`job`: None for a call that has nothing of a picture behind it."""
        self.end()
        self._job, self._now, self._began, self._said = job, now, job_start(), None
        if job is None or model is None or not now.requests:
            return
        if now.speaks:
            self._voices.put_on(model)
        for other in others_loaded(model) if getattr(job, "refiner_checkpoint_info", None) is not None else ():
            self._voices.put_on(other)

    def end(self) -> None:
        """The picture is drawn, or will never be."""
        self._tell()
        self._job = self._run = None
        self._voices.take_off()

    def goes_on(self, model: nn.Module | None) -> bool:
        """Does the host load this model in the middle of the picture?

        It encodes an empty text with it next, for itself: so nothing is put on it before the picture's own texts.
        """
        if self._job is None or not getattr(host.module("shared").state, "job", "") or self._began != job_start():
            return False
        if model is not None and self._now.requests:
            self._voices.put_on(model)
        return True

    def denoising(self, params: Any) -> None:
        """The host is about to run its denoiser. Never raises."""
        model, job = host.current_model(), self._job
        if job is None or model is None or not self._now.requests:
            return
        try:
            self._tell()
            session = self._applying.sure(model, self._now)
            if session is not None and session.moves:
                session.at(moment_of(params, job), self._now.rows)
                self._run = session
        except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
            self._failed(job, error)

    def _tell(self) -> None:
        """How strengths are followed, once: it is known when the denoiser has run."""
        if self._run is not None and self._run is not self._said:
            self._voice.late(self._job, self._run.report.motion)
            self._said = self._run
        if self._run is not None and self._run.report.lost:
            self._voice.late(self._job, LOST.removesuffix("."))
        for one in self._run.report.adapters if self._run is not None else ():
            if one.out_of_range and one.line() not in self._voice.lines:  # detected only in a later step
                self._voice.add(self._job, one.line(), problem=True)

    def _listen(self, model: nn.Module, texts: Any) -> None:
        """Before the host encodes texts, and with None afterwards. Never raises."""
        with self._lock:
            if self._job is None or model is not host.current_model() or not _of_picture(texts):
                return
            try:
                session = self._applying.session(model) if texts is None else self._applying.sure(model, self._now)
                if session is not None:
                    session.speak(None if texts is None else spoken(texts))
            except Exception as error:  # noqa: BLE001 - as in `denoising`
                self._failed(self._job, error)


def _of_picture(texts: Any) -> bool:
    """The host's own empty text is a bare list."""
    return texts is None or hasattr(texts, "is_negative_prompt")
