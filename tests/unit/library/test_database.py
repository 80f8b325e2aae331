"""The index itself: damaged, old, not writable, used by several at once."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from lib_adapters.errors import AdapterError
from lib_adapters.library import AdapterLibrary, indexer, open_database
from lib_adapters.library.database import ConnectionPool
from lib_adapters.library.open_database import DATABASE_NAME
from tests.support.sample_library import adapter, cards, opened, scan


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
        catalogue.set_star(found["x"]["id"], True)
    return found


def test_nothing_is_made_before_it_is_needed(root, place):
    with opened(root, place=place) as catalogue:
        assert not place.exists()
        assert catalogue.progress.running is False
        assert (catalogue.version, catalogue.changes_since(0).cards) == (0, [])
    assert (place / DATABASE_NAME).exists()


@pytest.mark.parametrize(
    "damage", ["text", "zeros", "cut", "pages", "a path", "a text", "a page of the table", "a column"]
)
def test_a_damaged_index_is_made_anew(root, place, damage, caplog):
    before = starred(root, place)
    file = place / DATABASE_NAME
    content = file.read_bytes()
    new = {
        "text": b"not a database" * 99,
        "zeros": bytes(len(content)),
        "cut": content[: len(content) // 2],
        "a path": content.replace(b"root/x.safe", b"root/x.sofe", 1),  # in the table or its index, not in both
        "a text": content.replace(b'"name":"x"', b'"name":"\xff"'),
        "a page of the table": content.replace(b"sqlite_sequence", b"\xa3qlite_sequence"),
        "a column": content.replace(b"mtime_ns INTEGER", b"mtime_ms INTEGER"),
    }
    assert new.get(damage) != content
    file.write_bytes(new.get(damage, content[:4096] + b"\xff" * (len(content) - 4096)))
    with opened(root, place=place) as catalogue:
        after = scan(catalogue)
    assert after.keys() == {"x", "y"}
    assert {card["id"] for card in after.values()}.isdisjoint(card["id"] for card in before.values())
    assert len(caplog.records) == 1
    assert "made anew" in caplog.text


def test_an_index_of_another_version_gives_its_stars(root, place, caplog):
    starred(root, place)
    with sqlite3.connect(place / DATABASE_NAME) as connection:
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
    with sqlite3.connect(place / DATABASE_NAME) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    adapter(root / "x.safetensors")
    with opened(root, place=place) as catalogue:
        assert scan(catalogue).keys() == {"x"}


def test_an_update_of_the_code_reads_everything_once(root, place, monkeypatch):
    before = starred(root, place)
    honest, read = indexer.build_card, []
    monkeypatch.setattr(
        indexer, "build_card", lambda file, layouts: read.append(file.subfolder) or honest(file, layouts)
    )
    with opened(root, place=place) as catalogue:
        hashes = catalogue.hash_of(before["x"]["id"])
        scan(catalogue)
    assert read == []
    monkeypatch.setattr(open_database, "code_version", lambda: 7)
    for _ in range(2):
        with opened(root, place=place) as catalogue:
            assert cards(catalogue).keys() == {"x", "y"}  # shown until they are read
            after = scan(catalogue)
            assert catalogue.details(after["x"]["id"])["hashes"] == hashes
    assert sorted(read) == ["x.safetensors", "y.safetensors"]
    assert (after["x"]["id"], after["x"]["star"]) == (before["x"]["id"], True)


@pytest.mark.parametrize("name", ["errors.py", "ops/wavelets.py", "algorithms/lora.py", "files/adapter_layers.py"])
def test_an_update_is_noticed_wherever_a_card_takes_its_words_from(name, tmp_path, monkeypatch):
    package = Path(open_database.__file__).parent.parent
    for file in package.rglob("*.py"):
        copy = tmp_path / file.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    monkeypatch.setattr(open_database, "__file__", str(tmp_path / "library" / "open_database.py"))
    before = open_database.code_version()
    (tmp_path / name).write_text("# new")
    assert open_database.code_version() != before


def test_a_page_of_the_old_index_gets_everything(root, place):
    starred(root, place)
    with opened(root, place=place) as catalogue:
        old = catalogue.version
    (place / DATABASE_NAME).write_bytes(b"")
    with opened(root, place=place) as catalogue:
        scan(catalogue)
        assert catalogue.version > old
        assert len(catalogue.changes_since(old).cards) == 2
        assert len(catalogue.changes_since(catalogue.version + 1000).cards) == 2
        assert catalogue.changes_since(catalogue.version).cards == []


def test_a_place_that_cannot_be_written(root, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    path = adapter(root / "x.safetensors")
    path.with_suffix(".gif").write_bytes(b"GIF89a")
    with opened(root, place=tmp_path / "file" / "place") as catalogue:
        card = scan(catalogue)["x"]["id"]
        catalogue.set_star(card, True)
        catalogue.save(card, {"notes": "n"})
        assert (cards(catalogue)["x"]["star"], catalogue.thumbnail(card)) == (True, None)
        assert catalogue.hash_of(card) == catalogue.hash_of(card)
    assert len(caplog.records) == 1
    assert "made anew at each start" in caplog.text


def test_folders_that_cannot_be_told(place, caplog):
    def folders():
        raise RuntimeError("no settings")

    catalogue = AdapterLibrary(folders, place)
    catalogue.start()
    assert catalogue.wait(10)
    assert catalogue.progress.message == "Stopped: no settings"
    catalogue.close()


def test_an_index_that_fails_while_it_is_used(root, place, caplog):
    path = adapter(root / "x.safetensors")
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]
        with sqlite3.connect(place / DATABASE_NAME) as connection:
            connection.execute("DROP TABLE cards")
        connection.close()
        with pytest.raises(AdapterError, match="no such table"):
            catalogue.set_star(card, True)
        catalogue.record_use(path)
        assert "is forgotten" in caplog.text
        catalogue.start()
        assert catalogue.wait(30)
        assert "no such table" in catalogue.progress.message


def test_two_processes_share_an_index(root, place):
    adapter(root / "x.safetensors")
    with opened(root, place=place) as one, opened(root, place=place) as other:
        card = scan(one)["x"]["id"]
        version = other.version
        assert cards(other)["x"]["id"] == card
        one.set_star(card, True)
        assert cards(other, version)["x"]["star"] is True
        assert scan(other)["x"]["id"] == card


def test_connections_are_few_and_closed(tmp_path):
    lent, made = threading.Semaphore(0), ConnectionPool(str(tmp_path / "x.sqlite"), 2)

    def borrow():
        with made.connection() as connection:
            connection.execute("CREATE TABLE one (x)")
            lent.release()

    with made.connection() as first:
        first.execute("PRAGMA journal_mode = WAL")
        with made.connection():
            third = threading.Thread(target=borrow)
            third.start()
            assert not lent.acquire(timeout=0.1)
        assert lent.acquire(timeout=30)
        third.join()
    made.close()
    assert os.listdir(tmp_path) == ["x.sqlite"]  # noqa: PTH208 - its log goes with the last connection
