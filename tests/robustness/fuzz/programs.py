"""A pickle that is sound as a program of its stack machine, but not one that PyTorch writes; in a zip with storages."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

from lib_adapters.files.torch_pickle.tensors import ALLOWED_GLOBALS
from tests.robustness.fuzz.data_provider import Choices
from tests.robustness.fuzz.pickles import inside
from tests.robustness.fuzz.read_checks import read
from tests.robustness.fuzz.work_folder import put
from tests.support.input_bounds import Bound

DECIDES = True
BOUND = Bound(calls=3_000_000, memory=200 << 20)
GLOBALS = [
    *ALLOWED_GLOBALS, "os.system", "builtins.eval", "torch.load", "torch.FloatStorage", "torch.HalfStorage",
    "collections.OrderedDict",
]  # fmt: skip
WORDS = [
    "storage", "module", "0", "1", "cpu", "x.lora_up.weight", "x.lora_down.weight", "x.alpha", "state_dict",
    "_parameters", "latin1", "<s>", "string_to_param", "layer_structure", "activation_func", "linear.0.weight",
    "lora", "é\n", "\ud800",
]  # fmt: skip
PLAIN = b"N\x88\x89)]}\x8f" + b"(01.2tlads\x85\x86\x87RQb\x81\x94ueP\x90\x91\x93o\x92\x83\x84c"


def target(data: bytes) -> None:
    choices = Choices(data)
    raw = b"\x80" + bytes([choices.one([2, 3, 4])]) + b"".join(choices.some(lambda: instruction(choices), 60)) + b"."
    path = put(
        "programs", "x.pt", zipped(raw, {"0": bytes(64), "1": b"\x00\x3c" * 16}) if choices.chance(8) is False else raw
    )
    inside(path, path.stat().st_size)
    read(path)


def instruction(choices: Choices) -> bytes:
    kinds: list[Callable[[], bytes]] = [
        lambda: bytes([choices.one(PLAIN)]),
        lambda: b"K" + choices.raw(1).ljust(1, b"\0"),
        lambda: b"J" + struct.pack("<i", choices.one([-1, 0, 8, 320, 768, 1 << 30])),
        lambda: b"\x8a\x09" + struct.pack("<q", choices.one([1 << 62, 1 << 40, -5])) + b"\0",
        lambda: b"G" + struct.pack(">d", choices.one([0.5, 1e300, float("nan"), float("inf")])),
        lambda: word(choices.one(WORDS)),
        lambda: name(choices.one(GLOBALS)),
        lambda: tensor(choices),
        lambda: b"q" + choices.raw(1).ljust(1, b"\0"),
        lambda: b"h" + choices.raw(1).ljust(1, b"\0"),
        lambda: b"}" + choices.one([word(choices.one(WORDS)), b"K\x08", b"G" + bytes(8)]) + tensor(choices) + b"s",
        lambda: b"]" * (depth := choices.number(1, 1200)) + b"a" * (depth - 1),
    ]
    return choices.one(kinds)()


def word(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(path: str) -> bytes:
    module, _, last = path.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def tensor(choices: Choices) -> bytes:
    """`_rebuild_tensor_v2` of a storage, with any shape, stride and place."""
    kind = name(f"torch.{choices.one(['Float', 'Half', 'Long', 'Bool', 'BFloat16'])}Storage")
    count = choices.one([16, 8, 0, 1 << 40, 4])
    identity = b"(" + word("storage") + kind + word(choices.one("012")) + word("cpu") + number(count) + b"tQ"
    shape = choices.some(lambda: choices.one([2, 1, 4, 8, 0, 1 << 20, 1 << 40]), 3)
    stride = [choices.one([1, 2, 4, 8, 0, 1 << 20]) for _ in shape]
    sizes = b"".join(b"(" + b"".join(map(number, axes)) + b"t" for axes in (shape, stride))
    return (
        name("torch._utils._rebuild_tensor_v2") + b"(" + identity + number(choices.one([0, 1, 3, 1 << 40])) + sizes
        + b"\x89" + name("collections.OrderedDict") + b")RtR"
    )  # fmt: skip


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def zipped(raw: bytes, storages: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", raw)
        for key, content in storages.items():
            archive.writestr(f"x/data/{key}", content)
    return made.getvalue()


def seeds() -> list[bytes]:
    return [bytes(range(start, start + 120)) for start in (0, 60, 130)]
