"""Read one tensor of a TorchScript archive, such as OpenAI's CLIP files (`ViT-L-14.pt`), without reading its code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_adapters.errors import AdapterError
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.files.tensor_file import TensorFile
from lib_adapters.files.torch_pickle.reader import is_torch_pickle, read_pickle_tree
from lib_adapters.files.torch_pickle.tensors import PickledTensor
from lib_adapters.files.torch_pickle.unpickler import Global, SafeUnpickler

_LIST_BUILDERS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")


class _ModuleUnpickler(SafeUnpickler):
    """Unpickles every TorchScript module, of any class, as the dict of its attributes."""

    def _find_global(self, path: str) -> Global:
        if path.startswith("__torch__."):
            return Global(path, lambda *_: {})
        if path.removeprefix("torch.jit._pickle.") in _LIST_BUILDERS:
            return Global(path, lambda value, *_: value)
        return super()._find_global(path)

    def _do_build(self, _: object) -> None:
        target, state = self._pop(2)
        if type(target) is dict and type(state) is dict:
            target.update(state)
        self._stack.append(target)


def read_torchscript_tensor(path: Path, name: str) -> Tensor | None:
    """Return the root module's tensor `name`; None if the file is not an archive or has no such tensor.

    Raise CorruptFile if the archive is damaged, AdapterError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not is_torch_pickle(file, status.st_size):
                return None
            tree = read_pickle_tree(file, status.st_size, _ModuleUnpickler)
    except OSError as error:
        raise AdapterError(f"cannot be read: {error.strerror or error}") from error
    found: Any = tree.obj.get(name) if isinstance(tree.obj, dict) else None
    if not isinstance(found, PickledTensor):
        return None
    entry = found.to_entry(tree.storage_ranges)
    return tensor_view(
        *read_tensor_bytes(TensorFile(path, status.st_size, status.st_mtime_ns, {name: entry})), entry
    ).clone()
