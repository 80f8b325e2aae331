"""Descriptions of tensors in a PyTorch file: byte ranges, shapes and strides. Nothing is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_adapters.errors import CorruptFile, shorten
from lib_adapters.files.tensor_file import ITEM_SIZES, TensorEntry, numel
from lib_adapters.files.torch_pickle.unpickler import Factory, Global

_STORAGE_DTYPES = {
    "Float": "F32", "Double": "F64", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
_TORCH_DTYPES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_MAX_ELEMENTS = 1 << 62
_MAX_EMPTY_ELEMENTS = 1 << 40


@dataclass(frozen=True)
class PickledStorage:
    """One record of the file, or a part of it."""

    key: str
    dtype: str  # "" = bytes; the tensor brings its type
    length: int  # elements
    offset: int = 0  # element of the file's storage where this one starts (views of the oldest format)


@dataclass(frozen=True)
class PickledTensor:
    """A tensor that lies in a storage; stride and offset in elements."""

    storage: PickledStorage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def to_entry(self, storage_ranges: Mapping[str, tuple[int, int]]) -> TensorEntry:
        """Where in the file; `starts`: storage -> (first byte, one past the last). CorruptFile if it lies elsewhere."""
        if self.storage.key not in storage_ranges:
            raise CorruptFile(f"is a damaged PyTorch file: the data record {shorten(self.storage.key, 40)} is missing")
        low, high = storage_ranges[self.storage.key]
        size = ITEM_SIZES[self.dtype]
        start = low + (self.storage.offset + self.offset) * size
        reach = (
            1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) if numel(self.shape) else 0
        )
        if start + reach * size > high:
            raise CorruptFile("is a damaged PyTorch file: a tensor reaches beyond its data")
        stride = None if self.stride == _contiguous(self.shape) else self.stride
        return TensorEntry(self.dtype, self.shape, start, start + reach * size, stride)


def persistent_load(persistent_id: Any) -> PickledStorage | Global:  # whatever the pickle holds
    """torch's persistent objects: ('storage', class, key, location, elements[, view]); old files name modules too."""
    if (
        type(persistent_id) is tuple
        and len(persistent_id) > 1
        and persistent_id[0] == "module"
        and isinstance(persistent_id[1], Global)
    ):
        return persistent_id[1]
    if type(persistent_id) is not tuple or len(persistent_id) not in (5, 6) or persistent_id[0] != "storage":
        raise CorruptFile("contains code (an object of an unknown kind); it was not run")
    _, kind, key, _, length, *rest = persistent_id
    if (
        not isinstance(kind, Global)
        or not isinstance(key, str)
        or type(length) is not int
        or not 0 <= length < _MAX_ELEMENTS
    ):
        raise ValueError("a storage is described wrongly")
    dtype = "" if kind.path in _UNTYPED else _STORAGE_DTYPES[kind.path.removeprefix("torch.").removesuffix("Storage")]
    view = rest[0] if rest else None
    if view is None:
        return PickledStorage(key, dtype, length)
    _, first, count = view
    if type(first) is not int or type(count) is not int or min(first, count) < 0 or first + count > length:
        raise ValueError("a view is described wrongly")
    return PickledStorage(key, dtype, count, first)


def _rebuild(storage: object, offset: object, shape: object, stride: object, *_: object) -> PickledTensor:
    return _tensor(storage, offset, shape, stride, None)


def _rebuild_typed(storage: object, offset: object, shape: object, stride: object, *rest: object) -> PickledTensor:
    """`_rebuild_tensor_v3`: types without a storage class of their own (float8, uint16)."""
    dtype = rest[2]
    if not isinstance(dtype, Global):
        raise ValueError("a tensor has no type")
    return _tensor(storage, offset, shape, stride, _TORCH_DTYPES[dtype.path.removeprefix("torch.")])


def _tensor(storage: object, offset: object, shape: object, stride: object, dtype: str | None) -> PickledTensor:
    if not (isinstance(storage, PickledStorage) and isinstance(offset, int) and offset >= 0):
        raise ValueError("a tensor is described wrongly")
    dtype = dtype or storage.dtype
    length = storage.length if storage.dtype else storage.length // ITEM_SIZES[dtype]
    sizes, steps = _axes(shape), _axes(stride)
    if len(sizes) != len(steps) or numel(tuple(max(n, 1) for n in sizes)) > max(
        length - offset, _MAX_EMPTY_ELEMENTS if 0 in sizes else 0
    ):
        raise ValueError("a tensor is larger than its data")
    return PickledTensor(storage, dtype, sizes, steps, offset)


def _axes(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > 16:
        raise ValueError("a tensor has an impossible shape")
    if not all(type(axis) is int and 0 <= axis < _MAX_ELEMENTS for axis in values):
        raise ValueError("a tensor has an impossible shape")
    return values


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for axis in reversed(shape):
        strides.append(step)
        step *= max(axis, 1)
    return tuple(reversed(strides))


def _first(data: object, *_: object) -> object:
    return data


def _from_type(function: object, _kind: object, arguments: object, *_: object) -> object:
    if not isinstance(function, Global) or function.factory is None or type(arguments) is not tuple:
        raise ValueError("a tensor is described wrongly")
    return function.factory(*arguments)


def _table(pairs: Any = (), *_: object) -> dict[Any, Any]:
    if any(type(pair) not in (list, tuple) or len(pair) != 2 or not isinstance(pair[0], (str, int)) for pair in pairs):
        raise ValueError("a table is described wrongly")
    return dict(pairs)


def _encoded(text: object, codec: object) -> bytes:
    """Bytes, as pickle's protocol 2 has to write them."""
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes are described wrongly")
    return text.encode("latin1")


def _sizes(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _text(*arguments: object) -> str:
    return " ".join(str(argument)[:40] for argument in arguments if isinstance(argument, (str, int)))


ALLOWED_GLOBALS: Mapping[str, Factory | None] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _first,
    "torch.Tensor": None,
    "torch.nn.modules.container.ParameterDict": _table,
    "collections.OrderedDict": _table,
    "torch.Size": _sizes,
    "__builtin__.set": _sizes,
    "builtins.set": _sizes,
    "_codecs.encode": _encoded,
    "torch.device": _text,
    **dict.fromkeys(_UNTYPED),
    **{f"torch.{name}Storage": None for name in _STORAGE_DTYPES},
    **{f"torch.{name}": None for name in _TORCH_DTYPES},
}
