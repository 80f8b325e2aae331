"""Tensors of a PyTorch file as descriptions: which bytes of which storage, in which order. Nothing is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_adapters.errors import CorruptFile, shorten
from lib_adapters.files.entries import ITEM_SIZES, Entry, numel
from lib_adapters.files.opcodes import Maker, Name

_TYPES = {
    "Float": "F32", "Double": "F64", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_LARGEST = 1 << 62
_LARGEST_EMPTY = 1 << 40


@dataclass(frozen=True)
class Storage:
    """One record of the file, or a part of it."""

    key: str
    dtype: str  # "" = bytes; the tensor brings its type
    length: int  # elements
    first: int = 0  # element of the file's storage where this one starts (views of the oldest format)


@dataclass(frozen=True)
class Pickled:
    """A tensor that lies in a storage; stride and offset in elements."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def entry(self, starts: Mapping[str, tuple[int, int]]) -> Entry:
        """Where in the file; `starts`: storage -> (first byte, one past the last). CorruptFile if it lies elsewhere."""
        if self.storage.key not in starts:
            raise CorruptFile(f"is a damaged PyTorch file: the data record {shorten(self.storage.key, 40)} is missing")
        low, high = starts[self.storage.key]
        size = ITEM_SIZES[self.dtype]
        start = low + (self.storage.first + self.offset) * size
        reach = (
            1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) if numel(self.shape) else 0
        )
        if start + reach * size > high:
            raise CorruptFile("is a damaged PyTorch file: a tensor reaches beyond its data")
        stride = None if self.stride == _contiguous(self.shape) else self.stride
        return Entry(self.dtype, self.shape, start, start + reach * size, stride)


def persistent(identity: Any) -> Storage | Name:  # whatever the pickle holds
    """torch's persistent objects: ('storage', class, key, location, elements[, view]); old files name modules too."""
    if type(identity) is tuple and len(identity) > 1 and identity[0] == "module" and isinstance(identity[1], Name):
        return identity[1]
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise CorruptFile("contains code (an object of an unknown kind); it was not run")
    _, kind, key, _, length, *rest = identity
    if not isinstance(kind, Name) or not isinstance(key, str) or type(length) is not int or not 0 <= length < _LARGEST:
        raise ValueError("a storage is described wrongly")
    dtype = "" if kind.path in _UNTYPED else _TYPES[kind.path.removeprefix("torch.").removesuffix("Storage")]
    view = rest[0] if rest else None
    if view is None:
        return Storage(key, dtype, length)
    _, first, count = view
    if type(first) is not int or type(count) is not int or min(first, count) < 0 or first + count > length:
        raise ValueError("a view is described wrongly")
    return Storage(key, dtype, count, first)


def _rebuild(storage: object, offset: object, shape: object, stride: object, *_: object) -> Pickled:
    return _tensor(storage, offset, shape, stride, None)


def _rebuild_typed(storage: object, offset: object, shape: object, stride: object, *rest: object) -> Pickled:
    """`_rebuild_tensor_v3`: types without a storage class of their own (float8, uint16)."""
    dtype = rest[2]
    if not isinstance(dtype, Name):
        raise ValueError("a tensor has no type")
    return _tensor(storage, offset, shape, stride, _DTYPES[dtype.path.removeprefix("torch.")])


def _tensor(storage: object, offset: object, shape: object, stride: object, dtype: str | None) -> Pickled:
    if not (isinstance(storage, Storage) and isinstance(offset, int) and offset >= 0):
        raise ValueError("a tensor is described wrongly")
    dtype = dtype or storage.dtype
    length = storage.length if storage.dtype else storage.length // ITEM_SIZES[dtype]
    sizes, steps = _axes(shape), _axes(stride)
    if len(sizes) != len(steps) or numel(tuple(max(n, 1) for n in sizes)) > max(
        length - offset, _LARGEST_EMPTY if 0 in sizes else 0
    ):
        raise ValueError("a tensor is larger than its data")
    return Pickled(storage, dtype, sizes, steps, offset)


def _axes(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > 16:
        raise ValueError("a tensor has an impossible shape")
    if not all(type(axis) is int and 0 <= axis < _LARGEST for axis in values):
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
    if not isinstance(function, Name) or function.make is None or type(arguments) is not tuple:
        raise ValueError("a tensor is described wrongly")
    return function.make(*arguments)


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


NAMES: Mapping[str, Maker | None] = {
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
    **{f"torch.{name}Storage": None for name in _TYPES},
    **{f"torch.{name}": None for name in _DTYPES},
}
