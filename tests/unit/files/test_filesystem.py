"""What Windows, macOS and file systems of other kinds do differently, tried here as functions of names and bytes."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path, PureWindowsPath

import pytest

from lib_adapters import filesystem
from lib_adapters.app.arguments import check_new, presets_of
from lib_adapters.app.image_output import output_path
from lib_adapters.errors import AdapterError
from lib_adapters.files.container import open_tensor_file
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library import companions, walk
from lib_adapters.library.file_names import names_of, shortest_names
from lib_adapters.library.preset_file import PresetFile
from tests.support.sample_library import adapter, cards, opened, picture, scan

NFC, NFD = "Café Ñandú", "Cafe\u0301 N\u0303andu\u0301"
DEVICES = ["CON", "nul", "aux.safetensors", "Aux .pt", "COM1", "com¹.png", "LPT9.tar.gz", "CONIN$", "prn.", "conout$.x"]
FORBIDDEN = [*'<>:"/\\|?*\0\x1f\x7f', "a\nb", "C:x", "\\\\server\\share", "../up", "x.safetensors:stream"]
ENDINGS = ["ink.", "ink ", "ink. .", ".", "..", " ", "", "…" * 70]
PLAIN = [
    "ink",
    "ink v1.5.safetensors",
    "con_fusion",
    "console.pt",
    "auxiliary",
    "com10",
    "COMIC 1.pt",
    "名前",
    NFC,
    NFD,
]


@pytest.mark.parametrize("name", [*DEVICES, *FORBIDDEN, *ENDINGS])
def test_names_that_some_system_cannot_have(name, tried):
    tried("platforms", "names").add()
    assert not filesystem.is_portable_name(name)


@pytest.mark.parametrize("name", PLAIN)
def test_names_that_every_system_has(name, tried):
    tried("platforms", "names").add()
    assert filesystem.is_portable_name(name)


@pytest.mark.parametrize("name", ["aux.safetensors", "a?b.safetensors", "nul.png"])
def test_nothing_is_written_under_a_name_that_cannot_be_taken_elsewhere(tmp_path, name):
    write = output_path if name.endswith(".png") else lambda out, *_: check_new(out, ".safetensors")
    with pytest.raises(AdapterError, match="not every system can have a file of this name"):
        write(tmp_path / name, "x", 0, 1)


def test_a_path_that_windows_cannot_reach(monkeypatch, tmp_path):
    long = "C:\\" + "x" * 257
    assert [filesystem.is_path_too_long(path, windows=True) for path in (long, long[:-1], "\\\\?\\" + long)] == [
        1,
        0,
        0,
    ]
    assert not filesystem.is_path_too_long(long, windows=False)
    monkeypatch.setattr(
        "lib_adapters.files.container.is_path_too_long", lambda path: filesystem.is_path_too_long(path, True)
    )
    with pytest.raises(AdapterError, match="more than 259 letters; give it a shorter place"):
        open_tensor_file(tmp_path / ("x" * 200) / ("y" * 100))
    with pytest.raises(AdapterError, match="does not exist"):
        open_tensor_file(tmp_path / "x")


@pytest.mark.parametrize(
    ("path", "folder", "names"),
    [
        (r"C:\Models\Lora\style\Ink.pt", r"c:\models\lora", ["Ink", "style/Ink", "lora/style/Ink"]),
        (r"\\nas\files\Lora\Ink.pt", r"\\nas\files\Lora", ["Ink", "Lora/Ink"]),
        (r"\\nas\files\Ink.pt", r"\\nas\files", ["Ink", "/Ink"]),
        (r"D:\Ink.pt", "D:\\", ["Ink", "/Ink"]),
        (r"D:\other\Ink.pt", r"C:\Lora", ["Ink"]),
    ],
)
def test_names_have_slashes_on_windows_too(path, folder, names):
    found = names_of(PureWindowsPath(path), PureWindowsPath(folder))
    assert found == [name for one in names for name in (one, f"{one}.pt")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (NFC.encode(), NFC),
        (b"\xef\xbb\xbf" + NFC.encode(), NFC),
        (NFC.encode("utf-16"), NFC),
        (b"\xfe\xff" + NFC.encode("utf-16-be"), NFC),
        (NFC.encode("cp1252"), NFC),
        (b"caf\xe9", "café"),
        ("“smart”\x81".encode("cp1252", "ignore"), "“smart”"),
        ("é".encode() + b"\xff tail", "é\ufffd tail"),
        (b"\x81\xff", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_texts_of_any_editor_are_read(content, text, tried):
    tried("platforms", "texts").add()
    assert filesystem.decode_text(content, fallback_encoding="utf-8") == text


def test_texts_of_an_old_editor_in_another_country():
    assert filesystem.decode_text("触发词".encode("gbk"), fallback_encoding="gbk") == "触发词"
    assert filesystem.decode_text("触发词".encode(), fallback_encoding="gbk") == "触发词"


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_text_that_is_cut_in_the_middle_of_a_letter(cut):
    assert filesystem.decode_text("ab🎨".encode()[: 2 + cut], final=False) == "ab"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_what_lies_beside_a_file_in_any_encoding_and_with_any_line_ends(tmp_path, encoding, tried):
    tried("platforms", "texts").add(2)
    adapter(tmp_path / "x" / "ink.safetensors")
    text = json.dumps({"activation text": "hat\r\nCafé", "notes": "ù"}, ensure_ascii=False, indent=2)
    text = text.replace("\n", "\r\n")
    (tmp_path / "x" / "ink.json").write_bytes(text.encode(encoding))
    (tmp_path / "x" / "ink.txt").write_bytes("Olé\r\nolé".encode(encoding))
    with opened(tmp_path / "x", place=tmp_path / "index") as catalogue:
        card = scan(catalogue)["ink"]
        details = catalogue.details(card["id"])
    assert (details["sources"][0]["words"], details["notes"]) == (["hat", "Café"], "ù")
    assert details["description"] == "Olé\nolé"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_presets_of_any_editor(tmp_path, encoding, tried):
    tried("platforms", "texts").add()
    file = tmp_path / "presets.txt"
    file.write_bytes(f"# mine\r\nÉTÉ:{'1,' * 16}0.5\r\nB:{'0,' * 16}1\r\n".encode(encoding))
    assert {"ÉTÉ", "B"} <= set(presets_of(file).blocks)
    if encoding.startswith("utf-8"):  # this one is also written, so it must be certain
        assert list(PresetFile(file).listing().own_presets.blocks) == ["ÉTÉ", "B"]


@pytest.mark.parametrize("written", [NFC, NFD])
@pytest.mark.parametrize("typed", [NFC, NFD])
def test_a_name_is_found_in_either_form_and_nobody_is_told(tmp_path, written, typed, tried):
    tried("platforms", "names").add(2)
    path = adapter(tmp_path / f"{written}.safetensors")
    found = _names(tmp_path).resolve("lyco", typed)
    assert (found.value, found.notice) == (path, None)
    on_shelf = FolderResolver([tmp_path]).adapter(typed)
    assert (on_shelf.adapter.path, on_shelf.notice) == (path, None)


def test_case_decides_only_where_it_must(tmp_path):
    for name in ("Ink", "ink", f"Sky {NFD}", f"sky {NFD}"):
        adapter(tmp_path / f"{name}.safetensors")
    for look in (
        lambda name: ((found := _names(tmp_path).resolve("lyco", name)).value, found.notice),
        lambda name: ((found := FolderResolver([tmp_path]).adapter(name)).adapter.path, found.notice),
    ):
        assert [look(name)[0].stem for name in ("Ink", "ink")] == ["Ink", "ink"]
        assert look(f"sky {NFC}")[0].stem == f"sky {NFD}"
        path, notice = look("INK")
        other = {"Ink": "ink", "ink": "Ink"}[path.stem]
        assert f"<lyco:{path.stem}:1>" in notice
        assert f"<lyco:{other}:1>" in notice
    assert shortest_names([("Lora", "Ink.pt"), ("Lora", "ink.pt")]) == ["Ink", "ink"]


@pytest.mark.skipif(os.name == "nt", reason="there a backslash is no letter")
@pytest.mark.parametrize("name", ["a\\b", " a ", "a ."])
def test_a_name_that_only_this_system_can_have_is_found_as_it_is(tmp_path, name):
    path = adapter(tmp_path / f"{name}.safetensors")
    assert _names(tmp_path).resolve("lyco", name).value == path
    assert FolderResolver([tmp_path]).adapter(name).adapter.path == path


def test_what_the_system_takes_for_a_files_sidecar_is_seen_by_every_look(tmp_path, monkeypatch):
    """Windows and macOS answer to `ink.png` with `INK.Png`; here the folder's listing is told to say so."""
    path = adapter(tmp_path / "ink.safetensors")
    path.with_suffix(".png").write_bytes(picture())
    adapter(tmp_path / "plain.safetensors")
    real = walk.list_folders

    def listings(folder):
        for where, listing in real(folder):
            yield where, {name.replace("ink.png", "INK.Png"): entry for name, entry in listing.items()}

    monkeypatch.setattr(walk, "list_folders", listings)
    walked = {file.subfolder: file for file in walk.walk([tmp_path], lambda: False)}
    assert walked["ink.safetensors"].companions == walk.scan_file(path).companions != ""
    assert walked["plain.safetensors"].companions == ""


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("INK.png", {"ink"}), ("ink.PNG", {"ink"}), ("Ink.Preview.Png", {"ink"}), ("ink.Civitai.Info", {"ink"}),
        ("ink.png", set()), ("ink.preview.png", set()), ("other.PNG", set()), ("ink.PNG.txt", set()),
    ],
)  # fmt: skip
def test_which_files_may_be_taken_for_a_sidecar(name, odd):
    assert companions.case_mismatched({name: None, "ink.safetensors": None}, ["ink"]) == odd
    assert companions.case_mismatched({f"{NFC}.png": None}, [NFD]) == {NFD}


