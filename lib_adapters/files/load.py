"""Source -> tensors: one sequential read into one buffer, views into it, at most one copy to the GPU."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm, TrainingInfo
from lib_adapters.algorithms.saved_weights import BIAS, SavedWeight, WithBias
from lib_adapters.errors import AdapterError, ShapeMismatch
from lib_adapters.files import combine
from lib_adapters.files.entries import ITEM_SIZES, Entry, Source, torch_dtype
from lib_adapters.files.judge import SCALARS
from lib_adapters.files.modules import Module
from lib_adapters.files.names import Stem
from lib_adapters.files.peft_seeded import NUMBERS
from lib_adapters.files.platforms import open_file
from lib_adapters.files.quantised import dequantised
from lib_adapters.ops.torch_modes import plain_tensors

_ANYWHERE = frozenset({"alpha", "scale", *NUMBERS})  # trainers and configs set them even if the algorithm ignores them
_FREE = frozenset({"alpha"})  # may be infinite: a full LoKr in float16 overflows it and nobody looks at it


@dataclass(frozen=True)
class Loaded:
    """An adapter with its tensors on one device, ready to compute deltas."""

    algorithms: dict[Stem, Algorithm]
    problems: list[tuple[str, str]]  # (module as in the file, why it was left out)
    nbytes: int
    shared: dict[Hashable, object] = field(default_factory=dict)  # tensors generated from a seed, used by many layers


@plain_tensors()
def load(source: Source, modules: Iterable[Module], facts: TrainingInfo, device: torch.device) -> Loaded:
    """All tensors on `device`. AdapterError if the file changed or vanished; a bad module is told and left out."""
    blob, lowest = read_blob(source, pinned=device.type == "cuda")
    suspects = set(_not_finite(source, blob, lowest))
    tensors = _Tensors(source, blob, lowest, device)
    algorithms: dict[Stem, Algorithm] = {}
    problems: list[tuple[str, str]] = []
    for module in modules:
        bad = [leaf for leaf, key in module.leaves.items() if key in suspects and leaf not in _FREE]
        bad += [f"the scale of {leaf}" for leaf, key in module.scales.items() if key in suspects]
        if bad:
            problems.append((module.name, f"{', '.join(bad)} holds NaN or infinity: its training diverged"))
            continue
        try:
            algorithms[module.stem] = _algorithm(module, tensors.leaves(module), facts)
        except AdapterError as error:
            problems.append((module.name, str(error)))
    return Loaded(algorithms, problems, source.nbytes)


class _Read(Mapping[str, Tensor]):
    """The tensors of one module; records which of them the algorithm has not read."""

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self._leaves = leaves
        self.unread = set(leaves)

    def __getitem__(self, leaf: str) -> Tensor:
        self.unread.discard(leaf)
        return self._leaves[leaf]

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)


def _algorithm(module: Module, leaves: dict[str, Tensor], facts: TrainingInfo) -> Algorithm:
    """Build the algorithm. Raise ShapeMismatch also for a tensor it does not read, because its effect is unknown."""
    joined = combine.join(leaves)
    known = facts if joined is leaves else replace(facts, split_qkv=False)  # `join` has applied the scale too
    bias = None if module.algorithm is SavedWeight else joined.pop(BIAS, None)
    read = _Read(joined)
    algorithm = module.algorithm.from_tensors(read, known)
    if unread := sorted(read.unread - _ANYWHERE):
        raise ShapeMismatch(f"has {', '.join(unread)}, which {module.algorithm.label} does not use")
    return algorithm if bias is None else WithBias(algorithm, bias)


@plain_tensors()
def read_blob(source: Source, pinned: bool = False) -> tuple[Tensor, int]:
    """The bytes of all tensors as uint8 [bytes], and at which byte of the file they start. AdapterError if it changed.

    Pinned memory copies faster to a GPU.
    """
    lowest = min((entry.start for entry in source.entries.values()), default=0)
    highest = max((entry.end for entry in source.entries.values()), default=0)
    blob = torch.empty(highest - lowest, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    try:
        with open_file(source.path) as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != (source.size, source.mtime_ns):
                _changed(source)
            file.seek(lowest)
            if blob.numel() and file.readinto(memoryview(blob.numpy().data)) != blob.numel():
                _changed(source)
    except OSError as error:
        raise AdapterError(f"{source.path.name} can no longer be read: {error.strerror or error}") from error
    return blob, lowest


def _changed(source: Source) -> NoReturn:
    raise AdapterError(f"{source.path.name} has changed since it was opened; open it again")


def view(blob: Tensor, lowest: int, entry: Entry) -> Tensor:
    """The tensor of one entry; a copy only where the file does not align it. AdapterError for a type torch has not."""
    dtype = torch_dtype(entry.dtype)
    if dtype is None:
        raise AdapterError(f"this version of torch has no type {entry.dtype}")
    part = blob[entry.start - lowest : entry.end - lowest]
    if part.storage_offset() % ITEM_SIZES[entry.dtype]:
        part = part.clone()
    flat = part.view(dtype) if part.numel() else torch.empty(0, dtype=dtype, device=blob.device)
    if entry.stride is None:
        return flat.reshape(entry.shape)
    return flat.as_strided(entry.shape, entry.stride, flat.storage_offset())


class _Tensors:
    """Views into the blob; scalars stay on the CPU, because reading one on a GPU would wait for it."""

    def __init__(self, source: Source, blob: Tensor, lowest: int, device: torch.device) -> None:
        self._source, self._lowest = source, lowest
        self._cpu = blob
        self._blob = blob if device.type == "cpu" else blob.to(device)  # one copy for the whole file
        self._shared = device.type == "cpu"

    def leaves(self, module: Module) -> dict[str, Tensor]:
        """Return the tensors by name, dequantised. Raise ShapeMismatch if a scale does not fit."""
        found = {leaf: self._tensor(leaf, key) for leaf, key in module.leaves.items()}
        for leaf, key in module.scales.items():
            found[leaf] = dequantised(found[leaf], self._tensor("", key), leaf)
        return found | {leaf: _scalar(value) for leaf, value in module.constants.items()}

    def _tensor(self, leaf: str, key: str) -> Tensor:
        if key in self._source.numbers:
            return _scalar(self._source.numbers[key])
        entry = self._source.entries[key]
        if leaf not in SCALARS:
            return view(self._blob, self._lowest, entry)
        scalar = view(self._cpu, self._lowest, entry)
        return scalar if self._shared else scalar.clone()


def _scalar(value: float) -> Tensor:
    """[] in float64, on the CPU."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _not_finite(source: Source, blob: Tensor, lowest: int) -> Iterable[str]:
    """Keys that hold NaN or infinity. Runs of one dtype are summed whole; only one that fails is looked at closely."""
    for run in _runs(source.entries):
        if not _sum_is_finite(blob, lowest, run):
            for key, entry in run:
                if not bool(torch.isfinite(view(blob, lowest, entry).float()).all()):
                    yield key


def _runs(entries: Mapping[str, Entry]) -> Iterable[list[tuple[str, Entry]]]:
    run: list[tuple[str, Entry]] = []
    for key, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if not entry.dtype.startswith(("F", "BF")) or torch_dtype(entry.dtype) is None:
            continue
        if run and (entry.dtype, entry.start) != (run[-1][1].dtype, run[-1][1].end):
            yield run
            run = []
        run.append((key, entry))
    if run:
        yield run


def _sum_is_finite(blob: Tensor, lowest: int, run: list[tuple[str, Entry]]) -> bool:
    dtype, start, end = run[0][1].dtype, run[0][1].start, run[-1][1].end
    size = ITEM_SIZES[dtype]
    flat = view(blob, lowest, Entry(dtype, ((end - start) // size,), start, end))
    return bool(
        torch.isfinite((flat.float() if size == 1 else flat).sum(dtype=torch.float64 if size == 8 else torch.float32))
    )
