"""Hooks `get_learned_conditioning` to select the adapters of the prompt being encoded.

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

ENCODE_METHOD = "get_learned_conditioning"
OnEncode = Callable[[nn.Module, Any], None]  # the texts, and None when they are encoded


class EncodeOverride:
    def __init__(self, on_encode: OnEncode, previous: Any) -> None:
        self.on_encode: OnEncode | None = on_encode
        self.previous = previous  # another extension's, put there before

    def __deepcopy__(self, _: Any) -> EncodeOverride:
        return self

    def __call__(self, model: Any, texts: Any, *rest: Any, **named: Any) -> Any:
        encode = self.previous or types.MethodType(getattr(type(model), ENCODE_METHOD), model)
        if self.on_encode is None:  # taken off, but somebody has wrapped it in his own
            return encode(texts, *rest, **named)
        self.on_encode(model, texts)
        try:
            return encode(_without_marks(texts), *rest, **named)
        finally:
            if self.on_encode is not None:
                self.on_encode(model, None)


def _without_marks(texts: Any) -> Any:
    """The host looks for empty texts with SDXL. Its list has things of its own hanging on it."""
    if not isinstance(texts, list) or not any(isinstance(text, str) and text.startswith(" ") for text in texts):
        return texts
    plain = copy.copy(texts)
    plain[:] = [text.lstrip(" ") if isinstance(text, str) else text for text in texts]
    return plain


class ConditioningHook:
    """On some models, weakly."""

    def __init__(self, on_encode: OnEncode) -> None:
        self._on_encode = on_encode
        self._installed: list[tuple[weakref.ref[nn.Module], EncodeOverride]] = []

    def install(self, model: nn.Module) -> None:
        """Safe to repeat."""
        if hasattr(type(model), ENCODE_METHOD) and not any(
            _is_installed(model, override) for _, override in self._installed
        ):
            override = EncodeOverride(self._on_encode, model.__dict__.get(ENCODE_METHOD))
            self._installed.append((weakref.ref(model), override))
            model.__dict__[ENCODE_METHOD] = types.MethodType(override, model)

    def remove(self) -> None:
        while self._installed:
            ref, override = self._installed[-1]
            _take_off(ref(), override)
            self._installed.pop()


def _take_off(model: nn.Module | None, override: EncodeOverride) -> None:
    override.on_encode = None
    if model is None or not _is_installed(model, override):
        return
    if override.previous is None:
        del model.__dict__[ENCODE_METHOD]
    else:
        model.__dict__[ENCODE_METHOD] = override.previous


def _is_installed(model: nn.Module, override: EncodeOverride) -> bool:
    return getattr(model.__dict__.get(ENCODE_METHOD), "__func__", None) is override