@pytest.mark.parametrize("refusals", range(len(filesystem.RETRY_DELAYS) + 1))
def test_a_file_that_is_open_elsewhere_for_a_moment_is_replaced_all_the_same(tmp_path, monkeypatch, refusals, tried):
    tried("platforms", "refused replacements").add()
    target = tmp_path / "ink.json"
    target.write_bytes(b"old")
    waited = _refusing(monkeypatch, refusals)
    filesystem.atomic_write(target, b"new")
    assert target.read_bytes() == b"new"
    assert waited == list(filesystem.RETRY_DELAYS[:refusals])
    assert [path.name for path in tmp_path.iterdir()] == ["ink.json"]


def test_a_file_that_stays_open_elsewhere_is_left_alone_and_said(tmp_path, monkeypatch):
    target = tmp_path / "ink.json"
    target.write_bytes(b"old")
    waited = _refusing(monkeypatch, 99)
    with pytest.raises(AdapterError, match=r"ink\.json cannot be written: Access is denied"):
        filesystem.atomic_write(target, b"new")
    assert target.read_bytes() == b"old"
    assert sum(waited) < 1
    assert [path.name for path in tmp_path.iterdir()] == ["ink.json"]


def test_a_write_protected_file_is_said_even_where_what_was_written_cannot_be_removed(tmp_path, monkeypatch):
    """Windows neither replaces nor deletes what is read-only, and the new file has the old one's rights."""
    _refusing(monkeypatch, 99)
    monkeypatch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Access is denied")))
    with pytest.raises(AdapterError, match="cannot be written: Access is denied"):
        filesystem.atomic_write(tmp_path / "ink.json", b"new")


