"""Many files: answers in windows, and work that grows with what changed. Counts are asserted, never times."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest

from benchmarks.synthetic_library import fill
from lib_adapters.filesystem import casefold_name
from lib_adapters.library import AdapterLibrary, companions, file_names, indexer
from lib_adapters.library.database import ConnectionPool
from tests.support.sample_library import opened, scan

FILES = 120
WINDOW = 4_000  # characters: about ten cards


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "root", FILES, modules=1)
    return tmp_path / "root"


@pytest.fixture
def catalogue(root, tmp_path):
    with opened(root, place=tmp_path / "place") as made:
        scan(made)
        yield made


class Page:
    """Merges answers as the page does."""

    def __init__(self, catalogue: AdapterLibrary) -> None:
        self.catalogue = catalogue
        self.cards: dict[int, dict] = {}
        self.version = self.after = 0
        self.sizes: list[int] = []
        self.received: list[int] = []

    def pull(self) -> bool:
        """Fetch one window; true if more follow."""
        changes = self.catalogue.changes_since(self.version, self.after, WINDOW)
        self.sizes.append(sum(map(len, changes.cards[:-1])))
        found = [json.loads(text) for text in changes.cards]
        self.received += [card["id"] for card in found]
        self.cards |= {card["id"]: card for card in found}
        for card in changes.removed:
            self.cards.pop(card, None)
        self.version, self.after = changes.version, changes.after
        return bool(self.after)

    def pull_all(self) -> int:
        """Return how many answers it took."""
        answers = 1
        while self.pull():
            answers += 1
        return answers


def whole(catalogue):
    return {card["id"]: card for card in map(json.loads, catalogue.changes_since(0).cards)}


def test_windows_hold_every_card_once_even_if_one_version_has_them_all(catalogue):
    page = Page(catalogue)
    assert page.pull_all() > 5
    assert max(page.sizes) < WINDOW
    assert len(page.received) == len(set(page.received)) == FILES
    assert page.cards == whole(catalogue)
    assert page.version == catalogue.version
    page.received.clear()
    assert page.pull_all() == 1
    assert page.received == []


def test_what_changes_between_two_windows_is_not_missed(catalogue, root):
    page = Page(catalogue)
    page.pull()
    first, *_, last = page.cards  # of the first window
    later = next(card for card in whole(catalogue) if card not in page.cards)
    catalogue.set_star(first, True)
    catalogue.set_star(later, True)
    gone = [catalogue.path_of(card) for card in (last, max(whole(catalogue)))]
    for path in gone:
        path.unlink()
    scan(catalogue)
    page.pull_all()
    assert page.cards == whole(catalogue)
    assert len(page.cards) == FILES - len(gone)
    assert {card for card in page.cards if page.cards[card].get("star")} == {first, later}


def test_removed_cards_come_in_windows_too(catalogue, root):
    page = Page(catalogue)
    page.pull_all()
    for path in root.rglob("*.safetensors"):
        path.unlink()
    scan(catalogue)
    changes = catalogue.changes_since(page.version, 0, 160)
    assert 0 < len(changes.removed) < FILES
    page.pull_all()
    assert page.cards == {}


def test_a_page_that_knows_a_later_card_than_there_can_be_starts_again(catalogue):
    assert len(catalogue.changes_since(catalogue.version, 1 << 80).cards) == FILES


@pytest.fixture
def asked(monkeypatch):
    """Every statement that the index is given."""
    statements: list[str] = []
    honest = ConnectionPool._connect

    def connect(pool):
        connection = honest(pool)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(ConnectionPool, "_connect", connect)
    return statements


@pytest.fixture
def described(monkeypatch):
    """The files that are read."""
    files: list[str] = []
    honest = indexer.build_card
    monkeypatch.setattr(indexer, "build_card", lambda file, known: files.append(file.path) or honest(file, known))
    return files


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("changed", [0, 1, 7])
def test_a_start_costs_statements_and_reads_for_what_changed(root, tmp_path, asked, described, changed):
    for path in sorted(root.rglob("*.safetensors"))[:changed]:
        os.utime(path, (1, 1))
    with opened(root, place=tmp_path / "place") as again:
        version = again.version
        asked.clear()
        again.start()
        assert again.wait(60)
        assert len(described) == changed
        assert len([text for text in asked if "INSERT" in text]) == changed
        assert len(asked) <= changed + 1 + (4 if changed else 0)  # the rows; begin, version, commit of the changes
        assert len(again.changes_since(version).cards) == changed


def test_each_folder_name_is_escaped_once_however_many_files_it_has(monkeypatch):
    escaped: list[str] = []
    honest = file_names.escape_name
    monkeypatch.setattr(file_names, "escape_name", lambda name: escaped.append(name) or honest(name))
    files = [("root", f"folder #{number % 3}", f"{number}.safetensors") for number in range(60)]
    assert file_names.shortest_names(files)[4] == "4"
    assert len(escaped) == 60 + 3 + 1


def test_suffixes_of_what_lies_beside_are_found_at_the_last_two_dots():
    assert all(1 <= suffix.count(".") <= 2 and suffix.startswith(".") for suffix in companions.SUFFIXES)
    for stem in ("", "ink", "ink.v1", "ink.png", "."):
        for end in (*companions.SUFFIXES, ".safetensors", "json", ""):
            expected = {suffix for suffix in companions.SUFFIXES if (stem + end).endswith(suffix)}
            assert set(companions._suffixes(stem + end)) == expected


@pytest.mark.parametrize("name", ["INK V1.Safetensors", " x ", "\x1cx", "STRASSE", "Stra\u00dfe", "\u0130", "e\u0301"])
def test_names_are_folded_alike_whether_or_not_they_are_plain(name):
    normal = unicodedata.normalize("NFC", name).casefold()
    assert casefold_name(name) == unicodedata.normalize("NFC", normal).strip()
