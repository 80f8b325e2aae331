"""Checks that weights are unchanged: versions and samples of base weights, checksums of originals."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib_adapters.ops.torch_modes import plain_tensors
from lib_adapters.patching.layers import ParamRef
from lib_adapters.patching.parameters import current_tensor


@dataclass(frozen=True)
class _BaseWeight:
    """One parameter as it was when it was read."""

    ref: ParamRef
    parameter: weakref.ref[nn.Parameter]
    data_ptr: int
    version: int
    sample_values: Tensor

    @property
    def is_unchanged(self) -> bool:
        now = self.ref.parameter()
        if now is not None and not now.is_meta:  # asked for each parameter before each run
            return now is self.parameter() and now.data_ptr() == self.data_ptr and version_of(now) == self.version
        tensor = self.ref.tensor()
        return tensor is not None and tensor.data_ptr() == self.data_ptr

    @property
    def was_moved(self) -> bool:
        """Other memory, but our values: a host short of memory does so before every run."""
        now = self.ref.tensor()
        return now is not None and not now.is_meta and samples_match(now, self.sample_values)


class BaseWeights:
    """Parameters as they were when something was made of them."""

    def __init__(self, refs: Iterable[ParamRef]) -> None:
        self._weights = _seen(refs)

    @property
    def are_unchanged(self) -> bool:
        """Is each the same Parameter, in the same memory, and was nothing written into it?"""
        return all(base.is_unchanged for base in self._weights)

    def refresh(self) -> None:
        """Compare them with the model: what was only moved is the same."""
        if not self.are_unchanged and all(base.is_unchanged or base.was_moved for base in self._weights):
            self._weights = _seen(base.ref for base in self._weights)


def _seen(refs: Iterable[ParamRef]) -> list[_BaseWeight]:
    found = [(ref, ref.parameter(), ref.tensor()) for ref in refs]
    there = [(ref, p, tensor) for ref, p, tensor in found if p is not None and tensor is not None]
    marks = sample_values([tensor for _, _, tensor in there])
    return [
        _BaseWeight(ref, weakref.ref(parameter), tensor.data_ptr(), version_of(parameter), mark)
        for (ref, parameter, tensor), mark in zip(there, marks, strict=True)
    ]


# A fingerprint of a tensor's bytes at the speed of reading them, and a handful of samples to know it again.


COLUMNS = 1024  # words are summed per column: a byte that moves to another column changes the sums
SAMPLE_COUNT = 32


@plain_tensors()
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


@plain_tensors()
def sample_values(tensors: Sequence[Tensor]) -> list[Tensor]:
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
    start = max(0, values.numel() // 2 - SAMPLE_COUNT // 2)
    return values[start : start + SAMPLE_COUNT]


def samples_match(current: Tensor, recorded: Tensor) -> bool:
    """Is `now` a copy of the tensor whose samples were `then`, moved or cast (perhaps there and back)?"""
    found = _window(current).float().cpu()
    wanted = recorded.cpu()
    casts = (current.dtype, torch.float16, torch.bfloat16)
    return any(torch.equal(found, wanted.to(cast).to(current.dtype).float()) for cast in casts)


@dataclass(frozen=True)
class _ParameterChecksum:
    module: weakref.ref[nn.Module]
    parameter: weakref.ref[nn.Parameter]
    checksum: Tensor
    dtype: torch.dtype
    version: int  # of the parameter: a host that loads other weights while nothing is active bumps it

    def belongs_to(self, parameter: nn.Parameter) -> bool:
        """Has its owner neither written into it nor put another one there?"""
        return parameter is self.parameter() and version_of(parameter) == self.version


def version_of(parameter: nn.Parameter) -> int:
    """A model made in inference mode counts no versions."""
    return 0 if parameter.is_inference() else parameter._version


Key = tuple[int, str]


class OriginalChecksums:
    """Remembers what pristine weights were when they were first touched."""

    def __init__(self) -> None:
        self._checksums: dict[tuple[int, str], _ParameterChecksum] = {}

    def record(self, ref: ParamRef, original: Tensor) -> None:
        """Remembers what this weight is, unless it is known already."""
        known, parameter = self._checksums.get(ref.key), ref.parameter()
        if parameter is None:
            return
        if known and known.module() is ref.module() and known.belongs_to(parameter) and known.dtype == original.dtype:
            return
        kept = ref.module, weakref.ref(parameter), checksum(original), original.dtype
        self._checksums[ref.key] = _ParameterChecksum(*kept, version_of(parameter))

    def track(self, ref: ParamRef) -> None:
        """It was we who put another Parameter there."""
        seen, parameter = self._checksums.get(ref.key), ref.parameter()
        if seen is not None and parameter is not None and not seen.belongs_to(parameter):
            self._checksums[ref.key] = replace(seen, parameter=weakref.ref(parameter), version=version_of(parameter))

    def forget(self, ref: ParamRef) -> None:
        """Its owner has put something else there."""
        self._checksums.pop(ref.key, None)

    def match(self, originals: Mapping[Key, Tensor], foreign_originals: Mapping[Key, Tensor] | None = None) -> bool:
        """True if all weights that were ever patched are what they were.

        `own`: original tensors of what is patched now; `others`: those that another Session keeps.
        """
        seen = list(self._checksums.items())
        return all(
            self._is_unchanged(key, one, originals.get(key), (foreign_originals or {}).get(key)) for key, one in seen
        )

    def _is_unchanged(self, key: Key, seen: _ParameterChecksum, kept: Tensor | None, foreign: Tensor | None) -> bool:
        module = seen.module()
        parameter = None if module is None else module._parameters.get(key[1])
        tensor = kept if kept is not None else foreign if foreign is not None else current_tensor(module, key[1])
        if parameter is None or tensor is None or tensor.is_meta:
            return True  # freed, so there is nothing to compare
        if kept is None and not parameter.is_meta and not seen.belongs_to(parameter):
            return True  # replaced by its owner
        return tensor.dtype != seen.dtype or int(checksum(tensor)) == int(seen.checksum)
