"""`convert`: write a file as safetensors, in another dtype or another key format; metadata is kept.

Hypernetworks and aesthetic embeddings go both ways: to safetensors, and to the .pt that others read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_adapters.app import describe_aesthetic
from lib_adapters.app.arguments import Commands, check_new
from lib_adapters.app.equivalence import first_difference
from lib_adapters.app.key_conversion import FORMATS, convert_keys, keep_keys, without_duplicates
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork, save_hypernetwork
from lib_adapters.errors import AdapterError, AestheticFile, HypernetworkFile, UnsupportedFile
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.files.adapter_layers import INTEGER_SUFFIXES
from lib_adapters.files.peft_config import CONFIG_NAME
from lib_adapters.files.tensor_keys import LayerKey, split_key
from lib_adapters.files.training_metadata import read_json_file
from lib_adapters.hosts.diffusers.load_pipeline import DTYPES
from lib_adapters.hosts.diffusers.meta_models import MetaModel

MAX_NAMED = 3  # tensors named in one message


def add(commands: Commands) -> None:
    command = commands.add_parser("convert", help="another container, dtype or spelling", description=__doc__)
    command.add_argument("file", type=Path)
    command.add_argument("out", type=Path, help="a .safetensors file that does not exist yet")
    command.add_argument("--to", choices=FORMATS, help="spelling of the names (default: as they are)")
    command.add_argument("--dtype", choices=DTYPES, help="of the factors (default: as they are)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        adapter = open_adapter(args.file)
    except (HypernetworkFile, AestheticFile) as kind:
        return _other(args, kind)
    check_new(args.out, ".safetensors")
    skeleton = MetaModel.for_family(adapter.family) if args.to else None
    adapter = without_duplicates(adapter, skeleton) if skeleton else adapter
    new = convert_keys(adapter, args.to, skeleton) if skeleton else keep_keys(adapter, recast=args.dtype is not None)
    config = _config_file(args.out, new.config)
    tensors, coarse = _cast(new.tensors, args.dtype)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(args.out), new.metadata or None)
    _check(adapter, args.out, skeleton.layer_paths() if skeleton else {})
    if config is not None:
        config.write_text(json.dumps(new.config, indent=2), encoding="utf-8")
    _report(args, adapter, len(tensors), coarse)
    return 0


def _report(args: argparse.Namespace, adapter: Adapter, tensors: int, coarse: Sequence[str]) -> None:
    print(f"{args.out}: {tensors} tensors of {len(adapter.layers)} layers")
    if coarse:
        print(f"kept in their original dtype, because {args.dtype} cannot represent their values: {_some(coarse)}")
    for note in adapter.notes:
        print(f"Note: {note}")
    for key, reason in adapter.skipped:
        print(f"left out: {key} ({reason})" if args.to else f"kept, but not usable: {key} ({reason})")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{len(names)} tensors, {', '.join(names[:MAX_NAMED])}{more}"


def _check(adapter: Adapter, out: Path, places: Mapping[LayerKey, object]) -> None:
    """Read the new file back; delete it and raise AdapterError if it changes a layer differently from the source."""
    try:
        different = first_difference(adapter, open_adapter(out), places)
    except BaseException:
        out.unlink()
        raise
    if different:
        out.unlink()
        raise AdapterError(
            f"{adapter.path.name}: {different} would act differently in the new file, because the new format cannot "
            "store a setting from the source's config, metadata or .json file. Nothing was written."
        )


def _config_file(out: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the path to which PEFT's `config` must be written; None if PEFT needs none or it already exists."""
    path = out.with_name(CONFIG_NAME)
    if not config or out.stem != "adapter_model" or read_json_file(path) == config:
        return None
    if path.exists():
        raise AdapterError(f"{path}: PEFT would apply this config to {out.name}; choose another folder or name.")
    return path


def _other(args: argparse.Namespace, kind: UnsupportedFile) -> int:
    """A hypernetwork or an aesthetic embedding."""
    if args.to or args.dtype:
        what = "a hypernetwork" if isinstance(kind, HypernetworkFile) else "an aesthetic embedding"
        raise AdapterError(f"{args.file.name} is {what}: it has one spelling, and its dtype is kept.")
    check_new(args.out, ".safetensors", ".pt")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(kind, HypernetworkFile):
        found = open_hypernetwork(args.file)
        save_hypernetwork(found, args.out)
        print(f"{args.out}: nets for the widths {', '.join(map(str, sorted(found.nets)))}")
    else:
        print(describe_aesthetic.convert(open_aesthetic(args.file), args.out))
    return 0


def _cast(tensors: Mapping[str, Tensor], name: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors cast to a dtype, and the names of those left uncast because it cannot represent them."""
    if name is None:
        return dict(tensors), []
    numbers = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point() and not _is_place(key)}
    cast = {key: tensor.to(DTYPES[name]) for key, tensor in numbers.items()}
    coarse = [key for key, tensor in cast.items() if not _holds(tensor, tensors[key])]
    return {**tensors, **{key: tensor for key, tensor in cast.items() if key not in set(coarse)}}, coarse


def _is_place(key: str) -> bool:
    """True for positions in a weight, which some trainers store as floats: another place is no rounding."""
    split = split_key(key)
    return split is not None and split[1].endswith(INTEGER_SUFFIXES)


def _holds(cast: Tensor, tensor: Tensor) -> bool:
    """True if the cast only rounded: no overflow, and no underflow beyond the dtype's relative precision."""
    before, after = tensor.double(), cast.double()
    finite = before.isfinite()
    error = (before - after)[finite].norm()  # infinite where a value overflows
    return bool(error <= torch.finfo(cast.dtype).eps * before[finite].norm())
