"""The tab's routes under /lycoris/api.

Plain functions, not coroutines: they are run beside the event loop. A card is named by its number alone and the
catalogue knows the file, so no path ever comes from a request.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import FileResponse

from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import open_regular_file
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.json_route import MAX_BODY_BYTES, HTTPProblem, SafeJSONResponse, SizeLimitedRoute
from lib_adapters.hosts.tab.preset_routes import add_preset_routes
from lib_adapters.library.records import WINDOW_CHARACTERS, Progress

PREFIX = "/lycoris/api"
KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
IMAGE_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"\x1aE\xdf\xa3")  # WebP is RIFF, WebM the last
NO_PREVIEW = "There is no picture or video beside this file."
CACHE_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # the address has the version in it
SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}


def add_routes(app: Any, tab: TabBackend) -> None:
    """`app`: the host's, of any release of fastapi."""
    guards = list(tab.dependencies)
    router = APIRouter(
        prefix=PREFIX, route_class=SizeLimitedRoute, default_response_class=SafeJSONResponse, dependencies=guards
    )
    _add_reading(router, tab)
    _add_image_routes(router, tab)
    _add_writing(router, tab)
    add_preset_routes(router, tab)
    app.include_router(router)


def _add_reading(router: APIRouter, tab: TabBackend) -> None:
    catalogue = tab.library

    @router.get("/cards")
    def cards(since: int = 0, after: int = 0) -> Response:
        """The cards are texts already; with ten thousand of them, reading them again would take a second."""
        progress = catalogue.progress  # first: a round that ends in between must not seem over without its last cards
        changes = catalogue.changes_since(since, after, WINDOW_CHARACTERS)
        family, family_name = tab.model()
        rest = {
            "version": changes.version,
            "after": changes.after,
            "removed": list(changes.removed),
            "progress": _progress_json(progress),
            "family": family,
            "family_name": family_name,
            "folders": [label for label, _ in tab.folders()],
            "places": [str(path) for _, path in tab.folders()],
        }
        text = f'{json.dumps(rest)[:-1]}, "cards": [{",".join(changes.cards)}]}}'
        return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})

    @router.get("/cards/{card}")
    def details(card: int) -> Any:
        _there(tab, card)
        return catalogue.details(card)

    @router.get("/cards/{card}/strengths")
    def strengths(card: int) -> Any:
        _there(tab, card)
        return {"blocks": catalogue.strengths(card)}

    @router.get("/cards/{card}/hashes")
    def hashes(card: int) -> Any:
        _there(tab, card)
        return catalogue.hash_of(card)


def _add_image_routes(router: APIRouter, tab: TabBackend) -> None:
    @router.get("/cards/{card}/thumb")
    def thumb(card: int, request: Request) -> Response:
        _there(tab, card)
        data = tab.library.thumbnail(card)
        if data is None:
            raise HTTPProblem(404, "This file has no picture.")
        return Response(data, media_type="image/webp", headers=SECURITY_HEADERS | _kept(request))

    @router.get("/cards/{card}/preview")
    def preview(card: int, request: Request) -> Response:
        _there(tab, card)
        path = tab.library.preview(card)
        kind = KINDS.get(path.suffix.lower()) if path is not None else None
        if path is None or kind is None or not _is_media(path):
            raise HTTPProblem(404, NO_PREVIEW)
        headers = SECURITY_HEADERS | _kept(request)
        try:  # read at once: a picture may be replaced while it is sent, and its length would be the other one's
            if kind.startswith("image/") and path.stat().st_size <= MAX_BODY_BYTES:
                return Response(path.read_bytes(), media_type=kind, headers=headers)
        except OSError as error:
            raise HTTPProblem(404, NO_PREVIEW) from error
        return FileResponse(str(path), media_type=kind, headers=headers)


def _add_writing(router: APIRouter, tab: TabBackend) -> None:
    catalogue = tab.library

    @router.post("/cards/{card}")
    def save(card: int, changes: dict[str, Any] = Body(...)) -> Any:  # noqa: B008 - how fastapi is told
        _there(tab, card)
        try:
            catalogue.save(card, changes)
        except AdapterError as error:
            raise HTTPProblem(409, str(error)) from error
        return {"version": catalogue.version}

    @router.post("/cards/{card}/star")
    def star(card: int, given: dict[str, Any] = Body(...)) -> Any:  # noqa: B008
        _there(tab, card)
        catalogue.set_star(card, given.get("on") is True)
        return {"version": catalogue.version}

    @router.post("/cards/{card}/preview")
    def set_preview(card: int, given: dict[str, Any] = Body(...)) -> Any:  # noqa: B008
        _there(tab, card)
        catalogue.set_preview(card, _image_bytes(given.get("image")))
        return {"version": catalogue.version}

    @router.post("/refresh")
    def refresh(given: dict[str, Any] = Body(...)) -> Any:  # noqa: B008
        tab.rescan()
        catalogue.start()
        return {"version": catalogue.version}

    @router.post("/cancel")
    def cancel(given: dict[str, Any] = Body(...)) -> Any:  # noqa: B008
        catalogue.cancel()
        return {"version": catalogue.version}


def _progress_json(progress: Progress) -> dict[str, Any]:
    """Return the fields under the names that the page and other clients of the API read."""
    fields = dataclasses.asdict(progress)
    fields["what"] = fields.pop("message")
    return fields


def _is_media(path: Path) -> bool:
    """By what it is: its name may be a link to anything."""
    try:
        with open_regular_file(path) as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(IMAGE_SIGNATURES) or start[4:8] == b"ftyp"


def _there(tab: TabBackend, card: int) -> Path:
    try:
        return tab.library.path_of(card)
    except AdapterError as error:
        raise HTTPProblem(404, str(error)) from error


def _kept(request: Request) -> dict[str, str]:
    return CACHE_FOREVER if request.query_params.get("v") else {"Cache-Control": "no-cache"}


def _image_bytes(text: object) -> bytes:
    head, comma, data = text.partition(",") if isinstance(text, str) else ("", "", "")
    try:
        if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
            raise ValueError(head)
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise HTTPProblem(422, 'A picture is sent as "data:image/png;base64,...".') from error
