"""A PyTorch file of either form, whatever its bytes are: the zip's table and the pickle in it."""

from __future__ import annotations

import collections
import io
from pathlib import Path

import torch

from lib_adapters.files.torch_pickle.reader import read_pickle
from tests.robustness.fuzz.headers import hypernetwork, named
from tests.robustness.fuzz.read_checks import read, refused
from tests.robustness.fuzz.work_folder import put
from tests.support.input_bounds import Bound

BOUND = Bound(calls=60_000, calls_per_byte=200)
TOKENS = [
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"data.pkl", b"\x80\x02", b"ctorch\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"\xff\xff\xff\xff", b"\xff\xff",
    b"q\x00", b"h\x00", b"(", b"t", b"R", b"b", b"s", b"u", b".", b"Q", b"X\x01\x00\x00\x00", b"\x8a\x08", b"G", b"K",
]  # fmt: skip


def target(data: bytes) -> None:
    path = put("pickles", "x.pt", data)
    inside(path, len(data))
    read(path)


def inside(path: Path, size: int) -> None:
    """All tensors together are made of the file's own bytes: none is larger than it but where a view repeats some."""
    found = refused(path, read_pickle)
    for tensor in tensors(found, 4):
        assert tensor.untyped_storage().nbytes() <= size
        assert tensor.untyped_storage().nbytes() >= reach(tensor)


def reach(tensor: torch.Tensor) -> int:
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else -1
    return (tensor.storage_offset() + last + 1) * tensor.element_size() if tensor.numel() else 0


def tensors(node: object, depth: int) -> list[torch.Tensor]:
    if isinstance(node, torch.Tensor):
        return [node]
    if not depth or not isinstance(node, (dict, list, tuple)):
        return []
    return [t for one in (node.values() if isinstance(node, dict) else node) for t in tensors(one, depth - 1)]


def seeds() -> list[bytes]:
    lora = named({"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(8, 2), "alpha": torch.tensor(1.0)})
    net = {key.removeprefix("8.k."): tensor for key, tensor in hypernetwork().items() if ".k." in key}
    trees: list[object] = [
        lora,
        {"state_dict": collections.OrderedDict(lora), "step": 3},
        {key: tensor.half().mT if tensor.ndim else tensor for key, tensor in lora.items()} | {"x.alpha": 4},
        {8: (net, net), "activation_func": "relu", "layer_structure": [1, 2, 1]},
        torch.ones(2, 8),
        [torch.ones(2, 4), torch.ones(4, 2)],
        {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.nn.ParameterDict({"p": torch.nn.Parameter(torch.ones(1))})},
        {"size": torch.Size([1, 2]), "raw": b"raw", "big": 1 << 70, "none": [None, True, (1.5, "é")]},
    ]
    return [saved(tree, zipped) for tree in trees for zipped in (True, False)]


def saved(tree: object, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()
