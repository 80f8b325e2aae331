"""Loading of tensors: one sequential read into one buffer, views into it, at most one copy to the GPU."""

from __future__ import annotations

import os
import struct
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm, TrainingInfo
from lib_adapters.algorithms.replacement_weights import BIAS, ReplacementWeight, WithBias
from lib_adapters.errors import AdapterError, ShapeMismatch
from lib_adapters.files import split_qkv
from lib_adapters.files.adapter_layers import SCALARS, AdapterLayer
from lib_adapters.files.peft_tuners import CONFIG_CONSTANTS
from lib_adapters.files.quantization import dequantize
from lib_adapters.files.tensor_file import ITEM_SIZES, TensorEntry, TensorFile, torch_dtype
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.filesystem import open_regular_file
from lib_adapters.ops.torch_modes import plain_tensors

_ALWAYS_ALLOWED = frozenset(
    {"alpha", "scale", *CONFIG_CONSTANTS}
)  # trainers and configs set them even if the algorithm ignores them
_MAY_BE_INFINITE = frozenset({"alpha"})  # may be infinite: a full LoKr in float16 overflows it and nobody looks at it


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter with its tensors on one device, ready to compute deltas."""

    algorithms: dict[LayerKey, Algorithm]
    skipped: list[tuple[str, str]]  # (module as in the file, why it was left out)
    nbytes: int
    shared: dict[Hashable, object] = field(default_factory=dict)  # tensors generated from a seed, used by many layers


@plain_tensors()
def load_layers(
    tensor_file: TensorFile, layers: Iterable[AdapterLayer], training_info: TrainingInfo, device: torch.device
) -> LoadedAdapter:
    """All tensors on `device`. AdapterError if the file changed or vanished; a bad module is told and left out."""
    blob, lowest = read_tensor_bytes(tensor_file, pin_memory=device.type == "cuda")
    suspects = set(_not_finite(tensor_file, blob, lowest))
    tensors = _TensorViews(tensor_file, blob, lowest, device)
    algorithms: dict[LayerKey, Algorithm] = {}
    problems: list[tuple[str, str]] = []
    for module in layers:
        bad = [
            tensor_name
            for tensor_name, key in module.tensor_keys.items()
            if key in suspects and tensor_name not in _MAY_BE_INFINITE
        ]
        bad += [f"the scale of {tensor_name}" for tensor_name, key in module.scale_keys.items() if key in suspects]
        if bad:
            problems.append((module.name, f"{', '.join(bad)} holds NaN or infinity: its training diverged"))
            continue
        try:
            algorithms[module.key] = _build_algorithm(module, tensors.layer_tensors(module), training_info)
        except AdapterError as error:
            problems.append((module.name, str(error)))
    return LoadedAdapter(algorithms, problems, tensor_file.nbytes)


class _TrackedTensors(Mapping[str, Tensor]):
    """The tensors of one module; records which of them the algorithm has not read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.unread = set(tensors)

    def __getitem__(self, tensor_name: str) -> Tensor:
        self.unread.discard(tensor_name)
        return self._tensors[tensor_name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _build_algorithm(module: AdapterLayer, leaves: dict[str, Tensor], facts: TrainingInfo) -> Algorithm:
    """Build the algorithm. Raise ShapeMismatch also for a tensor it does not read, because its effect is unknown."""
    joined = split_qkv.join_qkv(leaves)
    known = facts if joined is leaves else replace(facts, split_qkv=False)  # `join` has applied the scale too
    bias = None if module.algorithm is ReplacementWeight else joined.pop(BIAS, None)
    read = _TrackedTensors(joined)
    algorithm = module.algorithm.from_tensors(read, known)
    if unread := sorted(read.unread - _ALWAYS_ALLOWED):
        raise ShapeMismatch(f"has {', '.join(unread)}, which {module.algorithm.label} does not use")
    return algorithm if bias is None else WithBias(algorithm, bias)


@plain_tensors()
def read_tensor_bytes(tensor_file: TensorFile, pin_memory: bool = False) -> tuple[Tensor, int]:
    """The bytes of all tensors as uint8 [bytes], and at which byte of the file they start. AdapterError if it changed.

    Pinned memory copies faster to a GPU.
    """
    lowest = min((entry.start for entry in tensor_file.entries.values()), default=0)
    highest = max((entry.end for entry in tensor_file.entries.values()), default=0)
    blob = torch.empty(highest - lowest, dtype=torch.uint8, device="cpu", pin_memory=pin_memory)
    try:
        with open_regular_file(tensor_file.path) as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != (tensor_file.size, tensor_file.mtime_ns):
                _changed(tensor_file)
            file.seek(lowest)
            if blob.numel() and file.readinto(memoryview(blob.numpy().data)) != blob.numel():
                _changed(tensor_file)
    except OSError as error:
        raise AdapterError(f"{tensor_file.path.name} can no longer be read: {error.strerror or error}") from error
    return blob, lowest


def _changed(source: TensorFile) -> NoReturn:
    raise AdapterError(f"{source.path.name} has changed since it was opened; open it again")


def tensor_view(buffer: Tensor, first_byte: int, entry: TensorEntry) -> Tensor:
    """The tensor of one entry; a copy only where the file does not align it. AdapterError for a type torch has not."""
    dtype = torch_dtype(entry.dtype)
    if dtype is None:
        raise AdapterError(f"this version of torch has no type {entry.dtype}")
    part = buffer[entry.start - first_byte : entry.end - first_byte]
    if part.storage_offset() % ITEM_SIZES[entry.dtype]:
        part = part.clone()
    flat = part.view(dtype) if part.numel() else torch.empty(0, dtype=dtype, device=buffer.device)
    if entry.stride is None:
        return flat.reshape(entry.shape)
    return flat.as_strided(entry.shape, entry.stride, flat.storage_offset())


class _TensorViews:
    """Views into the blob; scalars stay on the CPU, because reading one on a GPU would wait for it."""

    def __init__(self, source: TensorFile, blob: Tensor, lowest: int, device: torch.device) -> None:
        self._tensor_file, self._first_byte = source, lowest
        self._cpu_buffer = blob
        self._buffer = blob if device.type == "cpu" else blob.to(device)  # one copy for the whole file
        self._shared = device.type == "cpu"

    def layer_tensors(self, layer: AdapterLayer) -> dict[str, Tensor]:
        """Return the tensors by name, dequantised. Raise ShapeMismatch if a scale does not fit."""
        found = {tensor_name: self._tensor(tensor_name, key) for tensor_name, key in layer.tensor_keys.items()}
        for tensor_name, key in layer.scale_keys.items():
            found[tensor_name] = dequantize(found[tensor_name], self._tensor("", key), tensor_name)
        return found | {tensor_name: _scalar(value) for tensor_name, value in layer.constants.items()}

    def _tensor(self, tensor_name: str, key: str) -> Tensor:
        if key in self._tensor_file.scalars:
            return _scalar(self._tensor_file.scalars[key])
        entry = self._tensor_file.entries[key]
        if tensor_name not in SCALARS:
            return tensor_view(self._buffer, self._first_byte, entry)
        scalar = tensor_view(self._cpu_buffer, self._first_byte, entry)
        return scalar if self._shared else scalar.clone()


def _scalar(value: float) -> Tensor:
    """[] in float64, on the CPU."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _not_finite(source: TensorFile, blob: Tensor, lowest: int) -> Iterable[str]:
    """Keys that hold NaN or infinity. Runs of one dtype are summed whole; only one that fails is looked at closely."""
    for run in _runs(source.entries):
        if not _sum_is_finite(blob, lowest, run):
            for key, entry in run:
                if not bool(torch.isfinite(tensor_view(blob, lowest, entry).float()).all()):
                    yield key


def _runs(entries: Mapping[str, TensorEntry]) -> Iterable[list[tuple[str, TensorEntry]]]:
    run: list[tuple[str, TensorEntry]] = []
    for key, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if not entry.dtype.startswith(("F", "BF")) or torch_dtype(entry.dtype) is None:
            continue
        if run and (entry.dtype, entry.start) != (run[-1][1].dtype, run[-1][1].end):
            yield run
            run = []
        run.append((key, entry))
    if run:
        yield run


def _sum_is_finite(blob: Tensor, lowest: int, run: list[tuple[str, TensorEntry]]) -> bool:
    dtype, start, end = run[0][1].dtype, run[0][1].start, run[-1][1].end
    size = ITEM_SIZES[dtype]
    flat = tensor_view(blob, lowest, TensorEntry(dtype, ((end - start) // size,), start, end))
    return bool(
        torch.isfinite((flat.float() if size == 1 else flat).sum(dtype=torch.float64 if size == 8 else torch.float32))
    )


# Single numbers read straight from the file, so that opening an adapter needs no tensor library.


_STRUCT_FORMATS = {
    "F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b",
    "U64": "<Q", "U32": "<I", "U16": "<H", "U8": "<B", "BOOL": "<?",
}  # fmt: skip


def read_scalars(tensor_file: TensorFile, layers: Iterable[AdapterLayer], tensor_name: str) -> Iterator[float]:
    """The value of `tensor_name` in every module that has it."""
    with open_regular_file(tensor_file.path, buffering=0) as file:
        for module in layers:
            if tensor_name in module.constants:
                yield module.constants[tensor_name]
            key = module.tensor_keys.get(tensor_name, "")
            if key in tensor_file.scalars:
                yield tensor_file.scalars[key]
            elif key in tensor_file.entries:
                entry = tensor_file.entries[key]
                file.seek(entry.start)
                number = decode_scalar(entry, file.read(entry.end - entry.start))
                if number is not None:
                    yield number


def decode_scalar(entry: TensorEntry, raw: bytes) -> float | None:
    """None for types that have no number of their own (float8) and for a file that became shorter."""
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0]) if len(raw) == 2 else None
    form = _STRUCT_FORMATS.get(entry.dtype)
    if form is None or struct.calcsize(form) != len(raw):
        return None
    return float(struct.unpack(form, raw)[0])
