"""Read one tensor of a TorchScript archive, such as OpenAI's CLIP files (`ViT-L-14.pt`), without reading its code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_adapters.errors import AdapterError
from lib_adapters.files.entries import Source
from lib_adapters.files.load import read_blob, view
from lib_adapters.files.opcodes import Machine, Name
from lib_adapters.files.pickles import is_pickle, read_tree
from lib_adapters.files.storages import Pickled

_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")


class _Modules(Machine):
    """Unpickles every TorchScript module, of any class, as the dict of its attributes."""

    def _name(self, path: str) -> Name:
        if path.startswith("__torch__."):
            return Name(path, lambda *_: {})
        if path.removeprefix("torch.jit._pickle.") in _LISTS:
            return Name(path, lambda value, *_: value)
        return super()._name(path)

    def _do_build(self, _: object) -> None:
        target, state = self._popped(2)
        if type(target) is dict and type(state) is dict:
            target.update(state)
        self._stack.append(target)


def torchscript_tensor(path: Path, name: str) -> Tensor | None:
    """Return the root module's tensor `name`; None if the file is not an archive or has no such tensor.

    Raise CorruptFile if the archive is damaged, AdapterError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not is_pickle(file, status.st_size):
                return None
            tree = read_tree(file, status.st_size, _Modules)
    except OSError as error:
        raise AdapterError(f"cannot be read: {error.strerror or error}") from error
    found: Any = tree.root.get(name) if isinstance(tree.root, dict) else None
    if not isinstance(found, Pickled):
        return None
    entry = found.entry(tree.starts)
    return view(*read_blob(Source(path, status.st_size, status.st_mtime_ns, {name: entry})), entry).clone()
