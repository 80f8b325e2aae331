"""Decoding of untrusted images: the size is checked before pixels are decoded."""

from __future__ import annotations

import io
import logging

from PIL import Image, ImageOps

from lib_adapters.errors import AdapterError

logger = logging.getLogger(__name__)

MAX_SIDE = 384
MAX_PIXELS = 50_000_000  # 150 MB when decoded; a camera's picture has half of that
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # never those that start other programs (EPS)


def make_thumbnail(image: bytes) -> bytes | None:
    """WebP of at most SIDE pixels a side; None for what cannot be decoded."""
    try:
        opened = _opened(image)
        opened.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # a JPEG is decoded at a fraction of its size
        coloured = opened.convert("RGBA" if _is_clear(opened) else "RGB")
        coloured.thumbnail((MAX_SIDE, MAX_SIDE))
        made = io.BytesIO()
        ImageOps.exif_transpose(coloured).save(made, "WEBP", quality=80)
        return made.getvalue()
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they please on damaged pictures
        logger.debug("LyCORIS: a picture cannot be shown small: %s", error)
        return None


def as_png(image: bytes) -> bytes:
    """Return the bytes of a PNG as they are, because its text holds the infotext; raise AdapterError for no image."""
    try:
        opened = _opened(image)
        opened.load()
        if opened.format == "PNG":
            return image
        made = io.BytesIO()
        ImageOps.exif_transpose(opened).save(made, "PNG")
        return made.getvalue()
    except Exception as error:
        raise AdapterError(f"This is no picture that can be kept as a preview ({str(error)[:200]}).") from error


def _opened(image: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(image), formats=FORMATS)
    if opened.width * opened.height > MAX_PIXELS:
        raise ValueError(f"{opened.width} x {opened.height} pixels are too many")
    return opened


def _is_clear(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info
