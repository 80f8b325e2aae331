"""While the indexing runs: what can be seen, saved, marked and stopped meanwhile."""

from __future__ import annotations

import json
import threading
import time

import pytest

from benchmarks.synthetic_library import fill
from lib_adapters.library import indexer
from tests.support.sample_library import adapter, cards, opened, scan, sidecar


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


class Gate:
    """Lets the indexing read one file after the other."""

    def __init__(self, monkeypatch):
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)
        honest = indexer.build_card

        def describe(file, layouts):
            described = honest(file, layouts)
            self.reached.release()
            assert self.go.acquire(timeout=30)
            return described

        monkeypatch.setattr(indexer, "build_card", describe)
        monkeypatch.setattr(indexer, "BATCH_SECONDS", 0.0)

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
        assert progress.message == "1.safetensors"
        gate.open()
        assert catalogue.wait(30)
        assert (catalogue.progress.done, catalogue.progress.message) == (4, "")
        assert len(cards(catalogue)) == 4


def test_what_came_too_late_for_one_round_is_found_by_the_next(root, place, gate):
    """Refresh while an indexing runs: its walk may have passed the folder already."""
    adapter(root / "early.safetensors")
    with opened(root, place=place) as catalogue:
        catalogue.start()
        assert gate.reached.acquire(timeout=30)
        adapter(root / "late.safetensors")
        catalogue.start()
        catalogue.start()
        gate.open()
        assert catalogue.wait(30)
        assert cards(catalogue).keys() == {"early", "late"}
        assert catalogue.progress.running is False


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
        changes = self._catalogue.changes_since(self._version)
        self.seen |= {card["id"]: card for card in map(json.loads, changes.cards)}
        for card in changes.removed:
            del self.seen[card]
        self._version = changes.version

    def mark(self):
        for card in list(self.seen)[:5]:
            self._catalogue.set_star(card, True)
            self._catalogue.details(card)


def repeat(action, stop, errors):
    while not stop.is_set():
        try:
            action()
        except Exception as error:
            errors.append(error)
            raise


@pytest.mark.slow
def test_several_threads_at_once(root, place):
    fill(root, 200, modules=2)
    errors, stop = [], threading.Event()
    with opened(root, place=place) as catalogue:
        page = Follower(catalogue)
        actions = (
            catalogue.start,
            page.ask,
            page.mark,
            lambda: cards(catalogue),
            lambda: catalogue.record_use(root / "x"),
        )
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
