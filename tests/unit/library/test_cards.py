"""What a card says of a file, and that nothing that people or trainers write can break the list."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.library.header_cache import HeaderCache
from tests.support.sample_adapters import adapter_file
from tests.support.sample_library import adapter, opened, picture, scan, sidecar


@pytest.fixture
def catalogue(tmp_path):
    (tmp_path / "root").mkdir()
    with opened(tmp_path / "root", place=tmp_path / "place") as made:
        yield made


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def only(catalogue):
    (card,) = scan(catalogue).values()
    return card, catalogue.details(card["id"])


BROKEN = {
    "empty": (b"", "is empty"),
    "page": (b"<!DOCTYPE html><html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "cut": (struct.pack("<Q", 500) + b'{"a":', "is incomplete"),
    "not json": (struct.pack("<Q", 6) + b'{"a": ', "damaged safetensors header"),
    "deep": (struct.pack("<Q", 60_000) + b'{"a":' * 12_000, "nested too deeply"),
    "metadata only": (struct.pack("<Q", 20) + b'{"__metadata__":{}}\n', "holds no tensors"),
    "deep metadata": (struct.pack("<Q", 60_020) + b'{"__metadata__":    ' + b'{"a":' * 12_000, "nested too deeply"),
    "metadata is a list": (struct.pack("<Q", 22) + b'{"__metadata__":[1,2]}', "holds no tensors"),
}


def test_a_file_that_was_put_right_since(root, catalogue):
    (root / "x.safetensors").write_bytes(b"")
    card, _ = only(catalogue)
    adapter(root / "x.safetensors")
    details = catalogue.details(card["id"])
    assert ("error" in details, details["layers"]) == (False, {"LoRA": 2})


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_a_card_with_the_reason(root, catalogue, kind):
    content, reason = BROKEN[kind]
    (root / "x.safetensors").write_bytes(content)
    card, details = only(catalogue)
    assert reason in card["error"]
    assert details["error"] == card["error"]
    assert card.keys().isdisjoint({"family", "algorithms"})


def test_a_foreign_file_says_where_it_belongs_and_keeps_its_texts(root, catalogue):
    path = root / "x.safetensors"
    save_file({"emb_params": torch.zeros(1, 768)}, path, metadata={"ss_output_name": "given"})
    sidecar(path, {"notes": "mine", "activation text": "ink"})
    card, details = only(catalogue)
    assert "textual inversion" in card["error"]
    assert (card["words"], details["notes"], details["metadata"]) == (["ink"], "mine", {"ss_output_name": "given"})
    assert catalogue.file_info(path).alias == "given"


def test_a_fault_of_ours_costs_one_card_and_not_the_list(root, catalogue, monkeypatch, caplog):
    adapter(root / "bad.safetensors"), adapter(root / "good.safetensors")
    honest = HeaderCache.summarize
    monkeypatch.setattr(
        HeaderCache, "summarize", lambda self, path: 1 / 0 if "bad" in path.name else honest(self, path)
    )
    found = scan(catalogue)
    assert "ZeroDivisionError" in found["bad"]["error"]
    assert found["good"]["family"] == "sd1"
    assert "bad.safetensors cannot be read" in caplog.text


def test_everything_that_a_sidecar_may_say(root, catalogue):
    path = adapter(root / "x.safetensors", modelspec__trigger_phrase="other")
    said = {
        "description": "d" * 300,
        "sd version": "SD1",
        "activation text": "ink, wash\nblot,",
        "preferred weight": 0.7,
        "negative text": "photo",
        "notes": "n",
        "theirs": [1],
    }
    sidecar(path, said)
    card, details = only(catalogue)
    assert (card["words"], card["negative"], card["weight"], card["base"]) == (
        ["ink, wash", "blot"],
        "photo",
        0.7,
        "SD1",
    )
    assert card["text"] == "d" * 200
    assert details["description"] == "d" * 300
    assert details["notes"] == "n"
    assert details["sidecar"] == {key: value for key, value in said.items() if key != "theirs"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        '"text"',
        "null",
        "{",
        '{"a":' * 9_000,
        "\ufeff",
        '{"description": ["x"], "preferred weight": "much"}',
    ],
)
def test_a_sidecar_of_another_kind_is_passed_over(root, catalogue, content):
    sidecar(adapter(root / "x.safetensors"), content)
    card, details = only(catalogue)
    assert card["family"] == "sd1"
    assert card.keys().isdisjoint({"words", "weight", "text"})
    assert details["sidecar"] == {}


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "1e999", "true", "1" * 400, "0", '"nan"', "[]"])
def test_a_weight_that_is_no_number_of_use(root, catalogue, weight):
    sidecar(adapter(root / "x.safetensors"), f'{{"preferred weight": {weight}, "notes": "n"}}')
    card, details = only(catalogue)
    assert "weight" not in card
    assert details["notes"] == "n"


def test_a_huge_sidecar_is_not_read(root, catalogue):
    sidecar(adapter(root / "x.safetensors"), {"notes": "n" * 4_100_000, "activation text": "ink"})
    assert "words" not in only(catalogue)[0]


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".civitai.info", {"trainedWords": ["ink, ", " wash", "ink", "", 3, None]}, ["ink", "wash"]),
        (".civitai.info", {"trainedWords": "ink"}, ["ink"]),
        (".civitai.info", {"trainedWords": None}, None),
        (".civitai.info", {"trainedWords": {"a": 1}}, None),
        (".civitai.info", [], None),
        (".cm-info.json", {"TrainedWords": ["ink"]}, ["ink"]),
    ],
)
def test_words_that_a_site_knows(root, catalogue, suffix, content, words):
    sidecar(adapter(root / "x.safetensors"), content, suffix)
    assert only(catalogue)[0].get("words") == words


def test_each_source_of_words_is_named_and_the_users_own_wins(root, catalogue):
    path = adapter(
        root / "x.safetensors", modelspec__trigger_phrase="three", ss_tag_frequency={"10_x": {"four": 2, "five": 9}}
    )
    sidecar(path, {"activation text": "one"})
    sidecar(path, {"trainedWords": ["two"]}, ".civitai.info")
    card, details = only(catalogue)
    assert card["words"] == ["one"]
    assert [(entry["source"], entry["words"]) for entry in details["sources"]] == [
        ("sidecar", ["one"]), ("civitai", ["two"]), ("modelspec", ["three"]), ("training", ["five", "four"]),
    ]  # fmt: skip
    assert details["training"] == [["five", 9], ["four", 2]]


@pytest.mark.parametrize(
    ("table", "tags"),
    [
        ({"10_a": {"x": 3, " y ": 1}, "5_b": {"x": 1}}, ["x", "y"]),
        ({"set": {"10_a": {"x": 3}, "5_b": {"y": 4}}}, ["y", "x"]),
        ({"10_a": {"x": "many", "y": None, "z": True, "w": -1, "v": 1.5, "": 3}}, ["v"]),
        ('{"10_a": {"x": NaN, "y": Infinity, "z": 1e300, "w": 2}}', ["w"]),
        ("[1, 2]", None),
        ("{", None),
        ('{"a":' * 9_000, None),
        ({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, None),
    ],
)
def test_training_tags_of_every_shape(root, catalogue, table, tags):
    adapter(root / "x.safetensors", ss_tag_frequency=table)
    assert only(catalogue)[0].get("tags") == tags


def test_many_tags_are_cut(root, catalogue):
    adapter(root / "x.safetensors", ss_tag_frequency={"a": {f"t{n:03}": 1000 - n for n in range(900)}})
    card, details = only(catalogue)
    assert card["tags"] == [f"t{n:03}" for n in range(15)]
    assert len(details["training"]) == 200


@pytest.mark.parametrize("suffix", [".txt", ".description.txt"])
def test_descriptions_in_their_older_place(root, catalogue, suffix):
    path = adapter(root / "x.safetensors", modelspec__description="trainer's")
    path.with_name(f"x{suffix}").write_bytes("é".encode() + b"\xff" + b"z" * 300)
    card, _ = only(catalogue)
    assert card["text"].startswith("é\ufffdzz")
    assert len(card["text"]) == 200
    sidecar(path, {"description": "mine"})
    assert only(catalogue)[1]["description"] == "mine"


def test_hostile_metadata_stays_text(root, catalogue):
    evil = '</script><img src=x onerror="alert(1)">\u2028'
    path = adapter(root / "x.safetensors", ss_output_name=evil, modelspec__title="", huge="v" * 30_000)
    sidecar(path, '{"activation text": "half \\ud83d", "notes": "\\ud83d"}')
    card, details = only(catalogue)
    assert card["title"] == evil
    assert card["words"] == ["half ?"]
    assert len(details["metadata"]["huge"]) == 20_000
    json.dumps(details, allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_an_alpha_that_is_no_number(root, catalogue):
    path = adapter_file(root / "x.safetensors", {"mid_block_attentions_0_proj_in": (8, 8)})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<f", 2.0), struct.pack("<f", float("nan")), 1))
    card, _ = only(catalogue)
    assert "alpha" not in card
    assert card["rank"] == 2


def test_metadata_that_is_not_only_texts(root, catalogue):
    adapter(root / "x.safetensors")
    raw = (root / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    table["__metadata__"] = {"ss_output_name": {"a": 1}, "ss_tag_frequency": {"a": {"x": 1}}, "n": 3}
    header = json.dumps(table, separators=(",", ":")).encode()
    (root / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    card, details = only(catalogue)
    assert (card["title"], card["tags"], details["metadata"]["n"]) == ('{"a": 1}', ["x"], "3")


def test_details_of_a_file_with_oddities(root, catalogue):
    path = root / "x.safetensors"
    tensors = {
        f"lora_unet_mid_block_attentions_0_proj_in.{leaf}": torch.ones(4, 4)
        for leaf in ("lora_up.weight", "lora_down.weight")
    }
    save_file(tensors | {"nonsense": torch.ones(1), "bundle_emb.word.string_to_param.*": torch.ones(1, 4)}, path)
    _, details = only(catalogue)
    assert details["unusable"] == [["nonsense", "no known adapter has a tensor of this name"]]
    assert details["embeddings"] == ["word"]
    assert details["family_name"]


def test_previews_in_the_order_that_does_not_change(root, catalogue):
    path = adapter(root / "x.safetensors", ssmd_cover_images=["x"])
    kinds = []
    for suffix in ("", ".preview.mp4", ".webm", ".preview.gif", ".png"):
        if suffix:
            path.with_name(f"x{suffix}").write_bytes(picture())
        card, _ = only(catalogue)
        kinds.append((card["preview"]["kind"], getattr(catalogue.preview(card["id"]), "name", None)))
    assert kinds == [
        ("cover", None), ("video", "x.preview.mp4"), ("video", "x.preview.mp4"), ("image", "x.preview.gif"),
        ("image", "x.png"),
    ]  # fmt: skip


def test_a_hypernetwork_is_a_card_of_its_own_kind(root, catalogue):
    state = {"linear.0.weight": torch.ones(768, 768), "linear.0.bias": torch.ones(768)}
    torch.save({768: (state, state), "activation_func": None, "sd_checkpoint_name": "base", "step": 7}, root / "h.pt")
    card, details = only(catalogue)
    assert (card["kind"], card["family"], card["algorithms"]) == ("hypernet", "sd1", ["Hypernetwork"])
    assert "error" not in card
    assert details["layers"] == {"Hypernetwork 1-1": 1}
    assert details["metadata"] == {"step": "7", "sd_checkpoint_name": "base"}
    assert catalogue.strengths(card["id"]) == []
    torch.save({768: (state,)}, root / "h.pt")
    card, details = only(catalogue)
    assert card["error"] == details["error"] == "h.pt has no pair of nets for width 768"


def test_an_aesthetic_embedding_is_a_card_of_its_own_kind(root, catalogue):
    torch.save(torch.ones(2, 768), root / "glow.pt")
    card, details = only(catalogue)
    assert (card["kind"], card["family"], card["algorithms"]) == ("aesthetic", "sd1", ["Aesthetic"])
    assert "error" not in card
    assert details["layers"] == {"vectors of 768 numbers": 2}
    assert catalogue.strengths(card["id"]) == []
    torch.save(torch.zeros(768), root / "glow.pt")
    card, details = only(catalogue)
    assert card["error"] == details["error"]
    assert card["error"].startswith("glow.pt holds a vector of zeros")
