"""What users change: sidecars, previews, stars; and what is computed when it is asked for."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import struct
import zlib

import pytest
from PIL import Image

from lib_adapters.errors import AdapterError
from lib_adapters.library import image_decoding, sidecar_json
from tests.support.sample_library import adapter, cards, data_url, opened, picture, scan, sidecar


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def catalogue(root, tmp_path):
    with opened(root, place=tmp_path / "place") as made:
        yield made


@pytest.fixture
def path(root):
    return adapter(root / "ink.safetensors")


@pytest.fixture
def card(path, catalogue):
    return scan(catalogue)["ink"]["id"]


def test_saving_keeps_what_others_wrote_and_its_order(path, catalogue, card):
    beside = sidecar(path, '{"modelId": 7, "notes": "old", "x": NaN, "nested": {"é": [1]}}')
    beside.chmod(0o640)
    version = catalogue.version
    catalogue.save(card, {"notes": "neu ü", "preferred weight": "0.80", "activation text": "墨"})
    written = beside.read_text("utf-8")
    assert list(json.loads(written)) == ["modelId", "notes", "x", "nested", "preferred weight", "activation text"]
    assert all(text in written for text in ('"notes": "neu ü"', '"x": NaN', '"é"', '"preferred weight": 0.8', "墨"))
    assert beside.stat().st_mode & 0o777 == 0o640
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []  # noqa: PTH208
    (changed,) = cards(catalogue, version).values()
    assert (changed["words"], changed["weight"]) == (["墨"], 0.8)
    catalogue.save(card, {"preferred weight": 0})
    assert json.loads(beside.read_text("utf-8"))["preferred weight"] == 0
    assert "weight" not in cards(catalogue)["ink"]


def test_an_edited_card_is_not_read_again(path, catalogue, card, monkeypatch):
    path.with_suffix(".webp").write_bytes(picture("WEBP"))
    sidecar(path, "text", ".txt")
    sidecar(path, {}, ".civitai.info")
    catalogue.save(card, {"notes": "n"})
    version = catalogue.version
    scan(catalogue)
    assert catalogue.version == version


def test_the_first_sidecar_of_a_file(path, catalogue, card):
    catalogue.save(card, {"description": "half \ud83d"})
    assert json.loads(path.with_suffix(".json").read_text("utf-8")) == {"description": "half \ud83d"}
    assert catalogue.details(card)["description"] == "half ?"


def test_a_sidecar_with_a_mark_of_its_byte_order(path, catalogue, card):
    path.with_suffix(".json").write_bytes(b'\xef\xbb\xbf{"notes": "n"}')
    assert catalogue.details(card)["notes"] == "n"
    catalogue.save(card, {"sd version": "SD1"})
    assert json.loads(path.with_suffix(".json").read_bytes()) == {"notes": "n", "sd version": "SD1"}


@pytest.mark.parametrize("content", ["[1]", "{", "", '"x"', '{"a": "\\', "[" * 9_000])
def test_what_is_no_sidecar_is_never_overwritten(path, catalogue, card, content):
    beside = sidecar(path, content)
    with pytest.raises(AdapterError, match=r"ink\.json is not .*left as it is"):
        catalogue.save(card, {"notes": "n"})
    assert beside.read_text("utf-8") == content


def test_a_sidecar_that_would_grow_without_end_is_never_overwritten(path, catalogue, card):
    """Each level is written with an indent of its own."""
    beside = sidecar(path, '{"a":' + "[" * 300 + "1," * 200_000 + "1" + "]" * 300 + "}")
    before = beside.read_bytes()
    with pytest.raises(AdapterError, match="nested too deeply"):
        catalogue.save(card, {"notes": "mine"})
    assert beside.read_bytes() == before


def test_a_huge_sidecar_is_never_overwritten(path, catalogue, card):
    beside = sidecar(path, {"notes": "n" * sidecar_json.MAX_BYTES})
    with pytest.raises(AdapterError, match="too large"):
        catalogue.save(card, {"notes": "n"})
    assert beside.stat().st_size > sidecar_json.MAX_BYTES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "x"}, "nothing that can be saved"),
        ({"notes": 3}, "'notes' has to be a text"),
        ({"notes": "n" * 100_001}, "'notes' has to be a text of at most"),
        ({"preferred weight": "much"}, "'preferred weight' has to be a number"),
        ({"preferred weight": float("nan")}, "'preferred weight' has to be a number"),
        ({"notes": "n", "lycoris": {}}, "'lycoris' is nothing"),
    ],
)
def test_what_cannot_be_saved(path, catalogue, card, changes, reason):
    with pytest.raises(AdapterError, match=reason):
        catalogue.save(card, changes)
    assert not path.with_suffix(".json").exists()


def test_a_linked_sidecar_stays_a_link(path, catalogue, card, tmp_path):
    (tmp_path / "real.json").write_text("{}")
    path.with_suffix(".json").symlink_to(tmp_path / "real.json")
    catalogue.save(card, {"notes": "n"})
    assert path.with_suffix(".json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"notes": "n"}


def test_a_place_where_nothing_can_be_written(path, catalogue, card, monkeypatch):
    def refuse(**given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lib_adapters.filesystem.tempfile.mkstemp", refuse)
    with pytest.raises(AdapterError, match=r"ink\.json cannot be written: Permission denied"):
        catalogue.save(card, {"notes": "n"})


def test_stars_and_use(path, catalogue, card, root):
    version = catalogue.version
    catalogue.set_star(card, True)
    catalogue.record_use(path)
    catalogue.record_use(root / "nobody.safetensors")
    (changed,) = cards(catalogue, version).values()
    assert (changed["star"], changed["used"] > 0) == (True, True)
    catalogue.set_star(card, False)
    assert "star" not in cards(catalogue)["ink"]
    with pytest.raises(AdapterError, match="no such card"):
        catalogue.set_star(card + 1000, True)


def size_of(image):
    with Image.open(io.BytesIO(image)) as picture:
        return picture.format, picture.size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_thumbnails_are_small_and_made_once(path, catalogue, card, kind, monkeypatch):
    path.with_suffix(f".{kind.lower()}").write_bytes(picture(kind))
    made = catalogue.thumbnail(card)
    assert size_of(made) == ("WEBP", (384, 192))
    monkeypatch.setattr(image_decoding, "make_thumbnail", None)
    assert catalogue.thumbnail(card) == made


@pytest.mark.parametrize(
    "image",
    [
        picture("PNG", mode="P"),
        picture("PNG", mode="RGBA"),
        picture("JPEG", mode="CMYK"),
        picture("PNG", (30, 20), "L"),
    ],
    ids=["P", "RGBA", "CMYK", "L"],
)
def test_pictures_of_every_mode(image):
    kind, (width, height) = size_of(image_decoding.make_thumbnail(image))
    assert (kind, width <= 384, height < width) == ("WEBP", True, True)


def test_a_picture_that_lies_on_its_side():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert size_of(image_decoding.make_thumbnail(picture("JPEG", exif=turned.tobytes())))[1] == (192, 384)


def bomb(width, height):
    """A PNG whose header promises more pixels than a machine has room for."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 10_000)), (b"IEND", b"")
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


