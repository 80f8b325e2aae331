"""The index against the folders: what is found, under which name, what changed, and how little is read for it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from lib_adapters.errors import AdapterError
from lib_adapters.library import indexer, walk
from lib_adapters.library.file_names import read_index
from tests.support.sample_library import adapter, cards, opened, scan, sidecar


@pytest.fixture
def root(tmp_path):
    (tmp_path / "LyCORIS").mkdir()
    return tmp_path / "LyCORIS"


@pytest.fixture
def catalogue(root, tmp_path):
    with opened(root, place=tmp_path / "place") as made:
        yield made


@pytest.fixture
def files_read(monkeypatch):
    """Every file that is opened through pathlib, which is how the catalogue opens files."""
    opened_files = []
    honest = Path.open

    def noting(self, *args, **kwargs):
        opened_files.append(self.name)
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", noting)
    return opened_files


ODD = ["a b", "v1.5, final", "x=y", "[b] (c) {d}", "墨 ink é", "it's", '"quoted"', "<b>", "a:b", "👍", "%41 &amp; \\n"]


@pytest.mark.parametrize("name", [*ODD, unicodedata.normalize("NFD", "é ü")])
def test_names_that_people_give(root, catalogue, name):
    adapter(root / f"{name}.safetensors")
    (card,) = scan(catalogue).values()
    assert card["name"] == name
    assert catalogue.path_of(card["id"]).name == f"{name}.safetensors"


def test_a_name_that_is_no_utf8(root, catalogue):
    adapter(root / "ok.safetensors")
    os.rename(root / "ok.safetensors", os.fsencode(root) + b"/bad\xff.safetensors")  # noqa: PTH104
    (card,) = scan(catalogue).values()
    assert (card["name"], card["family"]) == ("bad?", "sd1")
    assert catalogue.path_of(card["id"]).exists()
    assert catalogue.details(card["id"])["path"].endswith("bad?.safetensors")


def test_what_a_card_says(root, catalogue):
    path = adapter(root / "style" / "ink.safetensors", "lokr", ss_output_name="ink v2")
    card = scan(catalogue)["ink"]
    assert (card["file"], card["dir"], card["root"]) == ("style/ink.safetensors", "style", 0)
    assert (card["family"], card["algorithms"], card["alpha"], card["parts"]) == ("sd1", ["LoKr"], 1.0, ["unet"])
    assert (card["size"], card["mtime"], card["title"]) == (path.stat().st_size, int(path.stat().st_mtime), "ink v2")
    assert card.keys().isdisjoint({"star", "used", "words", "error", "preview", "tags"})


def test_names_are_the_shortest_that_mean_one_file(root, tmp_path):
    other = tmp_path / "Lora"
    for path in (root / "ink", root / "a" / "ink", root / "b" / "ink", root / "b" / "moss", other / "ink"):
        adapter(path.with_suffix(".safetensors"))
    adapter(root / "moss.pt.safetensors"), adapter(root / "moss.pt")
    with opened(root, other, place=tmp_path / "place") as catalogue:
        found = {(card["root"], card["file"]): name for name, card in scan(catalogue).items()}
    assert found == {
        (0, "ink.safetensors"): "LyCORIS/ink",
        (0, "a/ink.safetensors"): "a/ink",
        (0, "b/ink.safetensors"): "b/ink",
        (1, "ink.safetensors"): "Lora/ink",
        (0, "b/moss.safetensors"): "moss.safetensors",
        (0, "moss.pt.safetensors"): "moss.pt.safetensors",
        (0, "moss.pt"): "LyCORIS/moss",
    }
    index = read_index({"lyco": [root], "lora": [other]})
    assert all(len(index.exact[name]) == 1 for name in found.values())


def test_folders_of_one_name_cannot_make_a_name(tmp_path):
    for folder in ("one", "two"):
        adapter(tmp_path / folder / "Lora" / "ink.safetensors")
    roots = (tmp_path / "one" / "Lora", tmp_path / "two" / "Lora")
    with opened(*roots, place=tmp_path / "place") as catalogue:
        assert list(scan(catalogue)) == ["ink.safetensors"]


def test_links_in_a_circle_and_a_second_way_to_a_file(root, catalogue, monkeypatch):
    adapter(root / "a" / "x.safetensors")
    (root / "a" / "back").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "y.safetensors").symlink_to(root / "a" / "x.safetensors")
    (root / "nothing.safetensors").symlink_to(root / "gone")
    listed, honest = [], os.scandir
    monkeypatch.setattr(walk.os, "scandir", lambda path: listed.append(path) or honest(path))
    found = scan(catalogue)
    assert len([path for path in listed if str(path).startswith(str(root))]) == 2
    assert found.keys() == {"x", "nothing"}
    assert "does not exist" in found["nothing"]["error"]


def test_nested_folders_list_a_file_once(root, tmp_path):
    adapter(root / "a" / "x.safetensors")
    with opened(root, root / "a", tmp_path / "not there", place=tmp_path / "place") as catalogue:
        assert [card["root"] for card in scan(catalogue).values()] == [0]


def test_a_folder_that_cannot_be_read_hides_only_itself(root, catalogue, monkeypatch):
    adapter(root / "x.safetensors"), adapter(root / "shut" / "y.safetensors")
    honest = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return honest(path)

    monkeypatch.setattr(walk.os, "scandir", scandir)
    assert scan(catalogue).keys() == {"x"}


def test_cancelled_while_folders_are_looked_through(root, catalogue, monkeypatch):
    """What was not reached is not gone."""
    adapter(root / "a" / "x.safetensors"), adapter(root / "b" / "y.safetensors")
    scan(catalogue)
    version, honest = catalogue.version, walk.os.scandir

    def scandir(path):
        if str(path).endswith("a"):
            catalogue.cancel()
        return honest(path)

    monkeypatch.setattr(walk.os, "scandir", scandir)
    assert scan(catalogue).keys() == {"x", "y"}
    assert (catalogue.version, catalogue.progress.cancelled) == (version, True)


def test_a_warm_start_opens_nothing(root, tmp_path, files_read):
    for number in range(5):
        sidecar(adapter(root / f"{number}.safetensors"), {"notes": "x"})
    for _ in range(2):
        files_read.clear()
        with opened(root, place=tmp_path / "place") as catalogue:
            assert len(scan(catalogue)) == 5
    assert files_read == []


def test_a_changed_sidecar_reads_one_file_again(root, catalogue, files_read):
    paths = [adapter(root / f"{number}.safetensors") for number in range(5)]
    scan(catalogue)
    version = catalogue.version
    sidecar(paths[3], {"activation text": "ink"})
    files_read.clear()
    scan(catalogue)
    assert set(files_read) == {"3.safetensors", "3.json"}
    (card,) = cards(catalogue, version).values()
    assert (card["name"], card["words"]) == ("3", ["ink"])


def test_nothing_is_hashed_and_no_tensor_is_read_by_indexing(root, catalogue, monkeypatch):
    adapter(root / "x.safetensors", modules=64)
    monkeypatch.setattr("lib_adapters.library.hashes.file_hashes", None)
    monkeypatch.setattr("lib_adapters.files.loading.load_layers", None)
    assert scan(catalogue)["x"]["family"] == "sd1"


@pytest.mark.parametrize("seconds", [-1000, 1000])
def test_a_file_replaced_by_an_older_or_newer_one(root, catalogue, seconds):
    path = adapter(root / "x.safetensors", ss_output_name="one")
    before = scan(catalogue)["x"]
    adapter(path, ss_output_name="two")
    os.utime(path, (before["mtime"] + seconds,) * 2)
    after = scan(catalogue)["x"]
    assert (before["title"], after["title"]) == ("one", "two")
    assert (after["id"], after["size"]) == (before["id"], before["size"])


def test_a_removed_file_goes_and_comes_back_as_it_was(root, catalogue, tmp_path):
    path = adapter(root / "x.safetensors")
    card = scan(catalogue)["x"]["id"]
    catalogue.set_star(card, True)
    version = catalogue.version
    path.rename(tmp_path / "away")
    with pytest.raises(AdapterError, match="not there any more"):
        catalogue.path_of(card)
    assert scan(catalogue) == {}
    assert catalogue.changes_since(version).removed == [card]
    assert catalogue.changes_since(0).removed == []
    with pytest.raises(AdapterError, match="no such card"):
        catalogue.path_of(card)
    (tmp_path / "away").rename(path)
    back = scan(catalogue)["x"]
    assert (back["id"], back["star"]) == (card, True)


def test_a_renamed_file_keeps_its_id_and_star(root, catalogue):
    path = adapter(root / "old.safetensors", ss_output_name="old")
    card = scan(catalogue)["old"]["id"]
    catalogue.set_star(card, True)
    (root / "deep").mkdir()
    path.rename(root / "deep" / "new.safetensors")
    found = scan(catalogue)
    assert found.keys() == {"new"}
    assert (found["new"]["id"], found["new"]["star"], found["new"]["title"]) == (card, True, "old")


def test_two_twins_that_were_renamed_are_not_taken_for_each_other(root, catalogue):
    paths = [adapter(root / name) for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        os.utime(path, (1000, 1000))
    before = scan(catalogue)
    for path in paths:
        path.rename(root / f"new {path.name}")
    after = scan(catalogue)
    assert after.keys() == {"new a", "new b"}
    assert {card["id"] for card in before.values()}.isdisjoint(card["id"] for card in after.values())


def test_a_clash_that_comes_later_changes_the_name_but_reads_nothing(root, catalogue, monkeypatch):
    adapter(root / "a" / "ink.safetensors")
    scan(catalogue)
    version = catalogue.version
    adapter(root / "b" / "ink.safetensors")
    honest, described = indexer.build_card, []
    monkeypatch.setattr(
        indexer, "build_card", lambda file, layouts: described.append(file.subfolder) or honest(file, layouts)
    )
    assert scan(catalogue).keys() == {"a/ink", "b/ink"}
    assert described == ["b/ink.safetensors"]
    assert cards(catalogue, version).keys() == {"a/ink", "b/ink"}


def test_a_restart_keeps_ids_stars_and_use(root, tmp_path):
    path = adapter(root / "x.safetensors")
    adapter(root / "y.safetensors")
    with opened(root, place=tmp_path / "place") as catalogue:
        card = scan(catalogue)["x"]["id"]
        catalogue.set_star(card, True)
        catalogue.record_use(path)
        before = cards(catalogue)
    with opened(root, place=tmp_path / "place") as again:
        assert cards(again) == before == scan(again)
    assert before["x"]["star"] is True
    assert before["x"]["used"] > 1_600_000_000
    assert "used" not in before["y"]


def test_what_is_known_of_a_file_without_reading_it(root, catalogue, files_read):
    path = adapter(root / "x.safetensors", ss_output_name="given", sshs_model_hash="abc")
    assert catalogue.file_info(path) is None
    scan(catalogue)
    files_read.clear()
    about = catalogue.file_info(path)
    assert (about.alias, about.hash, files_read) == ("given", "abc", [])
    adapter(path, "lokr", ss_output_name="other")
    assert catalogue.file_info(path) is None
    assert catalogue.file_info(root / "nobody.safetensors") is None
