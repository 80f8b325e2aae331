"""Names of a model's blocks and the lists of numbers that lora-block-weight defines for them.

Source of the lists: hako-mikan/sd-webui-lora-block-weight (12, 17, 20, 26 and 61 numbers). Stable Diffusion 3's joint
blocks are counted J00, J01 ...; whatever lies outside the blocks (TIME, LAST) is in no list.
"""

from __future__ import annotations

from collections.abc import Mapping

TEXT, MIDDLE, OUTSIDE = "BASE", "M00", ("TIME", "LAST")
_ALIASES = {"MID": MIDDLE, "MIDDLE": MIDDLE, "TE": TEXT}


def _run(letter: str, numbers: range | tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{letter}{number:02}" for number in numbers)


FULL_LAYOUT = (TEXT, *_run("IN", range(12)), MIDDLE, *_run("OUT", range(12)))
SD3 = (TEXT, *_run("J", range(24)))
FLUX = ("CLIP", "T5", "IN", *_run("D", range(19)), *_run("S", range(38)), "OUT")

LAYOUTS: Mapping[int, tuple[str, ...]] = {  # by how many numbers there are
    12: (TEXT, *_run("IN", (4, 5, 7, 8)), MIDDLE, *_run("OUT", range(6))),
    17: (TEXT, *_run("IN", (1, 2, 4, 5, 7, 8)), MIDDLE, *_run("OUT", range(3, 12))),
    20: (TEXT, *_run("IN", range(9)), MIDDLE, *_run("OUT", range(9))),
    25: SD3,
    26: FULL_LAYOUT,
    61: FLUX,
}
_ORDER = (*FULL_LAYOUT, *SD3[1:], *(name for name in FLUX if name not in ("IN", "OUT")), *OUTSIDE)
_KNOWN = frozenset({*_ORDER, *FLUX})
BLOCKS = _KNOWN - {*OUTSIDE}

EDITOR_ROWS: Mapping[str, tuple[str, ...]] = {  # the rows of an editor, by the model's family
    "sd1": FULL_LAYOUT,
    "sd2": FULL_LAYOUT,
    "sdxl": LAYOUTS[20],
    "sdxl-refiner": FULL_LAYOUT,
    "sd3": SD3,
}


def parse_block(word: str) -> str | None:
    """The block that a user's word means; None where it means none."""
    name = word.strip().upper()
    name = _ALIASES.get(name, name)
    if name[:-1] in ("IN", "OUT", "J", "D", "S") and name[-1].isdigit():
        name = f"{name[:-1]}0{name[-1]}"
    return name if name in _KNOWN else None


def block_range(first: str, last: str) -> list[str] | None:
    """From one block to the other in the order in which a picture passes them, whichever is named first."""
    ends = [parse_block(word) for word in (first, last)]
    if any(end is None or end not in _ORDER for end in ends):
        return None
    low, high = sorted(_ORDER.index(end) for end in ends if end is not None)
    return list(_ORDER[low : high + 1])
