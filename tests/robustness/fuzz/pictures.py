"""A picture beside an adapter, in its header, or sent by a page, whatever its bytes are."""

from __future__ import annotations

import base64
import io
import json
import warnings

from PIL import Image

from lib_adapters.errors import AdapterError
from lib_adapters.library.image_decoding import MAX_PIXELS, MAX_SIDE, as_png, make_thumbnail
from lib_adapters.library.previews import embedded_covers
from tests.robustness.fuzz.read_checks import check_sentence
from tests.support.input_bounds import Bound

BOUND = Bound(calls=40_000, calls_per_byte=200, memory=800 << 20)  # a picture of the most pixels, twice
TOKENS = [
    b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT", b"tEXt", b"zTXt", b"iCCP", b"acTL", b"GIF89a", b"\xff\xd8\xff\xe0",
    b"\xff\xe1\x00\x10Exif\0\0", b"RIFF", b"WEBP", b"VP8 ", b"VP8X", b"%!PS", b"<svg", b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x01",
]  # fmt: skip
KINDS = ("PNG", "JPEG", "WEBP", "GIF")


def target(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of pictures that we then refuse
        check(data)


def check(data: bytes) -> None:
    made = make_thumbnail(data)
    if made is not None:
        picture = Image.open(io.BytesIO(made))
        assert picture.format == "WEBP"
        assert max(picture.size) <= MAX_SIDE
    try:
        kept = as_png(data)
    except AdapterError as error:
        check_sentence(str(error))
    else:
        picture = Image.open(io.BytesIO(kept))
        assert picture.format == "PNG"
        assert picture.width * picture.height <= MAX_PIXELS
    text = data.decode("utf-8", "surrogateescape")
    for value in (text, json.dumps([text, 3, base64.b64encode(data).decode()]), f"data:image/png;base64,{text}"):
        assert all(
            isinstance(image, bytes)
            for image in embedded_covers({"ssmd_cover_images": value, "modelspec.thumbnail": text})
        )


def seeds() -> list[bytes]:
    found = []
    for kind in KINDS:
        for mode in ("RGB", "L", "P", "1") if kind in ("PNG", "GIF") else ("RGB",):
            made = io.BytesIO()
            Image.new(mode, (20, 30)).save(made, kind)
            found.append(made.getvalue())
    moving = io.BytesIO()
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    return [*found, moving.getvalue()]
