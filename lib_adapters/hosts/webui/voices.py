"""The host encodes its texts: before each, the session is told whose it is.

In the place of the model's `get_learned_conditioning` while texts are marked (sides.py), as a bound method, so that a
copy of the model is bound to the copy.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from lib_adapters.hosts.webui.sides import row_of

ENCODE = "get_learned_conditioning"
Speak = Callable[[int | None], None]


class Voice:
    def __init__(self, speak: Speak, before: Any) -> None:
        self.speak: Speak | None = speak
        self.before = before  # another extension's, put there before

    def __deepcopy__(self, _: Any) -> Voice:
        return self

    def __call__(self, model: Any, texts: Any, *rest: Any, **named: Any) -> Any:
        encode = self.before or types.MethodType(getattr(type(model), ENCODE), model)
        if self.speak is None:  # taken off, but somebody has wrapped it in his own
            return encode(texts, *rest, **named)
        rows = {row_of(text) for text in texts if isinstance(text, str)}
        plain = copy.copy(texts)  # with all that the host hangs on it
        plain[:] = [text.lstrip(" ") if isinstance(text, str) else text for text in texts]  # SDXL looks for empty ones
        self.speak(min(rows) if len(rows) == 1 else None)
        try:
            return encode(plain, *rest, **named)
        finally:
            self.speak(None)


class Voices:
    """On one model at a time, weakly."""

    def __init__(self) -> None:
        self._on: tuple[weakref.ref[nn.Module], Voice] | None = None

    def put_on(self, model: nn.Module, speak: Speak) -> None:
        self.take_off()
        if not hasattr(type(model), ENCODE):
            return
        voice = Voice(speak, model.__dict__.get(ENCODE))
        model.__dict__[ENCODE] = types.MethodType(voice, model)
        self._on = weakref.ref(model), voice

    def take_off(self) -> None:
        if self._on is None:
            return
        (ref, voice), self._on = self._on, None
        voice.speak = None
        model = ref()
        if model is None or getattr(model.__dict__.get(ENCODE), "__func__", None) is not voice:
            return
        if voice.before is None:
            del model.__dict__[ENCODE]
        else:
            model.__dict__[ENCODE] = voice.before
