"""Open files that expand enormously and print the memory and time each took as JSON.

python -m tests.support.decompression_bombs FOLDER KIND
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import logging
import os
import resource
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from lib_adapters.errors import AdapterError
from lib_adapters.files.torch_pickle.reader import read_pickle
from lib_adapters.library.image_decoding import as_png
from tests.support.sample_library import opened, scan

MB = 1 << 20
LIMIT = 8 << 30  # bytes of addresses: a bomb that goes off takes no machine with it


def zipped(raw: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + raw)
    return made.getvalue()


def laughs(pair: bytes, last: bytes = b"") -> bytes:
    """Each level names the one before twice: a thousand million at the thirtieth."""
    levels = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + pair for n in range(40))
    return b"]" + levels + last


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


def many_calls(function: bytes, made: bytes, count: int = 100_000) -> bytes:
    """One large thing, and calls that would copy it each time."""
    return made + b"q\x00" + (b"c" + function + b"\nh\x00\x85R") * count + b"."


NUMBERS = b"](" + b"K\x01" * 300_000 + b"e"
PAIRS = b"](" + b"".join(b"M" + struct.pack("<H", n) + b"K\x01\x86" for n in range(20_000)) + b"e"
TABLE = b"}(" + b"".join(b"M" + struct.pack("<H", n) + b"K\x01" for n in range(40_000)) + b"u"
PICKLES: dict[str, Callable[[], bytes]] = {
    "tuples that laugh": lambda: zipped(laughs(b"\x86") + b"."),
    "tables that laugh": lambda: zipped(b"}" + laughs(b"\x86", b"q\xff0") + text(b"a") + b"h\xffs."),
    "sizes": lambda: zipped(many_calls(b"torch\nSize", NUMBERS)),
    "tables": lambda: zipped(many_calls(b"collections\nOrderedDict", PAIRS)),
    "sets": lambda: zipped(many_calls(b"builtins\nset", NUMBERS)),
    "devices": lambda: zipped(many_calls(b"torch\ndevice", text(b"a" * 30), 20_000)),
    "bytes": lambda: zipped(text(b"a" * 30 * MB) + b"q\x00" + text(b"latin1") + b"q\x01" + (
        b"c_codecs\nencode\nh\x00h\x01\x86R") * 50_000 + b"."),
    "states": lambda: zipped(b"}" + text(b"_parameters") + TABLE + b"sq\x00" + b"}h\x00b" * 200_000 + b"."),
    "a long number": lambda: zipped(
        b"}" + text(b"a") + b"\x8b" + struct.pack("<I", 40 * MB) + b"\x7f" * 40 * MB + b"s."),
    "digits": lambda: zipped(b"}" + text(b"a") + b"I" + b"9" * 5 * MB + b"\ns."),
    "deep": lambda: zipped(b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a hypernetwork's fields": lambda: zipped(
        b"}" + text(b"layer_structure") + b"]s" + text(b"name") + laughs(b"\x86") + b"s."),
    "members": lambda: members(60_000),
}  # fmt: skip


def members(count: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for number in range(20_000):
            archive.writestr(f"x/data/{number}", b"")
        archive.writestr("x/data.pkl", b"\x80\x02}" + b"K\x01K\x01s" * (count // 2) + b".")
    return made.getvalue()


def container(header: bytes, data: int = 0) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(data)


def described(metadata: object) -> bytes:
    """A sound adapter with this to say."""
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {"lora_down.weight": [2, 768], "lora_up.weight": [320, 2]}
    table: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for leaf, shape in shapes.items():
        size = shape[0] * shape[1] * 4
        table[f"{stem}.{leaf}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return container(json.dumps(table).encode(), end)


def shaped(shape: bytes) -> bytes:
    return container(b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,0]}}' % shape)


HEADERS: dict[str, Callable[[], bytes]] = {
    "one long value": lambda: described({"ss_output_name": "a" * 95_000_000}),
    "one long key": lambda: described({"k" * 30_000_000: "v"}),
    "a million keys": lambda: described({f"{n}": "v" for n in range(300_000)}),
    "long tags": lambda: described({"ss_tag_frequency": json.dumps({"a": {f"t{n}": 1 for n in range(300_000)}})}),
    "deep tags": lambda: described({"ss_tag_frequency": '{"a":' * 3_000_000}),
    "many covers": lambda: described({"ssmd_cover_images": json.dumps(["AAAA"] * 1_000_000)}),
    "a large cover": lambda: described({"modelspec.thumbnail": "data:," + "A" * 30_000_000}),
    "a title of lines": lambda: described({"modelspec.title": "\n" * 5_000_000, "ss_network_args": "[" * 5_000_000}),
    "long numbers": lambda: shaped(b"9" * 5_000_000),
    "deep": lambda: container(b'{"a":' * 700_000),
    "many tensors": lambda: container(b"{" + b",".join(
        b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(30_000)) + b"}"),
    "huge shapes": lambda: shaped(b",".join([b"0"] * 900_000)),
}  # fmt: skip


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(bytes(4 * MB))), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def picture(kind: str, size: tuple[int, int], **options: object) -> bytes:
    made = io.BytesIO()
    Image.new("L" if kind != "WEBP" else "RGB", size).save(made, kind, **options)
    return made.getvalue()


def frames(kind: str, count: int, size: tuple[int, int]) -> bytes:
    made = io.BytesIO()
    pictures = (Image.new("P" if kind == "GIF" else "RGB", size, n % 250) for n in itertools.count())
    first, *rest = itertools.islice(pictures, count)
    first.save(made, kind, save_all=True, append_images=rest)
    return made.getvalue()


def resized(image: bytes, at: int, size: bytes) -> bytes:
    return image[:at] + size + image[at + len(size) :]


EIGHT = picture("JPEG", (8, 8))
SQUASHED = zlib.compress(bytes(50 * MB))
IMAGES: dict[str, Callable[[], bytes]] = {
    "png 60000": lambda: png(60_000, 60_000),
    "png 2^31": lambda: png(2**31 - 1, 2**31 - 1),
    "png line": lambda: png(2**31 - 1, 1),
    "png of 49 million": lambda: png(7_000, 7_000),
    "png text": lambda: png(8, 8, (b"zTXt", b"a\0\0" + SQUASHED)),
    "png international text": lambda: png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + SQUASHED)),
    "png profile": lambda: png(8, 8, (b"iCCP", b"a\0\0" + SQUASHED)),
    "png texts": lambda: png(8, 8, *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 500),
    "jpeg 65000": lambda: resized(EIGHT, EIGHT.index(b"\xff\xc0") + 5, b"\xfd\xe8\xfd\xe8"),
    "jpeg of 49 million": lambda: picture("JPEG", (7_000, 7_000), progressive=True),
    "gif 65535": lambda: resized(picture("GIF", (8, 8)), 6, b"\xff\xff\xff\xff"),
    "gif frames": lambda: frames("GIF", 500, (200, 200)),
    "webp 16383": lambda: resized(picture("WEBP", (8, 8)), 26, b"\xff\x3f\xff\x3f"),
    "webp frames": lambda: frames("WEBP", 300, (200, 200)),
    "png frames": lambda: frames("PNG", 300, (200, 200)),
    "gif cut": lambda: frames("GIF", 50, (200, 200))[:-3000],
}  # fmt: skip


def at_a_card(folder: Path, name: str, content: bytes) -> int:
    """As the tab meets it: listed, looked at in detail, its picture asked for. The size of the details."""
    (folder / "root").mkdir(parents=True)
    (folder / "root" / name).write_bytes(content)
    with opened(folder / "root", place=folder / "place") as catalogue:
        (card,) = scan(catalogue).values()
        size = len(json.dumps(card)) + len(json.dumps(catalogue.details(card["id"])))
        for ask in (catalogue.thumbnail, catalogue.strengths):
            try:
                ask(card["id"])
            except AdapterError:
                continue
    return size + (folder / "place" / "catalogue.sqlite").stat().st_size


def as_an_object(folder: Path, content: bytes) -> None:
    (folder / "y.pt").write_bytes(content)
    try:
        read_pickle(folder / "y.pt")
    except AdapterError:
        return


def as_a_picture(folder: Path, content: bytes) -> None:
    (folder / "z").mkdir()
    (folder / "z" / "x.png").write_bytes(content)
    at_a_card(folder / "z", "x.safetensors", described({"modelspec.thumbnail": base64.b64encode(content).decode()}))
    try:
        as_png(content)
    except AdapterError:
        return


def pickle_bomb(folder: Path, content: bytes) -> int:
    as_an_object(folder, content)
    return at_a_card(folder, "x.pt", content)


def picture_bomb(folder: Path, content: bytes) -> int:
    as_a_picture(folder, content)
    return 0


def apart(work: Callable[[], object]) -> tuple[int, float, int]:
    """In a process of its own, with a limit: (status, seconds, MB at most)."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status, used = os.wait4(child, 0)
    return status, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


