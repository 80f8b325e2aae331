"""Requests of any kind to every route of the tab, over a real catalogue: a sentence at worst, and nobody's secret."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from PIL import Image

from lib_adapters.hosts.tab.auth import auth_dependencies
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.routes import PREFIX, add_routes
from lib_adapters.library import AdapterLibrary
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile
from tests.robustness.fuzz.data_provider import Choices
from tests.robustness.fuzz.sidecars import sendable
from tests.robustness.fuzz.work_folder import folder
from tests.support.input_bounds import Bound
from tests.support.sample_library import adapter, picture, sidecar

DECIDES = True
BOUND = Bound(calls=600_000, calls_per_byte=3_000)
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"]
CARDS = [
    "", "0", "-1", "9" * 19, "9" * 40, "1" * 5000, "1.5", "1e3", "٣", "..%2f..%2fsecret", "%2e%2e", "x.safetensors",
    "%00", " 1", "+1", "1_0",
]  # fmt: skip
ENDS = ["", "/strengths", "/hashes", "/thumb", "/preview", "/star", "/", "/../../secret", "/%2e%2e/secret"]
OTHERS = ["/presets", "/report", "/refresh", "/cancel", "/cards", "/nothing", "", "/../files/x"]
HEADERS = [
    b"origin", b"host", b"content-type", b"content-length", b"authorization", b"x-lycoris-key", b"range",
    b"if-none-match", b"accept",
]  # fmt: skip
VALUES = [
    b"http://testserver", b"http://[", b"null", b"http://evil.example", b"application/json", b"text/plain",
    b"application/json; charset=utf-7", b"multipart/form-data; boundary=x", b"\xb2", b"99999999999", b"-1",
    b"Basic !!", b"Basic " + base64.b64encode(b"ann:pass:word"), b"Basic " + base64.b64encode(b"\xff\xfe"), b"secret",
    b"\xff", b"", b"bytes=0-", b"bytes=9-1,-5", b"bytes=-99999999999999999999",
]  # fmt: skip
QUERIES = [
    b"since=0", b"since=-1", b"since=" + b"9" * 30, b"since=x", b"v=../../secret", b"key=secret", b"key=%ff", b"a=%",
    b"&&=", b"since=1&since=2",
]  # fmt: skip
WORDS = [
    "notes", "preferred weight", "description", "on", "image", "presets", "elements", "name", "text", "IN05:0.5",
    ":attn:1", "mine", "1,2", "\ud800", "a\x85b", "data:image/png;base64,", "../../secret", "sd version",
    "activation text",
]  # fmt: skip
PICTURE = base64.b64encode(picture(size=(3, 3))).decode()
SECRET = b"not for pages"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def target(data: bytes) -> None:
    choices = Choices(data)
    before = tree()
    site, cards = made()
    scope, body = request(choices, cards)
    browsers = asyncio._get_running_loop()  # an open browser keeps its loop running in this thread
    asyncio._set_running_loop(None)
    try:
        answer = asyncio.run(ask(site, scope, body))
    finally:
        asyncio._set_running_loop(browsers)
    check(answer)
    if scope["method"] != "POST":
        assert tree() == before, "a request that only reads wrote something"


def check(answer: Answer) -> None:
    assert 200 <= answer.status < 500
    assert SECRET not in answer.body
    if answer.headers.get(b"content-type", b"").startswith(b"application/json") and answer.body:
        text = answer.body.decode("utf-8")
        told = sendable(text) if text[0] == "{" else json.loads(text)
        assert answer.status == 200 or told.get("error") or told.get("detail")
    assert (folder("routes") / "secret").read_bytes() == SECRET
    assert {path.name for path in folder("routes").iterdir()} <= {"secret", "shelf", "index", "x.safetensors"}


def tree() -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder("routes").rglob("*")
        if path.is_file() and "index" not in path.parts
    }


def request(choices: Choices, cards: list[int]) -> tuple[dict[str, Any], bytes]:
    known = [str(card) for card in cards]
    path = choices.one(OTHERS)
    if choices.chance(4) is False:
        path = f"/cards/{choices.one(known if choices.chance(3) is False else CARDS)}{choices.one(ENDS)}"
    headers = [(choices.one(HEADERS), choices.one(VALUES)) for _ in range(choices.number(0, 4))]
    method = choices.one(METHODS[:2]) if choices.chance(4) is False else choices.one(METHODS)
    if method == "POST" and choices.chance(4) is False:
        headers.append((b"content-type", b"application/json"))
    raw = (PREFIX + path).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": unquoted(raw), "raw_path": raw, "root_path": "",
        "query_string": b"&".join(choices.some(lambda: choices.one(QUERIES), 3)),
        "headers": [(b"host", b"testserver"), *headers], "client": ("127.0.0.1", 1), "server": ("testserver", 80),
    }  # fmt: skip
    return scope, body_of(choices)


def unquoted(raw: bytes) -> str:
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(raw).decode("utf-8", "replace")


def body_of(choices: Choices) -> bytes:
    kind = choices.number(0, 7)
    if kind == 0:
        return choices.raw(choices.number(0, 60))
    if kind == 1:
        return json.dumps(
            {"image": f"data:image/png;base64,{choices.one(['', '!', PICTURE, PICTURE[:40], PICTURE + '='])}"}
        ).encode()
    if kind == 2:
        return json.dumps({key: rows(choices) for key in ("presets", "elements")}).encode()
    return choices.table(WORDS).encode()


def rows(choices: Choices) -> object:
    return choices.some(
        lambda: {"name": choices.one([choices.text(), *WORDS]), "text": choices.one([choices.text(), *WORDS])}, 3
    )


async def ask(site: FastAPI, scope: dict[str, Any], body: bytes) -> Answer:
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await site(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    content = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return Answer(start["status"], dict(start["headers"]), content)


@cache
def made() -> tuple[FastAPI, list[int]]:
    """A shelf of three files; what is beside it is nobody's business."""
    shelf = folder("routes") / "shelf"
    (folder("routes") / "secret").write_bytes(SECRET)
    (folder("routes") / "x.safetensors").write_bytes(SECRET)
    sidecar(adapter(shelf / "ink.safetensors", ss_output_name="ink"), {"notes": "n", "other": [1]})
    (shelf / "ink.png").write_bytes(picture(size=(4, 4)))
    adapter(shelf / "deep" / "moss.safetensors", "lokr")
    (shelf / "broken.safetensors").write_bytes(b"<html>")
    Image.init()  # and not when the first picture comes
    catalogue = AdapterLibrary(lambda: [shelf], folder("routes") / "index")
    catalogue.start()
    catalogue.wait(60)
    app = FastAPI()
    add_routes(app, tab(catalogue, shelf))
    return app, sorted(json.loads(text)["id"] for text in catalogue.changes_since(0).cards)


def tab(catalogue: AdapterLibrary, shelf: Path) -> TabBackend:
    return TabBackend(
        library=catalogue,
        dependencies=auth_dependencies("secret", []),
        model=lambda: ("sd1", "Stable Diffusion 1.x"),
        folders=lambda: [("LyCORIS", shelf)],
        rescan=lambda: None,
        key="secret",
        presets=PresetFile(shelf / PRESET_FILE_NAME),
        report=lambda: {"lines": ["ink: 3 of 3"]},
    )


def seeds() -> list[bytes]:
    return [bytes(range(n, n + 40)) for n in range(0, 220, 12)]
