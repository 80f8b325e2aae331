"""A contact sheet: captioned images in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

GAP = 10
LINE_HEIGHT = 17
MIN_IMAGE_SIDE = 192  # pixels: a tiny model's pictures are enlarged to this
INK, PAPER, GREY = (20, 20, 24), (250, 250, 247), (105, 105, 112)


@dataclass(frozen=True)
class Cell:
    image: Image.Image
    title: str
    note: str = ""


def contact_sheet(rows: Sequence[Sequence[Cell]], title: str) -> Image.Image:
    """All pictures at one size, their labels below them."""
    side = [max(cell.image.size[axis] for row in rows for cell in row) for axis in (0, 1)]
    factor = max(1, -(-MIN_IMAGE_SIDE // min(side)))
    width, height = (factor * length for length in side)
    columns = max(len(row) for row in rows)
    step_x, step_y = width + GAP, height + 2 * LINE_HEIGHT + GAP
    sheet = Image.new("RGB", (GAP + columns * step_x, LINE_HEIGHT + 2 * GAP + len(rows) * step_y), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = _font()
    pen.text((GAP, GAP), _fitting(pen, title, sheet.width - 2 * GAP, font), INK, font)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            left, top = GAP + x * step_x, LINE_HEIGHT + 2 * GAP + y * step_y
            sheet.paste(cell.image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (left, top))
            pen.text((left, top + height + 3), _fitting(pen, cell.title, width, font), INK, font)
            pen.text((left, top + height + 3 + LINE_HEIGHT), _fitting(pen, cell.note, width, font), GREY, font)
    return sheet


Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont


def _font() -> Font:
    """Pillow before 10.1 has one small bitmap font and takes no size."""
    try:
        return ImageFont.load_default(12)
    except TypeError:
        return ImageFont.load_default()


def _fitting(pen: ImageDraw.ImageDraw, text: str, width: int, font: Font) -> str:
    """Cut at the end where it would run into the next column."""
    text = " ".join(text.split())
    if not isinstance(font, ImageFont.FreeTypeFont):
        text = text.encode("latin-1", "replace").decode("latin-1")  # all that the bitmap font has
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
