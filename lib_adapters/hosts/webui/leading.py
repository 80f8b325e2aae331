"""One of the host's embedders while it leads the positive prompt: in the place of its `encode_with_transformers`.

Everything around that stays the host's: chunks of 75 tokens, clip skip, the last layer norm, emphasis, added words.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic import Aesthetic
from lib_adapters.conditioning.aesthetic_steering import Progress, Prompt, Steered, Steerer, mixed, target_of
from lib_adapters.conditioning.aesthetic_text import clip_feature, open_clip_feature
from lib_adapters.hosts.webui.model import tower_of
from lib_adapters.patching.hooks import Hooks
from lib_adapters.prompt.aesthetic import Options

ENCODE = "encode_with_transformers"


@dataclass(frozen=True, eq=False)
class Wish:
    """One tag whose file was found, and the projection of the encoder that it is for."""

    aesthetic: Aesthetic
    options: Options
    projection: Tensor
    tag: str

    @property
    def state(self) -> str:
        """All that the conditioning depends on."""
        return f"{self.aesthetic.key} {self.options}"


@dataclass(frozen=True)
class Listener:
    """Whom a Lead tells what it does."""

    said: Callable[[Wish, Steered], None]
    progress: Callable[[Wish], Progress]  # what that gives may raise to stop
    failed: Callable[[Exception], None]  # the text stays as it was


class Lead:
    """Called as a bound method of the embedder, so that a copy of a model is bound to the copy; holds no model."""

    def __init__(self, wishes: Sequence[Wish], steerer: Steerer, listener: Listener) -> None:
        self._wishes, self._steerer, self._listener = list(wishes), steerer, listener
        self._positive = True
        self._before: Any = None  # another extension's, put there before
        self._hooks = Hooks("run", self._listen)

    def put_on(self, embedder: Any) -> None:
        self._before = embedder.__dict__.get(ENCODE)
        self._hooks.put_on([embedder])
        embedder.__dict__[ENCODE] = types.MethodType(self, embedder)

    def __deepcopy__(self, _: Any) -> Lead:
        return self

    def __call__(self, embedder: Any, tokens: Tensor) -> Tensor:
        fixes = embedder.hijack.fixes
        plain = self._plain(embedder, tokens)
        if not self._positive or not self._wishes:
            return plain
        try:
            return self._led(embedder, tokens, fixes, plain)
        except Exception as error:  # noqa: BLE001 - the picture goes on, and its comment says what is missing
            self._listener.failed(error)
            return plain
        finally:
            embedder.hijack.fixes = None  # as the host's own leaves it

    def _led(self, embedder: Any, tokens: Tensor, fixes: Any, plain: Tensor) -> Tensor:
        targets = [_target(embedder, tokens, wish) for wish in self._wishes]
        rows = []
        for n in range(len(tokens)):
            row = _Row(embedder, tokens[n : n + 1], fixes and fixes[n : n + 1], self._plain)
            rows.append(self._row(row, targets, tuple(one[n : n + 1] for one in _states(plain))))
        together = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        out = together[0]
        if len(together) > 1:
            out.pooled = together[1]  # type: ignore[attr-defined]
        return out

    def _row(self, row: _Row, targets: Sequence[Tensor], plain: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Several wishes are mixed in one after the other, each led from the unchanged text."""
        out = plain
        for wish, target in zip(self._wishes, targets, strict=True):
            prompt = Prompt(lambda w=wish: row.feature(w), row.states, (*plain, wish.projection))  # type: ignore[misc]
            steered = self._steerer.steer(row.tower, prompt, target, wish.options, self._listener.progress(wish))
            out = tuple(mixed(old, new, wish.options) for old, new in zip(out, steered.states, strict=True))
            self._listener.said(wish, steered)
        return out

    def _plain(self, embedder: Any, tokens: Tensor) -> Tensor:
        encode = self._before or types.MethodType(getattr(type(embedder), ENCODE), embedder)
        found: Tensor = encode(tokens)
        return found

    def _listen(self, _: nn.Module, given: tuple[Any, ...], __: dict[str, Any]) -> None:
        """The host's list of texts knows which prompt they are of."""
        self._positive = not getattr(given[0] if given else None, "is_negative_prompt", False)

    def take_off(self, embedder: Any) -> None:
        """Safe to repeat, and where it was never put on."""
        self._wishes = []  # somebody may have wrapped ours in his own: then it only passes on
        self._hooks.leave()
        if embedder is None or getattr(embedder.__dict__.get(ENCODE), "__func__", None) is not self:
            return
        if self._before is None:
            del embedder.__dict__[ENCODE]
        else:
            embedder.__dict__[ENCODE] = self._before
        self._before = None


@dataclass(frozen=True)
class _Row:
    """One text of a batch; the host takes the vectors of its words from the hijack, which forgets them each time."""

    embedder: Any
    tokens: Tensor  # [1, l]
    fixes: Any
    encode: Callable[[Any, Tensor], Tensor]

    @property
    def tower(self) -> nn.Module:
        return tower_of(self.embedder)

    def feature(self, wish: Wish) -> Tensor:
        self.embedder.hijack.fixes = self.fixes
        return _feature(self.embedder, self.tokens, wish.projection)

    def states(self) -> tuple[Tensor, ...]:
        """Whoever looks after the tower's weights, or moves them, must not meet the ones that are lent to it."""
        self.embedder.hijack.fixes = self.fixes
        inside = self.tower.__dict__
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


def _target(embedder: Any, tokens: Tensor, wish: Wish) -> Tensor:
    vectors, text = wish.aesthetic.vectors.to(tokens.device), wish.options.text
    if not text:
        return target_of(vectors, None, wish.options)
    embedder.hijack.fixes = None
    ids = torch.tensor([_padded(embedder, text, tokens.shape[1])], device=tokens.device)
    return target_of(vectors, _feature(embedder, ids, wish.projection), wish.options)


def _padded(embedder: Any, text: str, length: int) -> list[int]:
    """As the host makes a chunk; what is longer is cut."""
    ids = [embedder.id_start, *embedder.tokenize([text])[0][: length - 2], embedder.id_end]
    return [*ids, *[embedder.id_pad] * (length - len(ids))]


def _feature(embedder: Any, tokens: Tensor, projection: Tensor) -> Tensor:
    tower = tower_of(embedder)
    if isinstance(getattr(tower, "text_projection", None), Tensor):
        return open_clip_feature(tower, tokens)
    return clip_feature(tower, projection, tokens, embedder.id_end)
