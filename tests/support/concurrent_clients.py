"""People at the tab's routes, over real connections: each does so many things and writes down what it saw."""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from PIL import Image

from tests.support.sample_library import picture

API = "/lycoris/api"
TOLD = {200, 404, 409, 422}  # done, or a sentence that says why not
PATIENCE = 60.0  # seconds for one answer; a lock that nobody gives back takes longer


@contextmanager
def served(app: Any) -> Iterator[tuple[str, int]]:
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(20)


@dataclass
class Write:
    """One acknowledged edit: between `start` and `end` it became what is stored."""

    value: Any
    start: float
    end: float


@dataclass
class Client:
    address: tuple[str, int]
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    writes: dict[tuple[str, str], list[Write]] = field(default_factory=dict)  # (file's number, key)
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)  # the cards of a page that follows
    version: int = 0

    def ask(self, path: str, given: Any = None, prefix: str = API) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            body = None if given is None else json.dumps(given)
            headers = {} if given is None else {"Content-Type": "application/json"}
            connection.request("GET" if given is None else "POST", prefix + path, body, headers)
            answer = connection.getresponse()
            content = answer.read()  # IncompleteRead where a picture is torn
        finally:
            connection.close()
        self.statuses[answer.status] += 1
        if answer.status not in TOLD:
            self.wrong.append(f"{path}: {answer.status} {content[:200]!r}")
        return answer.status, content

    def told(self, path: str, given: Any = None, prefix: str = API) -> Any:
        """The answer as JSON; None where it was a refusal."""
        status, content = self.ask(path, given, prefix)
        found = json.loads(content)  # never half of it
        if status != 200 and not str(found.get("error", "")).strip():
            self.wrong.append(f"{path}: {status} without a sentence")
        return found if status == 200 else None

    def follow(self) -> None:
        """As the page: what changed since the last time, applied to what was there."""
        more, after = True, 0
        while more:
            changes = self.told(f"/cards?since={self.version}&after={after}")
            ids = [card["id"] for card in changes["cards"]]
            if len(set(ids)) != len(ids) or set(ids) & set(changes["removed"]) or changes["version"] < self.version:
                self.wrong.append("a list of cards that mixes two states")
            self.seen |= {card["id"]: card for card in changes["cards"]}
            for card in changes["removed"]:
                self.seen.pop(card, None)
            self.version, after = changes["version"], changes["after"]
            more = after > 0

    def look_at_all(self) -> list[dict[str, Any]]:
        """As a page that is opened: all cards, which are those of one state once the last window is here."""
        self.seen, self.version = {}, 0
        self.follow()
        names = [card["name"] for card in self.seen.values()]
        if len(set(names)) != len(names):
            self.wrong.append("two cards of one name")
        return list(self.seen.values())

    def edit(self, card: dict[str, Any], key: str, value: Any) -> None:
        start = time.monotonic()
        if self.told(f"/cards/{card['id']}", {key: value}) is not None:
            self.writes.setdefault((number_of(card["file"]), key), []).append(Write(value, start, time.monotonic()))

    def put_picture(self, card: dict[str, Any], size: tuple[int, int]) -> None:
        start = time.monotonic()
        image = "data:image/png;base64," + base64.b64encode(picture(size=size)).decode()
        if self.told(f"/cards/{card['id']}/preview", {"image": image}) is not None:
            key = (number_of(card["file"]), "picture")
            self.writes.setdefault(key, []).append(Write(size, start, time.monotonic()))

    def look_at_picture(self, card: dict[str, Any], what: str) -> None:
        status, content = self.ask(f"/cards/{card['id']}/{what}")
        if status == 200 and not is_whole(content):
            self.wrong.append(f"half a {what} ({len(content)} bytes)")

    def read(self, card: dict[str, Any]) -> None:
        for rest in ("", "/strengths", "/hashes"):
            self.told(f"/cards/{card['id']}{rest}")
        self.told(f"/cards/{card['id']}/star", {"on": card["id"] % 2 == 0})


def number_of(file: str) -> str:
    """A file keeps its number whatever it is called: `ink 00012 moved.safetensors`."""
    return next((word for word in Path(file).stem.split() if len(word) == 5 and word.isdigit()), file)


def is_whole(image: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            return True
    except OSError:
        return False


def lost(writes: list[Write], stored: Any) -> str:
    """Why `stored` cannot be the last of these: each became what is stored at some moment between its start and end."""
    mine = [write for write in writes if write.value == stored]
    if not mine:
        return f"{stored!r} was written by nobody"
    later = [write.value for write in writes if write.start > max(one.end for one in mine)]
    return f"{later} were written after {stored!r}" if later else ""


def all_writes(clients: list[Client]) -> dict[tuple[str, str], list[Write]]:
    found: dict[tuple[str, str], list[Write]] = {}
    for key, writes in itertools.chain.from_iterable(client.writes.items() for client in clients):
        found.setdefault(key, []).extend(writes)
    return found


def at_once(*tasks: Callable[[], None], seconds: float = 240.0) -> list[str]:
    """What went wrong in any of them; each says itself when it is done."""
    wrong: list[str] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
            wrong.append(repr(error))

    threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return wrong + [f"{thread.name} waits for ever" for thread in threads if thread.is_alive()]


def quoted(text: str) -> str:
    return quote(text, safe="")