HOSTILE = {
    "bomb": bomb(9_000, 9_000),
    "large bomb": bomb(60_000, 60_000),
    "cut": picture()[:200],
    "text": b"<svg onload='alert(1)'/>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "empty": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pictures_are_not_decoded(path, catalogue, card, kind, monkeypatch):
    decoded, honest = [], image_decoding.Image.Image.convert
    monkeypatch.setattr(image_decoding.Image.Image, "convert", lambda *given: decoded.append(kind) or honest(*given))
    path.with_suffix(".png").write_bytes(HOSTILE[kind])
    assert catalogue.thumbnail(card) is None
    assert decoded == (["cut"] if kind == "cut" else [])  # which is found out by nothing else
    with pytest.raises(AdapterError, match="no picture"):
        catalogue.set_preview(card, HOSTILE[kind])
    assert path.with_suffix(".png").read_bytes() == HOSTILE[kind]


@pytest.mark.parametrize(
    "texts",
    [
        {"modelspec__thumbnail": data_url(picture("JPEG"))},
        {"ssmd_cover_images": ["no picture", base64.b64encode(picture()).decode()]},
        {"ssmd_cover_images": "[", "modelspec__thumbnail": data_url(picture())},
        {"ssmd_cover_images": [None, 3, "=", "data:"], "modelspec__thumbnail": base64.b64encode(picture()).decode()},
    ],
)
def test_covers_inside_a_file(root, catalogue, texts):
    path = adapter(root / "x.safetensors", **texts)
    card = scan(catalogue)["x"]
    assert card["preview"]["kind"] == "cover"
    assert catalogue.details(card["id"])["metadata"] == {}  # no text that anybody reads
    assert size_of(catalogue.thumbnail(card["id"]))[1] == (384, 192)
    path.with_name("x.preview.webm").write_bytes(b"video")
    assert scan(catalogue)["x"]["preview"]["kind"] == "video"
    assert catalogue.thumbnail(card["id"])


def test_no_picture_at_all(catalogue, card):
    assert catalogue.preview(card) is None
    assert catalogue.thumbnail(card) is None


def test_a_new_preview_is_kept_byte_for_byte(path, catalogue, card, tmp_path):
    path.with_name("ink.preview.png").write_bytes(picture(size=(10, 10)))
    assert size_of(catalogue.thumbnail(card))[1] == (10, 10)
    before, image = cards(catalogue)["ink"], picture()
    catalogue.set_preview(card, image)
    after = cards(catalogue)["ink"]["preview"]
    assert path.with_suffix(".png").read_bytes() == image
    assert (after["kind"], "preview" in before) == ("image", False)
    assert catalogue.preview(card) == path.with_suffix(".png")
    assert size_of(catalogue.thumbnail(card))[1] == (384, 192)
    catalogue.set_preview(card, picture("JPEG", (50, 40)))
    assert size_of(path.with_suffix(".png").read_bytes()) == ("PNG", (50, 40))
    assert cards(catalogue)["ink"]["preview"]["v"] != after["v"]
    assert size_of(catalogue.thumbnail(card))[1] == (50, 40)
    assert len(list((tmp_path / "place" / "thumbs").rglob("*.webp"))) == 1  # of the latest


def test_a_picture_that_is_too_large_to_be_sent(catalogue, card):
    with pytest.raises(AdapterError, match="at most 32 MB"):
        catalogue.set_preview(card, b"\x89PNG" + b"\0" * 32_000_000)


def test_hashes_as_sites_and_the_web_ui_have_them(path, catalogue, card, monkeypatch):
    content = path.read_bytes()
    behind = content[8 + struct.unpack("<Q", content[:8])[0] :]
    whole = hashlib.sha256(content).hexdigest()
    known = {"sha256": whole, "autov2": whole[:10], "addnet": hashlib.sha256(behind).hexdigest()[:12]}
    assert catalogue.details(card)["hashes"] == {}
    assert catalogue.hash_of(card) == known
    monkeypatch.setattr("lib_adapters.library.hashes.hashlib", None)
    assert catalogue.hash_of(card) == catalogue.details(card)["hashes"] == known
    catalogue.save(card, {"notes": "n"})
    assert catalogue.hash_of(card) == known
    monkeypatch.undo()
    adapter(path, "lokr")
    assert catalogue.hash_of(card)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    scan(catalogue)
    assert catalogue.hash_of(card)["sha256"] != whole
