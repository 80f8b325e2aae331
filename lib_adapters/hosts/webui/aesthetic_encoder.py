"""Aesthetic gradients in a text encoder of the web UI: overrides its `encode_with_transformers`.

Everything around that stays the host's: chunks of 75 tokens, clip skip, the last layer norm, emphasis, added words.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding
from lib_adapters.conditioning.aesthetic_gradients import (
    AestheticOptimizer,
    OptimizedText,
    ProgressCallback,
    TextForward,
    blend,
    optimization_target,
)
from lib_adapters.conditioning.clip_features import clip_feature, open_clip_feature
from lib_adapters.hosts.webui.model_components import text_encoder_of
from lib_adapters.patching.hooks import HookSet
from lib_adapters.prompt.aesthetic_tag import AestheticOptions

ENCODE_METHOD = "encode_with_transformers"


@dataclass(frozen=True, eq=False)
class AestheticRequest:
    """One tag whose file was found, and the projection of the encoder that it is for."""

    aesthetic: AestheticEmbedding
    options: AestheticOptions
    projection: Tensor
    tag: str

    @property
    def cache_key(self) -> str:
        """All that the conditioning depends on."""
        return f"{self.aesthetic.cache_key} {self.options}"


@dataclass(frozen=True)
class GuidanceCallbacks:
    """Whom a Lead tells what it does."""

    on_optimized: Callable[[AestheticRequest, OptimizedText], None]
    progress: Callable[[AestheticRequest], ProgressCallback]  # what that gives may raise to stop
    on_error: Callable[[Exception], None]  # the text stays as it was


class GuidedEncoder:
    """Called as a bound method of the embedder, so that a copy of a model is bound to the copy; holds no model."""

    def __init__(
        self, requests: Sequence[AestheticRequest], optimizer: AestheticOptimizer, callbacks: GuidanceCallbacks
    ) -> None:
        self._requests, self._optimizer, self._callbacks = list(requests), optimizer, callbacks
        self._is_positive = True
        self._previous: Any = None  # another extension's, put there before
        self._hooks = HookSet("run", self._on_encode)

    def install(self, embedder: Any) -> None:
        self._previous = embedder.__dict__.get(ENCODE_METHOD)
        self._hooks.install([embedder])
        embedder.__dict__[ENCODE_METHOD] = types.MethodType(self, embedder)

    def __deepcopy__(self, _: Any) -> GuidedEncoder:
        return self

    def __call__(self, embedder: Any, tokens: Tensor) -> Tensor:
        fixes = embedder.hijack.fixes
        plain = self._unguided(embedder, tokens)
        if not self._is_positive or not self._requests:
            return plain
        try:
            return self._guided(embedder, tokens, fixes, plain)
        except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
            self._callbacks.on_error(error)
            return plain
        finally:
            embedder.hijack.fixes = None  # as the host's own leaves it

    def _guided(self, embedder: Any, tokens: Tensor, fixes: Any, plain: Tensor) -> Tensor:
        targets = [_target(embedder, tokens, spec) for spec in self._requests]
        rows = []
        for n in range(len(tokens)):
            row = _TextChunk(embedder, tokens[n : n + 1], fixes and fixes[n : n + 1], self._unguided)
            rows.append(self._guided_chunk(row, targets, tuple(one[n : n + 1] for one in _states(plain))))
        together = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        out = together[0]
        if len(together) > 1:
            out.pooled = together[1]  # type: ignore[attr-defined]
        return out

    def _guided_chunk(
        self, row: _TextChunk, targets: Sequence[Tensor], plain: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Several wishes are mixed in one after the other, each led from the unchanged text."""
        out = plain
        for spec, target in zip(self._requests, targets, strict=True):
            prompt = TextForward(lambda w=spec: row.feature(w), row.states, (*plain, spec.projection))  # type: ignore[misc]
            steered = self._optimizer.optimize(
                row.text_encoder, prompt, target, spec.options, self._callbacks.progress(spec)
            )
            out = tuple(blend(old, new, spec.options) for old, new in zip(out, steered.hidden_states, strict=True))
            self._callbacks.on_optimized(spec, steered)
        return out

    def _unguided(self, embedder: Any, tokens: Tensor) -> Tensor:
        encode = self._previous or types.MethodType(getattr(type(embedder), ENCODE_METHOD), embedder)
        found: Tensor = encode(tokens)
        return found

    def _on_encode(self, _: nn.Module, given: tuple[Any, ...], __: dict[str, Any]) -> None:
        """The host's list of texts knows which prompt they are of."""
        self._is_positive = not getattr(given[0] if given else None, "is_negative_prompt", False)

    def remove(self, embedder: Any) -> None:
        """Safe to repeat, and where it was never put on."""
        self._requests = []  # somebody may have wrapped ours in his own: then it only passes on
        self._hooks.remove()
        if embedder is None or getattr(embedder.__dict__.get(ENCODE_METHOD), "__func__", None) is not self:
            return
        if self._previous is None:
            del embedder.__dict__[ENCODE_METHOD]
        else:
            embedder.__dict__[ENCODE_METHOD] = self._previous
        self._previous = None


@dataclass(frozen=True)
class _TextChunk:
    """One text of a batch; the host takes the vectors of its words from the hijack, which forgets them each time."""

    embedder: Any
    tokens: Tensor  # [1, l]
    fixes: Any
    encode: Callable[[Any, Tensor], Tensor]

    @property
    def text_encoder(self) -> nn.Module:
        return text_encoder_of(self.embedder)

    def feature(self, spec: AestheticRequest) -> Tensor:
        self.embedder.hijack.fixes = self.fixes
        return _feature(self.embedder, self.tokens, spec.projection)

    def states(self) -> tuple[Tensor, ...]:
        """Whoever looks after the tower's weights, or moves them, must not meet the ones that are lent to it."""
        self.embedder.hijack.fixes = self.fixes
        inside = self.text_encoder.__dict__
        hooks = inside["_forward_pre_hooks"]
        none = type(hooks)()
        try:
            inside["_forward_pre_hooks"] = none
            return _states(self.encode(self.embedder, self.tokens))
        finally:
            inside["_forward_pre_hooks"] = hooks


def _states(encoded: Tensor) -> tuple[Tensor, ...]:
    pooled = getattr(encoded, "pooled", None)
    return (encoded,) if pooled is None else (encoded, pooled)


def _target(embedder: Any, tokens: Tensor, spec: AestheticRequest) -> Tensor:
    vectors, text = spec.aesthetic.vectors.to(tokens.device), spec.options.text
    if not text:
        return optimization_target(vectors, None, spec.options)
    embedder.hijack.fixes = None
    ids = torch.tensor([_padded(embedder, text, tokens.shape[1])], device=tokens.device)
    return optimization_target(vectors, _feature(embedder, ids, spec.projection), spec.options)


def _padded(embedder: Any, text: str, length: int) -> list[int]:
    """As the host makes a chunk; what is longer is cut."""
    ids = [embedder.id_start, *embedder.tokenize([text])[0][: length - 2], embedder.id_end]
    return [*ids, *[embedder.id_pad] * (length - len(ids))]


def _feature(embedder: Any, tokens: Tensor, projection: Tensor) -> Tensor:
    tower = text_encoder_of(embedder)
    if isinstance(getattr(tower, "text_projection", None), Tensor):
        return open_clip_feature(tower, tokens)
    return clip_feature(tower, projection, tokens, embedder.id_end)
