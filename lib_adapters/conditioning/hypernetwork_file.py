"""Hypernetwork files: NovelAI's, every generation of the web UI's, and a safetensors form of this project.

A file holds, for some widths of attention inputs, one net for what becomes keys and one for what becomes values.
Safetensors: `768.k.linear.0.weight`, `768.v.linear.0.weight` ...; the other fields as JSON in the metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_adapters.conditioning.hypernetwork_net import HypernetworkNet, build_net
from lib_adapters.errors import AdapterError, CorruptFile, UnsupportedFile
from lib_adapters.files.container import SAFETENSORS_SUFFIXES, open_tensor_file
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.files.torch_pickle.reader import read_pickle
from lib_adapters.ops.torch_modes import plain_tensors

FORMAT = "lycoris-hypernetwork"
_CROSS_ATTENTION_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # the width of a text encoder's output tells the base
_SELF_ATTENTION_WIDTHS = {
    320,
    640,
    1280,
}  # shared by all of them: a file of these alone comes from Stable Diffusion 1 days
_MAX_WIDTHS = 64
_FIELD_NAMES = ("step", "name", "layer_structure", "activation_func", "is_layer_norm", "weight_initialization",
           "sd_checkpoint", "sd_checkpoint_name", "activate_output", "use_dropout", "dropout_structure",
           "last_layer_dropout", "optional_info")  # fmt: skip
NetPairs = dict[int, tuple[HypernetworkNet, HypernetworkNet]]
StateDicts = dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]]


@dataclass(frozen=True, eq=False)
class Hypernetwork:
    """One file, read whole: hypernetworks are small."""

    path: Path
    name: str  # the file's stem: what tags say
    cache_key: str  # what it is in caches: path, size and time of change
    fields: Mapping[str, Any]  # what the trainer wrote beside the nets
    state_dicts: StateDicts  # by width, tensors as in the file: for keys, for values

    @cached_property
    def nets(self) -> NetPairs:
        """By width of the input: the net for keys and the net for values, float32 on the CPU."""
        func, last = self.fields.get("activation_func"), self.fields.get("activate_output")
        last_too = True if last is None else bool(last)  # files older than the field always had it
        return {
            width: (build_net(k, width, func, last_too), build_net(v, width, func, last_too))
            for width, (k, v) in self.state_dicts.items()
        }

    @property
    def family(self) -> str:
        """ "unknown" where the widths are nobody's."""
        cross = [family for width, family in _CROSS_ATTENTION_WIDTHS.items() if width in self.state_dicts]
        if cross:
            return cross[0]
        return "sd1" if set(self.state_dicts) <= _SELF_ATTENTION_WIDTHS else "unknown"

    @property
    def structure(self) -> str:
        """`1-2-1`: widths of the layers as multiples of the input's."""
        pair = self.nets[min(self.nets)]
        width, sizes = min(self.nets), [stage.weight.shape[0] for stage in pair[0].layers]
        return "-".join(f"{size / width:g}" for size in (width, *sizes))


@plain_tensors()
def open_hypernetwork(path: str | os.PathLike[str]) -> Hypernetwork:
    """AdapterError (one sentence, with the file's name) if the file cannot be used. Code in a pickle is never run.

    UnsupportedFile for what is no hypernetwork, ShapeMismatch and CorruptFile for one that nobody can compute with.
    """
    where = Path(path)
    try:
        status = where.stat()
        fields, states = (_from_safetensors if where.suffix.lower() in SAFETENSORS_SUFFIXES else _from_pickle)(where)
        key = f"{where.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        found = Hypernetwork(where, where.stem, key, fields, states)
        _ = found.nets  # a file that cannot be computed with is refused here
    except OSError as error:
        raise AdapterError(f"{where.name} cannot be read: {error.strerror or error}") from error
    except AdapterError as error:
        if str(error).startswith(where.name):
            raise
        raise type(error)(f"{where.name} {error}") from error
    return found


def save_hypernetwork(hypernetwork: Hypernetwork, path: Path) -> None:
    """As safetensors or, by the name's ending `.pt`, as the web UI's own training tab writes it."""
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        tensors = {
            f"{width}.{letter}.{key}": tensor.contiguous()
            for width, pair in hypernetwork.state_dicts.items()
            for letter, state in zip("kv", pair, strict=True)
            for key, tensor in state.items()
        }
        save_file(tensors, path, {"format": FORMAT, "hypernetwork": json.dumps(hypernetwork.fields)})
    else:
        torch.save(dict[Any, Any](hypernetwork.state_dicts) | dict(hypernetwork.fields), path)


def _from_pickle(path: Path) -> tuple[dict[str, Any], StateDicts]:
    root = read_pickle(path)
    if not isinstance(root, dict) or not any(isinstance(key, int) for key in root):
        raise UnsupportedFile("is not a hypernetwork: it has no nets by width")
    states = {key: value for key, value in root.items() if isinstance(key, int)}
    return _fields(root), _checked(states)


def _from_safetensors(path: Path) -> tuple[dict[str, Any], StateDicts]:
    source = open_tensor_file(path)
    if source.metadata.get("format") != FORMAT:
        raise UnsupportedFile(
            "is not a hypernetwork: hypernetworks come as .pt, or as `convert` of this bundle saves them"
        )
    blob, lowest = read_tensor_bytes(source)
    states: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for key, entry in source.entries.items():
        width, letter, name = (*key.split(".", 2), "", "")[:3]
        if not width.isdecimal() or letter not in ("k", "v"):
            raise CorruptFile(f"holds {key[:60]!r}, which is no part of a hypernetwork")
        states.setdefault(int(width), ({}, {}))["kv".index(letter)][name] = tensor_view(blob, lowest, entry)
    try:
        fields = json.loads(source.metadata.get("hypernetwork", "{}"))
    except ValueError as error:
        raise CorruptFile("has damaged metadata, so nobody knows its activation; convert the original again") from error
    return _fields(fields if isinstance(fields, dict) else {}), _checked(states)


def _fields(root: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: root[key] for key in _FIELD_NAMES if key in root}


def _checked(states: Mapping[int, Any]) -> StateDicts:
    checked: StateDicts = {}
    for width, pair in states.items():
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(_is_state(state) for state in pair)):
            raise CorruptFile(f"has no pair of nets for width {width}")
        checked[width] = (dict(pair[0]), dict(pair[1]))
    if not 0 < len(checked) <= _MAX_WIDTHS or min(checked) < 1:
        raise CorruptFile("has nets for impossible widths")
    return checked


def _is_state(state: object) -> bool:
    return isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) and value.is_floating_point() for key, value in state.items()
    )
