"""Routes of the panel: block-weight presets and the last report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Body

from lib_adapters.errors import AdapterError
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.json_route import HTTPProblem
from lib_adapters.library.preset_file import PresetFile
from lib_adapters.prompt.block_layouts import EDITOR_ROWS, LAYOUTS
from lib_adapters.prompt.block_weights import Presets

MAX_CHARACTERS = 20_000  # letters of one preset


def add_preset_routes(router: APIRouter, tab: TabBackend) -> None:
    @router.get("/presets")
    def presets() -> Any:
        return presets_json(tab.presets)

    @router.post("/presets")
    def save(given: dict[str, Any] = Body(...)) -> Any:  # noqa: B008 - how fastapi is told
        tab.presets.save(Presets(_table(given.get("presets"), "presets"), _table(given.get("elements"), "elements")))
        return presets_json(tab.presets)

    @router.get("/report")
    def report() -> Any:
        return tab.report()


def presets_json(presets: PresetFile) -> dict[str, Any]:
    """Everything that an editor shows."""
    found = presets.listing()
    return {
        "presets": _rows(found.all_presets.blocks, found.own_presets.blocks),
        "elements": _rows(found.all_presets.elements, found.own_presets.elements),
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
        raise HTTPProblem(422, f"{what} has to be a list of presets, each with a name and a text.")
    table: dict[str, str] = {}
    for row in rows:
        name, text = (row.get("name"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise HTTPProblem(422, f"each of {what} needs a name and a text.")
        name = name.strip()
        if name in table:
            raise AdapterError(f"{name} is there twice; give one of them another name.")
        if len(name) + len(text) > MAX_CHARACTERS:
            raise AdapterError(f"{name[:40]} is longer than {MAX_CHARACTERS} letters.")
        table[name] = text.strip()
    return table
