"""A fingerprint of a tensor's bytes at the speed of reading them, and a handful of samples to know it again."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib_adapters.ops.modes import ordinary
from lib_adapters.patching.pointer import held
from lib_adapters.patching.targets import Slot

COLUMNS = 1024  # words are summed per column: a byte that moves to another column changes the sums
SAMPLES = 32


@ordinary()
def checksum(tensor: Tensor) -> Tensor:
    """One int64 [], on the tensor's own device: integer sums, so their order never matters, and nothing waits."""
    words, rest = _words(tensor)
    whole = words.numel() // COLUMNS * COLUMNS
    weights = torch.arange(1, 2 * COLUMNS + 1, 2, device=words.device)
    total = (words[:whole].view(-1, COLUMNS).sum(0) * weights).sum()
    if whole < words.numel():
        total = total + 31 * (words[whole:] * weights[: words.numel() - whole]).sum()
    return total + 131 * (rest.long() * weights[: rest.numel()]).sum() if rest.numel() else total


def _words(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """All whole 8-byte words, and what is left over as bytes."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = raw.numel() // 8 * 8
    body = raw[:whole] if raw.storage_offset() % 8 == 0 else raw[:whole].clone()
    return body.view(torch.int64), raw[whole:]


@ordinary()
def samples(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A few values out of the middle of each tensor, in its own dtype; one copy per device and dtype."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for n, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(n)
    found: dict[int, Tensor] = {}
    for numbers in kinds.values():
        windows = [_window(tensors[n]) for n in numbers]
        together = torch.cat([window.view(torch.uint8) for window in windows]).view(windows[0].dtype)
        found.update(zip(numbers, torch.split(together, [w.numel() for w in windows]), strict=True))
    return [found[n] for n in range(len(tensors))]


def _window(tensor: Tensor) -> Tensor:
    values = tensor.detach().contiguous().view(-1)
    start = max(0, values.numel() // 2 - SAMPLES // 2)
    return values[start : start + SAMPLES]


def same_values(now: Tensor, then: Tensor) -> bool:
    """Is `now` a copy of the tensor whose samples were `then`, moved or cast (perhaps there and back)?"""
    found = _window(now).float().cpu()
    wanted = then.cpu()
    casts = (now.dtype, torch.float16, torch.bfloat16)
    return any(torch.equal(found, wanted.to(cast).to(now.dtype).float()) for cast in casts)


@dataclass(frozen=True)
class _Seen:
    module: weakref.ref[nn.Module]
    parameter: weakref.ref[nn.Parameter]
    checksum: Tensor
    dtype: torch.dtype
    version: int  # of the parameter: a host that loads other weights while nothing is active bumps it

    def is_of(self, parameter: nn.Parameter) -> bool:
        """Has its owner neither written into it nor put another one there?"""
        return parameter is self.parameter() and version_of(parameter) == self.version


def version_of(parameter: nn.Parameter) -> int:
    """A model made in inference mode counts no versions."""
    return 0 if parameter.is_inference() else parameter._version


Key = tuple[int, str]


class Witness:
    """Remembers what pristine weights were when they were first touched."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], _Seen] = {}

    def see(self, slot: Slot, pristine: Tensor) -> None:
        """Remembers what this weight is, unless it is known already."""
        known, parameter = self._seen.get(slot.key), slot.parameter()
        if parameter is None:
            return
        if known and known.module() is slot.module() and known.is_of(parameter) and known.dtype == pristine.dtype:
            return
        kept = slot.module, weakref.ref(parameter), checksum(pristine), pristine.dtype
        self._seen[slot.key] = _Seen(*kept, version_of(parameter))

    def follow(self, slot: Slot) -> None:
        """It was we who put another Parameter there."""
        seen, parameter = self._seen.get(slot.key), slot.parameter()
        if seen is not None and parameter is not None and not seen.is_of(parameter):
            self._seen[slot.key] = replace(seen, parameter=weakref.ref(parameter), version=version_of(parameter))

    def forget(self, slot: Slot) -> None:
        """Its owner has put something else there."""
        self._seen.pop(slot.key, None)

    def holds(self, own: Mapping[Key, Tensor], others: Mapping[Key, Tensor] | None = None) -> bool:
        """True if all weights that were ever patched are what they were.

        `own`: original tensors of what is patched now; `others`: those that another Session keeps.
        """
        seen = list(self._seen.items())
        return all(self._is_unchanged(key, one, own.get(key), (others or {}).get(key)) for key, one in seen)

    def _is_unchanged(self, key: Key, seen: _Seen, kept: Tensor | None, foreign: Tensor | None) -> bool:
        module = seen.module()
        parameter = None if module is None else module._parameters.get(key[1])
        tensor = kept if kept is not None else foreign if foreign is not None else held(module, key[1])
        if parameter is None or tensor is None or tensor.is_meta:
            return True  # freed, so there is nothing to compare
        if kept is None and not parameter.is_meta and not seen.is_of(parameter):
            return True  # replaced by its owner
        return tensor.dtype != seen.dtype or int(checksum(tensor)) == int(seen.checksum)
