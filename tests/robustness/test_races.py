"""Single races, each brought about on purpose; and two web UIs on one index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.concurrent_clients import Client, at_once, served
from tests.support.sample_library import adapter, cards, opened, picture, scan, sidecar

pytest.importorskip("fastapi")
from fastapi import FastAPI

from lib_adapters import open_adapter
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.routes import add_routes
from lib_adapters.hosts.webui import name_resolver
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library import library as catalogues
from lib_adapters.library import walk as folders
from lib_adapters.library.open_database import open_database
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile

PATHS = {"PYTHONPATH": str(Path(__file__).parents[2])}
OTHER = """
import json, logging, sys
from pathlib import Path
from tests.support.sample_library import cards, opened, scan
work, key = Path(sys.argv[1]), sys.argv[2]
said, acked = [], {}
class Kept(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger().addHandler(Kept())
print("ready", flush=True)
sys.stdin.readline()
with opened(work / "root", place=work / "place") as catalogue:
    scan(catalogue)
    print("indexed", flush=True)
    sys.stdin.readline()
    ids = {name: card["id"] for name, card in cards(catalogue).items()}
    for turn in range(40):
        for name in ("x", "y"):
            catalogue.save(ids[name], {key: f"{turn}"})
            acked[name] = f"{turn}"
        catalogue.set_star(ids["z"], True)
        if turn % 10 == 0:
            scan(catalogue)
print(json.dumps([acked, said]), flush=True)
"""


@pytest.fixture
def root(tmp_path):
    for name in ("x", "y", "z"):
        adapter(tmp_path / "root" / f"{name}.safetensors")
    return tmp_path / "root"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


@pytest.mark.slow
def test_two_processes_edit_the_same_cards(root, place, tmp_path, tried):
    """They begin at once, on an index that is not there yet; what one writes, the other keeps."""
    start = [sys.executable, "-c", OTHER, str(tmp_path)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | PATHS}
    keys = ("notes", "description", "activation text")
    processes = [subprocess.Popen([*start, key], **options) for key in keys]
    for step in ("ready", "indexed"):
        assert [one.stdout.readline().strip() for one in processes] == [step] * len(keys)
        for one in processes:
            one.stdin.write("go\n")
            one.stdin.flush()
    told = [json.loads(one.communicate(timeout=120)[0]) for one in processes]
    tried("concurrency", "edits of 3 processes").add(80 * len(keys))
    assert [said for _, said in told] == [[], [], []]  # none had to do without the index
    for name in ("x", "y"):
        assert json.loads((root / f"{name}.json").read_text()) == {
            key: acked[name] for key, (acked, _) in zip(keys, told, strict=True)
        }
    with opened(root, place=place) as catalogue:
        kept = cards(catalogue)
        assert scan(catalogue) == kept
        assert (kept["z"]["star"], kept["x"]["words"]) == (True, ["39"])


def test_many_open_an_index_that_is_not_there_yet(tmp_path, caplog, tried):
    """To SQLite, connections of one process are as foreign to each other as those of several."""
    for turn in range(30):
        start, stores = threading.Barrier(6), []

        def open_one(place=tmp_path / f"{turn}", start=start, stores=stores):
            start.wait()
            stores.append(open_database(place))

        at_once(*[open_one] * 6)
        stores[0].version()
        for store in stores:
            store.close()
    tried("concurrency", "indexes opened by six at once").add(30)
    assert not caplog.messages  # none took it for damaged, and none had to do without it


def site_of(catalogue, place):
    app = FastAPI()
    nothing = {"dependencies": (), "model": lambda: ("", ""), "folders": list, "rescan": lambda: None, "key": "k"}
    add_routes(app, TabBackend(library=catalogue, presets=PresetFile(place / PRESET_FILE_NAME), report=dict, **nothing))
    return app


def test_a_picture_that_is_replaced_is_one_or_the_other(root, place, tried):
    """Its length was asked for before it was opened."""
    pictures = [b"\x89PNG" + os.urandom(size) for size in (100_000, 700_000)]
    (root / "x.png").write_bytes(pictures[0])
    looks = tried("concurrency", "looks at a picture that is being replaced")
    with opened(root, place=place) as catalogue, served(site_of(catalogue, place)) as address:
        card, done = scan(catalogue)["x"]["id"], threading.Event()
        client = Client(address)

        def replace():
            for turn in range(100_000):
                (root / "new").write_bytes(pictures[turn % 2])
                (root / "new").replace(root / "x.png")
                if done.is_set():
                    return

        def look():
            for _ in range(150):
                looks.add()
                status, content = client.ask(f"/cards/{card}/preview")
                assert (status, content in pictures) == (200, True)
            done.set()

        assert at_once(replace, look) == []


def test_a_file_that_goes_while_its_folder_is_read(root, place, monkeypatch):
    (root / "z.safetensors").unlink()
    honest = folders._entries

    def entries(folder):
        found = honest(folder)
        (root / "y.safetensors").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(folders, "_entries", entries)
    with opened(root, place=place) as catalogue:
        assert scan(catalogue).keys() == {"x"}
        assert catalogue.progress.message == ""


def test_a_file_that_goes_while_it_is_edited(root, place, monkeypatch):
    """Whoever edited it is told: what was written lies under a name that nobody has any more."""
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]
        honest = catalogues.sidecar_json.save_sidecar

        def save(path, changes):
            honest(path, changes)
            path.rename(root / "renamed.safetensors")

        monkeypatch.setattr(catalogues.sidecar_json, "save_sidecar", save)
        with pytest.raises(AdapterError, match=r"x\.safetensors went away while it was edited"):
            catalogue.save(card, {"notes": "n"})
        monkeypatch.undo()
        assert scan(catalogue)["renamed"]["id"] == card


def test_a_link_to_nothing_can_be_edited(root, place):
    (root / "link.safetensors").symlink_to(root / "nowhere")
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["link"]["id"]
        catalogue.save(card, {"activation text": "w"})
        catalogue.set_preview(card, picture())
        assert cards(catalogue)["link"]["words"] == ["w"]
        version = catalogue.version
        scan(catalogue)
        assert catalogue.version == version


def test_a_refresh_that_was_asked_for_after_cancel_is_done(root, place, monkeypatch):
    reached, go = threading.Event(), threading.Event()
    honest = catalogues.Indexer.run

    def run(self, *given):
        reached.set()
        assert go.wait(30)
        honest(self, *given)

    monkeypatch.setattr(catalogues.Indexer, "run", run)
    with opened(root, place=place) as catalogue:
        for asked, found in (("before", 0), ("after", 3)):
            reached.clear(), go.clear()
            catalogue.start()
            assert reached.wait(30)
            for action in (catalogue.start, catalogue.cancel)[:: 1 if asked == "before" else -1]:
                action()
            go.set()
            assert catalogue.wait(30)
            assert (len(cards(catalogue)), catalogue.progress.cancelled) == (found, asked == "before")


def found_by(root, monkeypatch, between):
    """The name "ink" looked up among two files, with `between` happening at every moment that it could."""
    first, second = root / "first", root / "second"
    for folder in (first, second):
        adapter(folder / "ink.safetensors")
    looked = NameResolver(lambda: {"lyco": [first, second]}, lambda path: None, open_adapter)
    honest = name_resolver.time.monotonic

    def monotonic():
        between(looked)
        return honest()

    monkeypatch.setattr(name_resolver.time, "monotonic", monotonic)
    honest_read = name_resolver.read_index
    monkeypatch.setattr(name_resolver, "read_index", lambda folders: (honest_read(folders), between(looked))[0])
    return looked.resolve("lyco", "ink").value.path


def test_a_refresh_at_any_moment_changes_nothing_for_a_picture(root, monkeypatch):
    assert found_by(root, monkeypatch, lambda looked: looked.rescan()) == root / "first" / "ink.safetensors"


def test_files_that_go_between_two_looks(root, monkeypatch):
    """The choice is made among the files of one look."""
    looked = NameResolver(lambda: {"lyco": [root / "a", root / "b"]}, lambda path: None, open_adapter)
    for folder in "ab":
        adapter(root / folder / "ink.safetensors")
    honest, calls = looked._current_index, []

    def read():
        calls.append(honest())
        (root / "b" / "ink.safetensors").unlink(missing_ok=True)
        looked.rescan()
        return calls[-1]

    monkeypatch.setattr(looked, "_current_index", read)
    assert looked.resolve("lyco", "ink").value.path == root / "a" / "ink.safetensors"
    assert len(calls) == 1


def test_threads_that_edit_one_card(root, place, tried):
    """Different keys of one sidecar: each write starts from the other's."""
    sidecar(root / "x.safetensors", {"modelId": 7})
    edits = tried("concurrency", "edits of 5 threads")
    with opened(root, place=place) as catalogue:
        card = scan(catalogue)["x"]["id"]

        def edit(key):
            for turn in range(20):
                catalogue.save(card, {key: turn if key == "preferred weight" else str(turn)})
                edits.add()

        keys = ("notes", "description", "activation text", "negative text", "preferred weight")
        assert at_once(*[lambda key=key: edit(key) for key in keys]) == []
        stored = json.loads((root / "x.json").read_text())
    assert stored == {"modelId": 7} | {key: 19 if key == "preferred weight" else "19" for key in keys}


def test_nobody_waits_for_the_queue(webui, tried):
    """Its lock is not to be taken twice: no route, no page and no indexing may want it while a job has it."""
    page = next(page for page in webui.pages.extra_pages if page.title == "LyCORIS")
    with served(webui.app.real()) as address, webui.call_queue.queue_lock:
        client = Client(address)
        start = time.monotonic()
        for path in ("/cards", "/report", "/presets"):
            client.told(path)
        client.told("/refresh", {})
        page.create_html("txt2img"), page.refresh()
        assert page.tab.library.wait(60)
        webui.picture("a cat")
        tried("concurrency", "calls while a job has the queue").add(6)
    assert client.wrong == []
    assert time.monotonic() - start < 60
