"""Ended at any moment, short of room, with a damaged index: nothing that was said to be done is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lib_adapters.errors import AdapterError
from lib_adapters.library import indexer
from lib_adapters.library.open_database import DATABASE_NAME
from tests.support.sample_library import adapter, cards, opened, picture, scan, sidecar

PATHS = {"PYTHONPATH": str(Path(__file__).parents[2])}
QUICK = "/dev/shm"  # where forcing a file to disk costs nothing
FRAME, WAL_HEAD = 4096 + 24, 32  # of SQLite's log


@pytest.fixture
def quick():
    place = QUICK if os.access(QUICK, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lycoris-killed-", dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def root(tmp_path):
    for name in ("x", "y", "style/z"):
        adapter(tmp_path / "root" / f"{name}.safetensors")
    return tmp_path / "root"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be copied here")
def test_ended_at_every_moment(quick, tried):
    """While an index is made, renewed and rebuilt, while cards are edited, while presets are saved."""
    program = [sys.executable, "-W", "ignore", "-m", "tests.support.crash_child", str(quick)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ | PATHS)
    assert done.returncode == 0, done.stderr[-2000:]
    points = tried("killed", "moments at which the process was ended")
    scenarios = json.loads(done.stdout)
    for one in scenarios:
        points.add(one["ended"])
        points.fail(len(one["wrong"]))
    assert [text for one in scenarios for text in one["wrong"]] == []
    assert len(scenarios) == 5
    assert all(one["moments"] == one["ended"] > 10 for one in scenarios)


def test_a_log_that_ends_anywhere(root, place, tmp_path, tried, monkeypatch):
    """What a process that is ended while SQLite writes leaves: the log up to some byte."""
    monkeypatch.setattr(indexer, "BATCH_SECONDS", 0.0)
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]
        for text in ("one", "two", "three"):
            catalogue.save(card, {"activation text": text})
        catalogue.set_star(card, True)
        shutil.copytree(place, tmp_path / "running")
    log = (tmp_path / "running" / f"{DATABASE_NAME}-wal").read_bytes()
    ends = {0, 1, WAL_HEAD - 1, len(log)}
    for start in range(WAL_HEAD, len(log), FRAME):
        ends |= {start, start + 30, start + FRAME // 2}
    points, seen = tried("killed", "lengths of SQLite's log"), set()
    for end in sorted(end for end in ends if end <= len(log)):
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "running", place)
        (place / f"{DATABASE_NAME}-wal").write_bytes(log[:end])
        (place / f"{DATABASE_NAME}-shm").unlink()
        points.add()
        with opened(root, place=place) as catalogue:
            seen.add(json.dumps(sorted((name, card.get("star")) for name, card in cards(catalogue).items())))
            after = scan(catalogue)
            assert sorted(after) == ["x", "y", "z"], end
            assert after["x"]["words"] == ["three"], end
    assert len(seen) > 3  # the states in between were there, whole


def other_program(place):
    (place / DATABASE_NAME).unlink()
    connection = sqlite3.connect(place / DATABASE_NAME)
    connection.executescript("CREATE TABLE theirs (x); PRAGMA user_version = 1")
    connection.close()


def cut(length):
    return lambda place: os.truncate(place / DATABASE_NAME, length)


def bytes_at(start, content):
    def damage(place):
        with (place / DATABASE_NAME).open("r+b") as file:
            file.seek(start)
            file.write(content)

    return damage


def in_a_text(new):
    """In the middle of a card, where SQLite sees nothing wrong."""

    def damage(place):
        content = (place / DATABASE_NAME).read_bytes()
        assert b'"family":"sd1"' in content
        (place / DATABASE_NAME).write_bytes(content.replace(b'"family":"sd1"', b'"fam' + new + b'ly":"sd1"', 1))

    return damage


def a_folder(place):
    (place / DATABASE_NAME).unlink()
    (place / DATABASE_NAME / "in").mkdir(parents=True)


def logs_of_another(place):
    for end in ("-wal", "-shm"):
        (place / f"{DATABASE_NAME}{end}").write_bytes(b"\xff" * 50_000)


def another_schema(place):
    connection = sqlite3.connect(place / DATABASE_NAME)
    connection.executescript("ALTER TABLE cards RENAME COLUMN card TO told; PRAGMA user_version = 7")
    connection.close()


DAMAGE = {
    **{f"cut at {length}": cut(length) for length in (0, 1, 15, 100, 511, 4095, 4096, 5000, 8192)},
    **{f"garbage at {start}": bytes_at(start, b"\xde\xad" * 400) for start in (0, 16, 60, 100, 4096, 5000)},
    **{
        f"a text with {name}": in_a_text(new)
        for name, new in {"bytes": b"\xff", "a quote": b'"', "an end": b"\0"}.items()
    },
    "zeros": bytes_at(0, bytes(20_000)),
    "a folder": a_folder,
    "logs of another": logs_of_another,
    "another schema": another_schema,
    "another program's": other_program,
    "a text": lambda place: (place / DATABASE_NAME).write_text("no database\n" * 999),
    "a link to nothing": lambda place: [
        (place / DATABASE_NAME).unlink(),
        (place / DATABASE_NAME).symlink_to(place / "no" / "where"),
    ],
    "its folder is a file": lambda place: [shutil.rmtree(place), place.write_text("")],
}
SILENT = {"cut at 0", "cut at 1", "logs of another", "garbage at 5000"}  # nothing that could be lost was in it


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_made_anew_or_done_without(root, place, damage, tried, caplog):
    sidecar(root / "x.safetensors", {"activation text": "mine"})
    with opened(root, place=place) as catalogue:
        scan(catalogue)
    DAMAGE[damage](place)
    tried("killed", "damaged indexes").add()
    caplog.clear()
    with caplog.at_level(logging.WARNING), opened(root, place=place) as catalogue:
        after = scan(catalogue)
        assert (sorted(after), catalogue.progress.message) == (["x", "y", "z"], "")
        assert after["x"]["words"] == ["mine"]
        catalogue.save(after["x"]["id"], {"notes": "n"})
        catalogue.set_star(after["x"]["id"], True)
        assert scan(catalogue)["x"]["star"] is True
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (damage not in SILENT), said
    assert all("made anew" in text for text in said)


def test_an_index_that_another_process_holds(root, place, monkeypatch, tried, caplog):
    """Reading goes on; what would write says why it did not, changes nothing, and works when the other is done."""
    monkeypatch.setattr("lib_adapters.library.database.POOL_TIMEOUT", 0.05)
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]
        other = sqlite3.connect(place / DATABASE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        tried("killed", "locked indexes").add()
        assert len(cards(catalogue)) == 3
        for change in (lambda: catalogue.save(card, {"notes": "n"}), lambda: catalogue.set_star(card, True)):
            with pytest.raises(AdapterError, match="database is locked"):
                change()
        assert not (root / "x.json").exists()
        with opened(root, place=place) as second:  # its own, in memory
            assert sorted(scan(second)) == ["x", "y", "z"]
        assert "made anew at each start" in caplog.text
        other.execute("ROLLBACK")
        other.close()
        catalogue.save(card, {"notes": "n"})
        catalogue.set_star(card, True)
        assert cards(catalogue)["x"]["star"] is True


def test_an_index_that_finds_no_room(root, place, tried, tmp_path):
    """However much room there is left: what cannot be written is said, and when there is room again all is well."""
    points = tried("killed", "amounts of room on the disk")
    with opened(root, place=place) as catalogue:
        scan(catalogue)
    shutil.copytree(place, tmp_path / "before")
    for pages in range(1, 9):
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "before", place)
        for number in range(60):
            adapter(root / f"more/{number}.safetensors", ss_training_comment="x" * 100)
        with opened(root, place=place) as catalogue:
            connection = catalogue._store._pool._idle[0]
            used = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {used + pages}")
            points.add()
            catalogue.start()
            assert catalogue.wait(60)
            assert "full" in catalogue.progress.message
            assert len(cards(catalogue)) == 3  # all of a change, or nothing
            for name in ("x", "y", "z"):
                with contextlib.suppress(AdapterError):
                    catalogue.save(cards(catalogue)[name]["id"], {"activation text": "y" * 2000})
            connection.execute("PRAGMA max_page_count = 1000000")
            assert len(scan(catalogue)) == 63
            assert catalogue.progress.message == ""
        shutil.rmtree(root / "more")


def test_a_change_that_cannot_be_ended_is_taken_back(root, place, monkeypatch):
    """Else its connection would keep everybody else from writing, for ever."""

    class Full(sqlite3.Connection):
        refused = 0

        def execute(self, statement, *values):
            if statement == "COMMIT" and Full.refused:
                Full.refused -= 1
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(statement, *values)

    honest = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **options: honest(*given, factory=Full, **options))
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]
        Full.refused = 1
        with pytest.raises(AdapterError, match="full"):
            catalogue.set_star(card, True)
        assert "star" not in cards(catalogue)["x"]
        catalogue.set_star(card, True)
        assert cards(catalogue)["x"]["star"] is True


def test_what_a_dead_process_left_is_no_card(root, place):
    for name in (".lycoris-abc12345", "x.json.lycoris-tmp"):
        (root / name).write_bytes(b"half of")
    with opened(root, place=place) as catalogue:
        assert sorted(scan(catalogue)) == ["x", "y", "z"]


def test_a_picture_that_cannot_be_read_now_is_not_forgotten(root, place, monkeypatch):
    """Too many open files, a share that is away: that says nothing of the picture."""
    (root / "x.png").write_bytes(picture())
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]
        honest = Path.open

        def refuse(path, *how, **options):
            if path.suffix == ".png":
                raise OSError(24, "Too many open files")
            return honest(path, *how, **options)

        monkeypatch.setattr(Path, "open", refuse)
        assert catalogue.thumbnail(card) is None
        monkeypatch.undo()
        assert catalogue.thumbnail(card)
