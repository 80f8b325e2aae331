"""`convert`: a file into safetensors, another dtype, or another trainer's spelling; the metadata stays.

Hypernetworks and aesthetic embeddings go both ways: to safetensors, and to the .pt that others read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lib_adapters.app import aesthetics
from lib_adapters.app.dialect import DIALECTS, as_they_are, respelled
from lib_adapters.app.options import Commands, check_new
from lib_adapters.conditioning.aesthetic import open_aesthetic
from lib_adapters.conditioning.hypernetwork import open_hypernetwork, save_hypernetwork
from lib_adapters.errors import AdapterError, AestheticFile, ForeignFile, HypernetworkFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.hosts.pipeline.folder import DTYPES


def add(commands: Commands) -> None:
    command = commands.add_parser("convert", help="another container, dtype or spelling", description=__doc__)
    command.add_argument("file", type=Path)
    command.add_argument("out", type=Path, help="a .safetensors file that does not exist yet")
    command.add_argument("--to", choices=DIALECTS, help="spelling of the names (default: as they are)")
    command.add_argument("--dtype", choices=DTYPES, help="of the factors (default: as they are)")
    command.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    try:
        adapter = open_adapter(given.file)
    except (HypernetworkFile, AestheticFile) as kind:
        return _other(given, kind)
    check_new(given.out, ".safetensors")
    tensors, metadata = respelled(adapter, given.to) if given.to else (as_they_are(adapter), adapter.metadata)
    if given.dtype:
        tensors = {key: _cast(key, tensor, given.dtype) for key, tensor in tensors.items()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(given.out), metadata or None)
    print(f"{given.out}: {len(tensors)} tensors of {len(adapter.modules)} layers")
    for key, reason in adapter.unusable:
        print(f"left out: {key} ({reason})" if given.to else f"kept, but not usable: {key} ({reason})")
    return 0


def _other(given: argparse.Namespace, kind: ForeignFile) -> int:
    """A hypernetwork or an aesthetic embedding."""
    if given.to or given.dtype:
        what = "a hypernetwork" if isinstance(kind, HypernetworkFile) else "an aesthetic embedding"
        raise AdapterError(f"{given.file.name} is {what}: it has one spelling, and its dtype is kept.")
    check_new(given.out, ".safetensors", ".pt")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(kind, HypernetworkFile):
        found = open_hypernetwork(given.file)
        save_hypernetwork(found, given.out)
        print(f"{given.out}: nets for the widths {', '.join(map(str, sorted(found.pairs)))}")
    else:
        print(aesthetics.convert(open_aesthetic(given.file), given.out))
    return 0


def _cast(key: str, tensor: Tensor, dtype: str) -> Tensor:
    """Only floating point; a value that the new type cannot hold is an error, not an infinity."""
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(DTYPES[dtype])
    if bool(cast.isinf().any()) and not bool(tensor.isinf().any()):
        raise AdapterError(f"{key} has values that {dtype} cannot hold; choose bf16 or fp32.")
    return cast