def test_edits_within_one_tick_of_a_coarse_clock_are_seen(tmp_path, monkeypatch):
    """FAT counts in steps of two seconds: a text of the same length has the same size and time."""
    real = filesystem.replace_with_retry

    def replace(part, target):
        real(part, target)
        os.utime(target, (1_700_000_000, 1_700_000_000))

    monkeypatch.setattr(filesystem, "replace_with_retry", replace)
    adapter(tmp_path / "x" / "ink.safetensors")
    with opened(tmp_path / "x", place=tmp_path / "index") as catalogue:
        card = scan(catalogue)["ink"]
        for weight in (0.5, 0.7):
            catalogue.save(card["id"], {"preferred weight": weight})
            assert cards(catalogue)["ink"]["weight"] == weight
            assert scan(catalogue)["ink"]["weight"] == weight


def test_an_index_that_somebody_else_has_locked_is_kept_in_memory(tmp_path, monkeypatch, caplog):
    """As it is for ever on some network drives."""
    monkeypatch.setattr("lib_adapters.library.database.POOL_TIMEOUT", 0.1)
    adapter(tmp_path / "x" / "ink.safetensors")
    (tmp_path / "index").mkdir()
    holder = sqlite3.connect(tmp_path / "index" / "catalogue.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with opened(tmp_path / "x", place=tmp_path / "index") as catalogue:
        assert set(scan(catalogue)) == {"ink"}
    holder.close()
    assert "cannot be kept" in caplog.text


def _names(folder: Path) -> NameResolver[Path]:
    return NameResolver(lambda: {"lyco": [folder]}, lambda path: None, lambda path: path)


def _refusing(monkeypatch, times: int) -> list[float]:
    """As Windows does while another program has the file open; the pauses that were made meanwhile."""
    waited: list[float] = []
    real, left = Path.replace, [times]

    def replace(part: Path, target: Path) -> Path:
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "Access is denied", str(target))
        return real(part, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(filesystem.time, "sleep", waited.append)
    return waited
