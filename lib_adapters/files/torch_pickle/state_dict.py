"""The tensors of an adapter in the object of a PyTorch file, or an error that says what the object is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib_adapters.errors import AestheticFile, CorruptFile, HypernetworkFile, UnsupportedFile
from lib_adapters.files import cloneofsimo
from lib_adapters.files.safetensors_header import MAX_NAME_LENGTH
from lib_adapters.files.tensor_file import TensorEntry, TensorFile
from lib_adapters.files.torch_pickle.reader import PickleTree
from lib_adapters.files.torch_pickle.tensors import PickledTensor
from lib_adapters.files.unsupported import AESTHETIC_MESSAGE, HYPERNETWORK_MESSAGE

# keys under which a pickle may nest the table of tensors, also several levels deep
_WRAPPER_KEYS = ("state_dict", "lora_state_dict", "lora", "plugin", "module", "params", "model", "weights", "network")
_MAX_TENSORS = 200_000
_MAX_DEPTH = 4
_MAX_NUMBER = 1e30


def tensor_file_from_tree(tree: PickleTree, path: Path, size: int, mtime_ns: int) -> TensorFile:
    """HypernetworkFile, AestheticFile or UnsupportedFile for what is no adapter, CorruptFile for what is damaged."""
    root = _unwrapped(tree.obj)
    entries: dict[str, TensorEntry] = {}
    numbers: dict[str, float] = {}
    for name, tensor_name in _leaves(root, "", 0):
        if len(entries) + len(numbers) >= _MAX_TENSORS or len(name) > MAX_NAME_LENGTH:
            raise CorruptFile("holds an absurd number of tensors, or absurd names; it was not opened")
        if isinstance(tensor_name, PickledTensor):
            entries[name] = tensor_name.to_entry(tree.storage_ranges)
        elif isinstance(tensor_name, (int, float)):
            numbers[name] = float(tensor_name) if abs(tensor_name) < _MAX_NUMBER else math.inf
    return TensorFile(path, size, mtime_ns, entries, {}, numbers, _companion(path, tree.obj))


def _companion(path: Path, root: Any) -> tuple[str, ...]:
    """The oldest format keeps the text encoder's part in a file of its own."""
    other = path.with_suffix(f".text_encoder{path.suffix}")
    if not isinstance(root, (list, tuple)) or not other.exists():
        return ()
    return (f"its text encoder part is the file {other.name}; use both",)


def _unwrapped(root: Any, depth: int = 0) -> Any:
    if isinstance(root, PickledTensor):
        raise AestheticFile(AESTHETIC_MESSAGE)
    if isinstance(root, (list, tuple)):
        return cloneofsimo.name_positional_list([item for item in root if isinstance(item, PickledTensor)], len(root))
    if not isinstance(root, dict):
        raise CorruptFile("is a PyTorch file that holds no tensors")
    if any(isinstance(key, int) for key in root) or {"layer_structure", "is_layer_norm"} & root.keys():
        raise HypernetworkFile(HYPERNETWORK_MESSAGE)
    if "string_to_param" in root:
        raise UnsupportedFile("is a textual inversion embedding, not an adapter; put it into the folder 'embeddings'")
    if root and all(isinstance(value, PickledTensor) and _is_vector(key, value) for key, value in root.items()):
        raise UnsupportedFile("holds textual inversion embeddings, not an adapter; put it into the folder 'embeddings'")
    inner = next((root[word] for word in _WRAPPER_KEYS if isinstance(root.get(word), dict)), None)
    return root if inner is None or depth >= _MAX_DEPTH else _unwrapped(inner, depth + 1)


def _is_vector(key: object, value: PickledTensor) -> bool:
    return isinstance(key, str) and key.startswith("<") and len(value.shape) in (1, 2)


def _leaves(node: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Nested tables become dotted names; lists (optimizer states and the like) are not an adapter's."""
    if isinstance(node, dict) and depth <= _MAX_DEPTH:
        for key, value in node.items():
            if isinstance(key, str):
                yield from _leaves(value, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(node, (PickledTensor, int, float)):
        yield name, node
