"""The host encodes its texts: before each, and after it, somebody is told.

In the place of a model's `get_learned_conditioning` while texts are marked (sides.py) or a refiner may come, as a bound
method, so that a copy of the model is bound to the copy.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

ENCODE = "get_learned_conditioning"
Listen = Callable[[nn.Module, Any], None]  # the texts, and None when they are encoded


class Ear:
    def __init__(self, listen: Listen, before: Any) -> None:
        self.listen: Listen | None = listen
        self.before = before  # another extension's, put there before

    def __deepcopy__(self, _: Any) -> Ear:
        return self

    def __call__(self, model: Any, texts: Any, *rest: Any, **named: Any) -> Any:
        encode = self.before or types.MethodType(getattr(type(model), ENCODE), model)
        if self.listen is None:  # taken off, but somebody has wrapped it in his own
            return encode(texts, *rest, **named)
        self.listen(model, texts)
        try:
            return encode(_without_marks(texts), *rest, **named)
        finally:
            if self.listen is not None:
                self.listen(model, None)


def _without_marks(texts: Any) -> Any:
    """The host looks for empty texts with SDXL. Its list has things of its own hanging on it."""
    if not isinstance(texts, list) or not any(isinstance(text, str) and text.startswith(" ") for text in texts):
        return texts
    plain = copy.copy(texts)
    plain[:] = [text.lstrip(" ") if isinstance(text, str) else text for text in texts]
    return plain


class Voices:
    """On some models, weakly."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._on: list[tuple[weakref.ref[nn.Module], Ear]] = []

    def put_on(self, model: nn.Module) -> None:
        """Safe to repeat."""
        if hasattr(type(model), ENCODE) and not any(_hears(model, ear) for _, ear in self._on):
            ear = Ear(self._listen, model.__dict__.get(ENCODE))
            self._on.append((weakref.ref(model), ear))
            model.__dict__[ENCODE] = types.MethodType(ear, model)

    def take_off(self) -> None:
        while self._on:
            ref, ear = self._on[-1]
            _take_off(ref(), ear)
            self._on.pop()


def _take_off(model: nn.Module | None, ear: Ear) -> None:
    ear.listen = None
    if model is None or not _hears(model, ear):
        return
    if ear.before is None:
        del model.__dict__[ENCODE]
    else:
        model.__dict__[ENCODE] = ear.before


def _hears(model: nn.Module, ear: Ear) -> bool:
    return getattr(model.__dict__.get(ENCODE), "__func__", None) is ear
