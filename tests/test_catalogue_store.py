"""The index itself: damaged, old, not writable; asked and changed by several threads; stopped half way."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time

import pytest
from shelves import adapter, cards, opened, scan, sidecar

from benchmarks.shelf import fill
from lib_adapters.catalogue import Catalogue, indexer
from lib_adapters.catalogue.opening import NAME


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


def starred(root, place):
    """An index of two files, one of them with a star."""
    adapter(root / "x.safetensors"), adapter(root / "y.safetensors")
    with opened(root, place=place) as catalogue:
        found = scan(catalogue)
        catalogue.star(found["x"]["id"], True)
    return found


def test_nothing_is_made_before_it_is_needed(root, place):
    with opened(root, place=place) as catalogue:
        assert not place.exists()
        assert catalogue.progress.running is False
        assert (catalogue.version, catalogue.changes(0).cards) == (0, [])
    assert (place / NAME).exists()


@pytest.mark.parametrize("damage", ["text", "zeros", "cut", "pages"])
def test_a_damaged_index_is_made_anew(root, place, damage, caplog):
    before = starred(root, place)
    file = place / NAME
    content = file.read_bytes()
    new = {"text": b"not a database" * 99, "zeros": bytes(len(content)), "cut": content[: len(content) // 2]}
    file.write_bytes(new.get(damage, content[:4096] + b"\xff" * (len(content) - 4096)))
    with opened(root, place=place) as catalogue:
        after = scan(catalogue)
    assert after.keys() == {"x", "y"}
    assert {card["id"] for card in after.values()}.isdisjoint(card["id"] for card in before.values())
    assert len(caplog.records) == 1
    assert "made anew" in caplog.text


def test_an_index_of_another_version_gives_its_stars(root, place, caplog):
    starred(root, place)
    with sqlite3.connect(place / NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("ALTER TABLE cards RENAME COLUMN head TO heading")
    connection.close()
    with opened(root, place=place) as catalogue:
        assert cards(catalogue) == {}
        found = scan(catalogue)
    assert {name: card.get("star") for name, card in found.items()} == {"x": True, "y": None}
    assert len(caplog.records) == 1


def test_an_index_without_our_table(root, place):
    place.mkdir()
    with sqlite3.connect(place / NAME) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    adapter(root / "x.safetensors")
    with opened(root, place=place) as catalogue:
        assert scan(catalogue).keys() == {"x"}


def test_a_page_of_the_old_index_gets_everything(root, place):
    starred(root, place)
    with opened(root, place=place) as catalogue:
        old = catalogue.version
    (place / NAME).write_bytes(b"")
    with opened(root, place=place) as catalogue:
        scan(catalogue)
        assert catalogue.version > old
        assert len(catalogue.changes(old).cards) == 2
        assert len(catalogue.changes(catalogue.version + 1000).cards) == 2
        assert catalogue.changes(catalogue.version).cards == []


def test_a_place_that_cannot_be_written(root, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    path = adapter(root / "x.safetensors")
    path.with_suffix(".gif").write_bytes(b"GIF89a")
    with opened(root, place=tmp_path / "file" / "place") as catalogue:
        card = scan(catalogue)["x"]["id"]
        catalogue.star(card, True)
        catalogue.save(card, {"notes": "n"})
        assert (cards(catalogue)["x"]["star"], catalogue.thumbnail(card)) == (True, None)
        assert catalogue.hash_of(card) == catalogue.hash_of(card)
    assert len(caplog.records) == 1
    assert "made anew at each start" in caplog.text


def test_folders_that_cannot_be_told(place, caplog):
    def folders():
        raise RuntimeError("no settings")

    catalogue = Catalogue(folders, place)
    catalogue.start()
    assert catalogue.wait(10)
    assert catalogue.progress.what == "Stopped: no settings"
    catalogue.close()


class Gate:
    """Lets the indexing read one file after the other."""

    def __init__(self, monkeypatch):
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)
        honest = indexer.describe

        def describe(file, layouts):
            self.reached.release()
            assert self.go.acquire(timeout=30)
            return honest(file, layouts)

        monkeypatch.setattr(indexer, "describe", describe)
        monkeypatch.setattr(indexer, "BATCH", 0.0)

    def next(self):
        assert self.reached.acquire(timeout=30)
        self.go.release()

    def open(self):
        self.go.release(1000)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_cards_can_be_seen_while_others_are_read(root, place, gate):
    for number in range(4):
        adapter(root / f"{number}.safetensors")
    with opened(root, place=place) as catalogue:
        catalogue.start()
        gate.next()
        wait_for(lambda: cards(catalogue).keys() == {"0"})
        assert gate.reached.acquire(timeout=30)
        progress = catalogue.progress
        assert (progress.running, progress.done, progress.total) == (True, 1, 4)
        assert progress.what == "1.safetensors"
        catalogue.start()  # one runs
        gate.open()
        assert catalogue.wait(30)
        assert (catalogue.progress.done, catalogue.progress.what) == (4, "")
        assert len(cards(catalogue)) == 4


def test_cancelled_and_continued(root, place, gate):
    for number in range(4):
        adapter(root / f"{number}.safetensors")
    with opened(root, place=place) as catalogue:
        catalogue.start()
        gate.next()
        assert gate.reached.acquire(timeout=30)
        catalogue.cancel()
        gate.open()
        assert catalogue.wait(30)
        assert (catalogue.progress.running, catalogue.progress.cancelled) == (False, True)
        kept = cards(catalogue)
        assert kept.keys() == {"0", "1"}
        after = scan(catalogue)
        assert catalogue.progress.cancelled is False
        assert len(after) == 4
        assert {name: after[name] for name in kept} == kept


def test_what_is_saved_while_its_file_is_indexed_stays(root, place, gate):
    path = adapter(root / "x.safetensors")
    with opened(root, place=place) as catalogue:
        catalogue.start()
        gate.open()
        assert catalogue.wait(30)
        card = cards(catalogue)["x"]["id"]
        sidecar(path, {"activation text": "old"})
        while gate.go.acquire(blocking=False):
            pass
        while gate.reached.acquire(blocking=False):
            pass
        catalogue.start()
        assert gate.reached.acquire(timeout=30)
        catalogue.save(card, {"activation text": "new"})
        gate.open()
        assert catalogue.wait(30)
        assert cards(catalogue)["x"]["words"] == ["new"]


class Follower:
    """A page that asks for what changed, again and again."""

    def __init__(self, catalogue):
        self._catalogue, self._version = catalogue, 0
        self.seen = {}

    def ask(self):
        changes = self._catalogue.changes(self._version)
        self.seen |= {card["id"]: card for card in map(json.loads, changes.cards)}
        for card in changes.removed:
            del self.seen[card]
        self._version = changes.version

    def mark(self):
        for card in list(self.seen)[:5]:
            self._catalogue.star(card, True)
            self._catalogue.details(card)


def repeat(action, stop, errors):
    while not stop.is_set():
        try:
            action()
        except Exception as error:
            errors.append(error)
            raise


def test_several_threads_at_once(root, place):
    fill(root, 200, modules=2)
    errors, stop = [], threading.Event()
    with opened(root, place=place) as catalogue:
        page = Follower(catalogue)
        actions = (catalogue.start, page.ask, page.mark, lambda: cards(catalogue), lambda: catalogue.used(root / "x"))
        threads = [threading.Thread(target=repeat, args=(action, stop, errors)) for action in actions]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(page.seen) == 200 or errors)
        (root / "place" / "old").rename(root / "moved")
        time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join(30)
        after = scan(catalogue)
        page.ask()
        assert errors == []
        assert {card["id"]: card for card in after.values()} == page.seen
        assert len(after) == 200


def test_two_processes_share_an_index(root, place):
    adapter(root / "x.safetensors")
    with opened(root, place=place) as one, opened(root, place=place) as other:
        card = scan(one)["x"]["id"]
        version = other.version
        assert cards(other)["x"]["id"] == card
        one.star(card, True)
        assert cards(other, version)["x"]["star"] is True
        assert scan(other)["x"]["id"] == card


def test_connections_are_few_and_closed(root, place):
    adapter(root / "x.safetensors")
    with opened(root, place=place) as catalogue:
        scan(catalogue)
        threads = [threading.Thread(target=catalogue.changes, args=(0,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not [name for name in os.listdir(place) if name.endswith("-wal")]  # noqa: PTH208 - gone with the last one
