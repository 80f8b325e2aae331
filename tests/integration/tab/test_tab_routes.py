"""The tab's routes: numbers in, sentences out; nothing from a request becomes a path."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_adapters.errors import AdapterError
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.json_route import MAX_BODY_BYTES
from lib_adapters.hosts.tab.routes import add_routes
from lib_adapters.library import Progress
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile
from tests.support.sample_library import opened

API = "/lycoris/api"
PNG = b"\x89PNG\r\n\x1a\n-the-rest"


@dataclass(frozen=True)
class Changes:
    version: int
    cards: list[str]
    removed: list[int]
    after: int = 0


class Shelf:
    """A catalogue of one file, number 1, that writes down what is asked of it."""

    version = 7
    progress = Progress(done=1, total=1)

    def __init__(self, picture: Path) -> None:
        self.asked: list[tuple] = []
        self.picture: Path | None = picture
        self.place = picture.parent
        self.thumb: bytes | None = b"webp"
        self.refusal = ""

    def _note(self, *what):
        if self.refusal:
            raise AdapterError(self.refusal)
        self.asked.append(what)

    def start(self):
        self._note("start")

    def cancel(self):
        self._note("cancel")

    def changes_since(self, since, after, max_bytes):
        return Changes(7, ['{"id":1,"name":"ink \\u00e9"}'] if since < 7 else [], [3] if since else [])

    def path_of(self, card):
        if card != 1:
            raise AdapterError(f"There is no adapter number {card}.")
        return Path("/folder/ink.safetensors")

    def details(self, card):
        self._note("details", card)
        return {"id": card, "path": "/folder/ink.safetensors"}

    def strengths(self, card):
        return [{"block": "IN04", "layers": 8, "strength": None}]

    def hash_of(self, card):
        return {"sha256": "ab", "autov2": "ab", "addnet": "cd"}

    def save(self, card, changes):
        self._note("save", card, dict(changes))

    def set_star(self, card, on):
        self._note("star", card, on)

    def set_preview(self, card, image):
        self._note("set_preview", card, image)

    def preview(self, card):
        return self.picture

    def thumbnail(self, card):
        return self.thumb


@pytest.fixture
def shelf(tmp_path):
    picture = tmp_path / "ink.png"
    picture.write_bytes(PNG)
    return Shelf(picture)


def tab_of(shelf, dependencies=(), place=None):
    return TabBackend(
        library=shelf,
        dependencies=dependencies,
        model=lambda: ("sd1", "Stable Diffusion 1.x"),
        folders=lambda: [("LyCORIS", Path("/folder"))],
        rescan=lambda: shelf.asked.append(("rescan",)),
        key="secret",
        presets=PresetFile((place or shelf.place) / PRESET_FILE_NAME),
        report=lambda: {"lines": ["ink: 3 of 3"]},
    )


def client_of(shelf, dependencies=(), place=None):
    app = FastAPI()
    add_routes(app, tab_of(shelf, dependencies, place))
    return TestClient(app)


@pytest.fixture
def client(shelf):
    return client_of(shelf)


def test_the_cards_come_as_they_are_with_what_the_page_needs_beside_them(client):
    answer = client.get(f"{API}/cards")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "version": 7,
        "after": 0,
        "cards": [{"id": 1, "name": "ink é"}],
        "removed": [],
        "progress": {"running": False, "done": 1, "total": 1, "what": "", "cancelled": False},
        "family": "sd1",
        "family_name": "Stable Diffusion 1.x",
        "folders": ["LyCORIS"],
        "places": ["/folder"],
    }
    later = client.get(f"{API}/cards?since=7").json()
    assert (later["cards"], later["removed"]) == ([], [3])


def test_indexing_that_ends_while_the_cards_are_read_is_not_over_for_the_page(shelf):
    honest = shelf.changes_since

    def changes(*asked):
        found = honest(*asked)
        shelf.progress = Progress(running=False)
        return found

    shelf.changes_since, shelf.progress = changes, Progress(running=True)
    client = client_of(shelf)
    running = [client.get(f"{API}/cards").json()["progress"]["running"] for _ in range(2)]
    assert running == [True, False]


def test_one_card_in_full(client):
    assert client.get(f"{API}/cards/1").json()["path"] == "/folder/ink.safetensors"
    assert client.get(f"{API}/cards/1/strengths").json() == {
        "blocks": [{"block": "IN04", "layers": 8, "strength": None}]
    }
    assert client.get(f"{API}/cards/1/hashes").json()["addnet"] == "cd"


@pytest.mark.parametrize("rest", ["", "/strengths", "/hashes", "/thumb", "/preview"])
def test_an_unknown_number_is_told_in_a_sentence(client, rest):
    answer = client.get(f"{API}/cards/9{rest}")
    assert (answer.status_code, answer.json()) == (404, {"error": "There is no adapter number 9."})


@pytest.mark.parametrize(
    "rest", ["1.5", "..%2f..%2fetc%2fpasswd", "ink.safetensors", "1/preview?v=../../x", "%2e%2e/preview", "-1"]
)
def test_nothing_but_a_number_names_a_card(client, shelf, rest):
    answer = client.get(f"{API}/cards/{rest}")
    assert answer.status_code in (404, 422) or answer.content == PNG
    assert "root" not in answer.text


@pytest.mark.parametrize("number", ["9" * 19, "9" * 40, "-" + "9" * 40])
def test_numbers_that_the_index_cannot_hold(tmp_path, number):
    with opened(tmp_path / "shelf", place=tmp_path / "index") as catalogue:
        client = client_of(catalogue, place=tmp_path)
        assert client.get(f"{API}/cards/{number}").status_code == 404
        assert client.post(f"{API}/cards/{number}/star", json={"on": True}).status_code == 404
        assert client.get(f"{API}/cards?since={number}").json()["cards"] == []


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "x"])
def test_an_announced_length_that_is_none(client, length):
    headers = {"Content-Type": "application/json", "Content-Length": length.encode("latin-1")}
    answer = client.post(f"{API}/cards/1/star", content=b'{"on": true}', headers=headers)
    assert answer.status_code in (200, 413)


def test_half_a_letter_in_a_sentence(client, shelf):
    shelf.refusal = "\ud83d is wrong."
    assert client.get(f"{API}/cards/1").json() == {"error": "? is wrong."}


def test_writing_reaches_the_catalogue(client, shelf):
    image = base64.b64encode(PNG).decode()
    assert client.post(f"{API}/cards/1", json={"notes": "n"}).json() == {"version": 7}
    client.post(f"{API}/cards/1/star", json={"on": True})
    client.post(f"{API}/cards/1/star", json={"on": "yes"})
    client.post(f"{API}/cards/1/preview", json={"image": f"data:image/png;base64,{image}"})
    client.post(f"{API}/refresh", json={})
    client.post(f"{API}/cancel", json={})
    assert shelf.asked == [
        ("save", 1, {"notes": "n"}),
        ("star", 1, True),
        ("star", 1, False),
        ("set_preview", 1, PNG),
        ("rescan",),
        ("start",),
        ("cancel",),
    ]


def test_what_cannot_be_saved_is_a_conflict(client, shelf):
    shelf.refusal = "ink.json is not a JSON object; it was left alone."
    answer = client.post(f"{API}/cards/1", json={"notes": "n"})
    assert (answer.status_code, answer.json()) == (409, {"error": shelf.refusal})
    assert client.post(f"{API}/cards/9", json={"notes": "n"}).status_code == 404
    assert client.get(f"{API}/cards/1").json() == {"error": shelf.refusal}


@pytest.mark.parametrize(
    "image", [None, 3, "", "data:image/png;base64", "data:image/png;base64,!!", "data:text/html;base64,PGI+", "aGk="]
)
def test_what_is_no_picture_is_refused_before_it_is_decoded(client, shelf, image):
    answer = client.post(f"{API}/cards/1/preview", json={"image": image})
    assert answer.status_code == 422
    assert "data:image/png;base64" in answer.json()["error"]
    assert not shelf.asked


@pytest.mark.parametrize("content", [b"[1]", b"{", b"", b'"text"'])
def test_a_body_that_is_no_object_is_not_understood(client, shelf, content):
    answer = client.post(f"{API}/cards/1", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"].endswith(".")
    assert not shelf.asked


def test_a_form_of_another_site_changes_nothing(client, shelf):
    """A page elsewhere can send text or a form without asking; only JSON is taken, which it cannot send."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post(f"{API}/cards/1/star", content=b'{"on": true}', headers={"Content-Type": kind})
        assert answer.status_code == 422
    assert not shelf.asked


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_read_only_up_to_the_limit(client, shelf, announced):
    content = b" " * (MAX_BODY_BYTES + 1)
    headers = {"Content-Type": "application/json"}
    answer = client.post(f"{API}/cards/1", content=content if announced else iter([content]), headers=headers)
    assert answer.status_code == 413
    assert "32 MB" in answer.json()["error"]
    assert not shelf.asked


def test_pictures_may_be_kept_for_ever_under_an_address_with_a_version(client, shelf):
    answer = client.get(f"{API}/cards/1/thumb?v=5")
    assert (answer.content, answer.headers["content-type"]) == (b"webp", "image/webp")
    assert "immutable" in answer.headers["cache-control"]
    assert client.get(f"{API}/cards/1/thumb").headers["cache-control"] == "no-cache"
    preview = client.get(f"{API}/cards/1/preview?v=5")
    assert (preview.content, preview.headers["content-type"]) == (PNG, "image/png")
    assert preview.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["ink.svg", "ink.html", "ink.safetensors", "gone.png", None])
def test_only_pictures_and_videos_are_served(client, shelf, tmp_path, name):
    shelf.picture = tmp_path / name if name else None
    if name and name.startswith("ink"):
        shelf.picture.write_bytes(b"<svg onload=alert(1)>")
    answer = client.get(f"{API}/cards/1/preview")
    assert answer.status_code == 404
    assert "svg onload" not in answer.text


def test_a_file_without_a_picture_has_no_thumbnail(client, shelf):
    shelf.thumb = None
    assert client.get(f"{API}/cards/1/thumb").json() == {"error": "This file has no picture."}
