"""Block-weight presets: the well-known ones, and the format of the user's file.

The file is lora-block-weight's own format, `NAME:1,0,...` to a line; rules for kinds of layers stand below a line
`[lbwe]`. A preset of the file wins over a built-in one of its name. Lines that cannot be read are kept and told of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lib_adapters.errors import BadTag
from lib_adapters.prompt.block_weights import BlockWeightSpec, Presets, resolve_block_weights
from lib_adapters.prompt.schedule import NUMBER

BUILT_IN = Presets(
    {
        "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
        "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
        "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
        "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
        "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
        "ALL0.5": "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5",
    },
    {
        "ATTNDEEPON": "IN05-OUT05:attn:1",
        "ATTNDEEPOFF": "IN05-OUT05:attn:0",
        "PROJDEEPOFF": "IN05-OUT05:proj:0",
    },
)
SECTION = "[lbwe]"
BYTE_ORDER = "\ufeff"  # what some editors put in front
MAX_BYTES = 1 << 20


def parse_presets(text: str) -> tuple[Presets, list[str]]:
    """What a file says, and a sentence for each line that says nothing."""
    found: dict[bool, dict[str, str]] = {False: {}, True: {}}
    problems: list[str] = []
    elements = False
    for number, line in enumerate(text.removeprefix(BYTE_ORDER).splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry.lower() == SECTION:
            elements = True
            continue
        name, _, value = (part.strip() for part in entry.partition(":"))
        if problem := preset_error(name, value, elements):
            problems.append(f"line {number}: {problem}")
        else:
            found[elements][name] = value
    return Presets(found[False], found[True]), problems


def preset_error(name: str, value: str, elements: bool) -> str:
    """What is wrong with a preset in one sentence; "" where nothing is."""
    odd = name.strip() != name or name.splitlines() != [name] or name.startswith(("#", BYTE_ORDER))
    if odd or set(name) & set(':,;*=<>"') or NUMBER.fullmatch(name):
        return f"{name!r} cannot be a preset's name: no number, no # in front, and none of : , ; * = < > and quotes."
    if len(value.splitlines()) > 1 and not elements:
        return f"{name}: {value!r} is more than one line."
    try:
        resolve_block_weights(BlockWeightSpec(elements=value) if elements else BlockWeightSpec(value), Presets())
    except BadTag as error:
        return f"{name}: {error}."
    return "" if value else f"{name} has no weights."


def format_presets(presets: Presets) -> str:
    """The text of a file that `parse_presets` reads as the same."""
    lines = [f"{name}:{value}" for name, value in presets.blocks.items()]
    rules = [f"{name}:{_one_line(value)}" for name, value in presets.elements.items()]
    return "\n".join([*lines, *([SECTION, *rules] if rules else []), ""])


def merge_presets(*sources: Presets) -> Presets:
    """The later ones win."""
    blocks: Mapping[str, str] = _merged(one.blocks for one in sources)
    return Presets(blocks, _merged(one.elements for one in sources))


def _merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for part in parts:
        merged |= part
    return merged


def _one_line(value: str) -> str:
    return ",".join(line.strip() for line in value.splitlines() if line.strip())
