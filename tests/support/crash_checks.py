"""What must hold in a folder and its index, whenever the process before was ended."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

from PIL import Image

from lib_adapters.library import AdapterLibrary
from lib_adapters.library.open_database import DATABASE_NAME
from lib_adapters.library.preset_file import PresetFile
from tests.support.sample_library import cards, scan

SIZES = {(10, 10), (30, 20), (20, 30)}
NAMED = {"first": (30, 20), "second": (20, 30)}
TEXTS = {"old", "one", "two", None}


def findings(work: Path, acks: list[list[str]]) -> list[str]:
    catalogue = AdapterLibrary(lambda: [work / "root"], work / "place")
    try:
        before, after = cards(catalogue), scan(catalogue)
        return [
            *_of_cards(work, before, after, acks),
            *([f"indexing says {catalogue.progress.message}"] if catalogue.progress.message else []),
            *_of_index(work),
            *_of_edits(work, after, acks),
            *_of_pictures(work, acks, {catalogue.thumbnail(card["id"]) for card in after.values()} - {None}),
            *_of_presets(work, acks),
        ]
    finally:
        catalogue.close()


def _of_cards(work: Path, before: dict, after: dict, acks: list[list[str]]) -> list[str]:
    there = {str(path.relative_to(work / "root")) for path in (work / "root").rglob("*.safetensors")}
    listed = [card["file"] for card in after.values()]
    found = [] if sorted(listed) == sorted(there) else [f"cards {sorted(listed)} instead of {sorted(there)}"]
    if ["scanned"] in acks and before != after:
        found.append("what was indexed to the end is not in the index")
    starred = any(card.get("star") for card in after.values() if card["file"] == "style/ink.safetensors")
    if not starred and not (work / "unstarred").exists():
        found.append("a star is lost")
    for kind, name in (ack[:2] for ack in acks if ack[0] in ("star", "used")):
        found += [] if after[name].get(kind) else [f"{kind} of {name} is lost"]
    return found


def _of_index(work: Path) -> list[str]:
    connection = sqlite3.connect(work / "place" / DATABASE_NAME)
    said = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return [] if said == "ok" else [f"the index is damaged: {said}"]


def _of_edits(work: Path, after: dict, acks: list[list[str]]) -> list[str]:
    found: list[str] = []
    for name in ("a", "b"):
        stored: dict[str, Any] = {}
        if (path := work / f"root/{name}.json").exists():
            stored = json.loads(path.read_text("utf-8"))  # never half of it
        text = stored.get("activation text")
        saved = [ack[2] for ack in acks if ack[:2] == ["saved", name]]
        allowed = TEXTS if not saved else {"one", "two"} if saved[-1] == "one" else {"two"}
        found += [] if text in allowed else [f"{name} says {text!r}, saved was {saved}"]
        if name == "a" and (stored.get("modelId"), stored.get("notes")) != (7, "theirs"):
            found.append("what others wrote is lost")
        if after[name].get("words", [None])[0] != text:
            found.append(f"the card of {name} says {after[name].get('words')} instead of {text!r}")
    return found


def _of_pictures(work: Path, acks: list[list[str]], thumbs: set[Any]) -> list[str]:
    sizes = {_size((work / "root/b.png").read_bytes())}
    set_last = [NAMED[ack[2]] for ack in acks if ack[0] == "picture"][-1:]
    found = [] if sizes <= SIZES and (not set_last or sizes != {(10, 10)}) else [f"the picture is {sizes}"]
    if set_last == [NAMED["second"]] and sizes != {NAMED["second"]}:
        found.append("the last picture is lost")
    return found + ([] if {_size(one) for one in thumbs} == sizes else ["a thumbnail is of another picture"])


def _size(image: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(image)) as picture:
        picture.load()
        return picture.size


def _of_presets(work: Path, acks: list[list[str]]) -> list[str]:
    text = PresetFile(work / "presets.txt").listing().own_presets.blocks.get("mine")
    saved = [ack[1] for ack in acks if ack[0] == "preset"]
    allowed = {"IN05", "IN06", "IN07"} if not saved else {"IN06", "IN07"} if saved[-1] == "IN06" else {"IN07"}
    return [] if str(text) in allowed else [f"the preset is {text!r}, saved was {saved}"]