KINDS: dict[str, tuple[dict[str, Callable[[], bytes]], Callable[[Path, bytes], int]]] = {
    "pickle": (PICKLES, pickle_bomb),
    "header": (HEADERS, lambda folder, content: at_a_card(folder, "x.safetensors", content)),
    "picture": (IMAGES, picture_bomb),
}


def main(folder: Path, kind: str) -> None:
    logging.disable(logging.WARNING)
    bombs, meet = KINDS[kind]
    told, (_, _, alone) = [], apart(lambda: None)
    for number, (name, make) in enumerate(bombs.items()):
        place = folder / str(number)
        place.mkdir()
        made, _, _ = apart(lambda make=make, place=place: (place / "bomb").write_bytes(make()))
        measure = lambda place=place: (place / "size").write_text(str(meet(place, (place / "bomb").read_bytes())))  # noqa: E731
        status, seconds, most = apart(measure)
        size = int((place / "size").read_text()) if (place / "size").exists() else -1
        mb = (place / "bomb").stat().st_size // MB
        told.append({"name": name, "mb": mb, "more_mb": most - alone, "size": size, "seconds": round(seconds, 2)})
        told[-1]["failed"] = made or status
        print(told[-1], file=sys.stderr, flush=True)
        shutil.rmtree(place)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
