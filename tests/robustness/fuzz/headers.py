"""A safetensors file, whatever its bytes are."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import safetensors
import torch
from safetensors.torch import save

from lib_adapters.files.container import open_tensor_file
from lib_adapters.files.loading import read_tensor_bytes
from lib_adapters.files.tensor_file import ITEM_SIZES, TensorFile
from tests.robustness.fuzz.read_checks import read, refused
from tests.robustness.fuzz.work_folder import put
from tests.support.input_bounds import Bound

BOUND = Bound(calls=40_000)
NAME = "lora_unet_mid_block_attentions_0_proj_in"
TOKENS = [
    b'"dtype":', b'"F32"', b'"F16"', b'"BF16"', b'"F8_E4M3"', b'"U64"', b'"BOOL"', b'"I64"', b'"shape":[',
    b'"data_offsets":[', b'"__metadata__":{', b"lora_up.weight", b"lora_down.weight", b".alpha", b"{", b"}", b"]",
    b",", b'"', b"null", b"NaN", b"1e999", b"-1", b"18446744073709551615", b"\\ud800", b"\x00", b" ",
]  # fmt: skip


def target(data: bytes) -> None:
    path = put("headers", "x.safetensors", data)
    source = refused(path, open_tensor_file, named=False)
    if source is not None and all(entry.dtype in ITEM_SIZES for entry in source.entries.values()):
        check_reference(source, data)
    read(path)


def check_reference(source: TensorFile, data: bytes) -> None:
    """The format's own reader finds the same tensors in the same bytes; it is stricter about metadata alone."""
    try:
        expected = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError:
        expected = dict(safetensors.deserialize(without_metadata(source, data)))
    assert expected.keys() == source.entries.keys()
    for name, entry in source.entries.items():
        assert (list(entry.shape), entry.dtype) == (expected[name]["shape"], expected[name]["dtype"])
        assert data[entry.start : entry.end] == bytes(expected[name]["data"])
    blob, lowest = read_tensor_bytes(source)
    assert blob.numpy().tobytes() == data[lowest : lowest + blob.numel()]


def without_metadata(source: TensorFile, data: bytes) -> bytes:
    start = min((entry.start for entry in source.entries.values()), default=len(data))
    table = {
        name: {"dtype": e.dtype, "shape": e.shape, "data_offsets": [e.start - start, e.end - start]}
        for name, e in source.entries.items()
    }
    return container(table, data[start:])


def container(header: object, tensors: bytes = b"", raw: bytes | None = None) -> bytes:
    text = raw if raw is not None else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def seeds() -> list[bytes]:
    lora = {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(8, 2), "alpha": torch.tensor(1.0)}
    half = {leaf: tensor.half() for leaf, tensor in lora.items()}
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    nested = b'{"__metadata__":{"a":' + b"[" * 400 + b"]" * 400 + b"}}"
    return [
        save(named(lora)),
        save(named(half), {"ss_network_args": '{"algo": "lokr"}', "ss_tag_frequency": '{"a": {"b": 3}}'}),
        save(named({"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(4, 4).to(torch.float8_e4m3fn)})),
        save({"aesthetic_embedding": torch.ones(2, 8)}, {"format": "lycoris-aesthetic"}),
        save(hypernetwork(), {"format": "lycoris-hypernetwork", "hypernetwork": '{"activation_func": "relu"}'}),
        save({"bundle_emb.x.string_to_param.*": torch.ones(1, 8), "<s1>": torch.ones(8), **named(lora)}),
        container({"a": entry, "b": entry | {"data_offsets": [8, 16]}}, b"x" * 16),
        container({"__metadata__": {"a": 1, "b": [2]}, "x.alpha": entry | {"shape": [1, 2]}}, b"x" * 8),
        container(None, raw=nested),
        container(None, raw=b" {}\n"),
    ]


def named(leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{NAME}.{leaf}": tensor for leaf, tensor in leaves.items()}


def hypernetwork() -> dict[str, torch.Tensor]:
    net = {"linear.0.weight": torch.ones(4, 8), "linear.0.bias": torch.ones(4), "linear.1.weight": torch.ones(8, 4),
           "linear.1.bias": torch.ones(8)}  # fmt: skip
    return {f"8.{letter}.{key}": tensor.clone() for letter in "kv" for key, tensor in net.items()}
