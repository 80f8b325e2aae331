"""What the panel of active adapters asks for: presets of block weights, and what was done for the last picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Body

from lib_adapters.catalogue.presets import PresetFile
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.tab.bodies import Refused
from lib_adapters.hosts.tab.tab import Tab
from lib_adapters.prompt.block_layouts import EDITOR_ROWS, LAYOUTS
from lib_adapters.prompt.block_weights import Presets

LONGEST = 20_000  # letters of one preset


def add_control(router: APIRouter, tab: Tab) -> None:
    @router.get("/presets")
    def presets() -> Any:
        return listed(tab.presets)

    @router.post("/presets")
    def save(given: dict[str, Any] = Body(...)) -> Any:  # noqa: B008 - how fastapi is told
        tab.presets.save(Presets(_table(given.get("presets"), "presets"), _table(given.get("elements"), "elements")))
        return listed(tab.presets)

    @router.get("/report")
    def report() -> Any:
        return tab.report()


def listed(presets: PresetFile) -> dict[str, Any]:
    """Everything that an editor shows."""
    found = presets.listing()
    return {
        "presets": _rows(found.every.blocks, found.own.blocks),
        "elements": _rows(found.every.elements, found.own.elements),
        "layouts": {family: list(ids) for family, ids in EDITOR_ROWS.items()},
        "lists": {str(count): list(ids) for count, ids in LAYOUTS.items()},
        "path": str(presets.path),
        "problems": list(found.problems),
    }


def _rows(every: Mapping[str, str], own: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "text": text, "own": name in own} for name, text in every.items()]


def _table(rows: object, what: str) -> dict[str, str]:
    """A name that is there twice would silently lose its first text."""
    if not isinstance(rows, list):
        raise Refused(422, f"{what} has to be a list of presets, each with a name and a text.")
    table: dict[str, str] = {}
    for row in rows:
        name, text = (row.get("name"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise Refused(422, f"each of {what} needs a name and a text.")
        name = name.strip()
        if name in table:
            raise AdapterError(f"{name} is there twice; give one of them another name.")
        if len(name) + len(text) > LONGEST:
            raise AdapterError(f"{name[:40]} is longer than {LONGEST} letters.")
        table[name] = text.strip()
    return table
