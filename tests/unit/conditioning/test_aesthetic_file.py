"""Files of aesthetic embeddings, real, made and hostile, and the projections of CLIP models in folders."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.conditioning.aesthetic_file import open_aesthetic, save_aesthetic
from lib_adapters.conditioning.clip_features import load_text_projection, text_projection
from lib_adapters.errors import AdapterError, AestheticFile, InvalidModelFolder
from lib_adapters.files.adapter import open_adapter
from lib_adapters.prompt.aesthetic_tag import AestheticOptions, parse
from tests.support.tiny_models import clip

REAL = "LIB_ADAPTERS_REAL_FILES"  # a folder of files that nobody here made


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (5, 8)])
def test_any_float_type_and_both_shapes(tmp_path, dtype, shape):
    tensor = torch.randn(shape).to(dtype)
    torch.save(tensor, tmp_path / "a.pt")
    found = open_aesthetic(tmp_path / "a.pt")
    assert torch.equal(found.vectors, tensor.reshape(-1, 8))
    assert (found.name, found.width, found.family) == ("a", 8, "unknown")
    save_aesthetic(found.vectors, tmp_path / "b.safetensors", {"pictures": "5"})
    there = open_aesthetic(tmp_path / "b.safetensors")
    save_aesthetic(there.vectors, tmp_path / "c.pt")
    assert there.metadata == {"pictures": "5"}
    assert torch.equal(open_aesthetic(tmp_path / "c.pt").vectors, found.vectors)
    assert torch.equal(torch.load(tmp_path / "c.pt", weights_only=True), found.vectors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.safetensors", "c.pt"]


def test_old_files_and_files_saved_on_a_gpu(tmp_path):
    tensor = torch.randn(1, 8)
    torch.save(tensor, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(open_aesthetic(tmp_path / "old.pt").vectors, tensor)
    data = pickled(tmp_path / "gpu.pt", tensor)
    with zipfile.ZipFile(tmp_path / "gpu.pt", "w") as file:
        for name, content in data.items():
            file.writestr(name, content.replace(b"\x03\x00\x00\x00cpu", b"\x06\x00\x00\x00cuda:0"))
    assert b"cuda:0" in (tmp_path / "gpu.pt").read_bytes()
    assert torch.equal(open_aesthetic(tmp_path / "gpu.pt").vectors, tensor)


def pickled(path, tensor):
    torch.save(tensor, path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_as_an_adapter_they_are_told_apart(tmp_path, ending):
    save_aesthetic(torch.ones(1, 768), tmp_path / f"x.{ending}")
    with pytest.raises(AestheticFile, match=rf"^x.{ending} is a single tensor: an aesthetic .* <aesthetic:NAME>$"):
        open_adapter(tmp_path / f"x.{ending}")


def test_what_is_something_else_is_a_sentence_with_its_name(tmp_path):
    bad = {
        "dict": {"a": torch.ones(8)}, "list": [torch.ones(8)], "int": torch.ones(8, dtype=torch.int64),
        "scalar": torch.tensor(1.0), "cube": torch.ones(2, 2, 2), "none": torch.ones(0, 8), "one": torch.ones(3, 1),
        "nan": torch.full((8,), float("nan")), "zero": torch.zeros(2, 8), "wide": torch.ones(1, 10_000), "text": "hi",
    }  # fmt: skip
    for name, content in bad.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(AdapterError, match=f"^{name}.pt "):
            open_aesthetic(tmp_path / f"{name}.pt")
    save_file({"other": torch.ones(1, 8)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="is no aesthetic embedding"):
        open_aesthetic(tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="cannot be read"):
        open_aesthetic(tmp_path / "nobody.pt")
    with (tmp_path / "big.pt").open("wb") as file:
        file.truncate(65_000_000)
    with pytest.raises(AdapterError, match="65 MB are far too much"):
        open_aesthetic(tmp_path / "big.pt")


def test_code_in_a_pickle_is_not_run(tmp_path):
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (flag,))

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("evil/data.pkl", pickle.dumps(Evil(), protocol=2))
        file.writestr("evil/version", "3")
    with pytest.raises(AdapterError, match=r"^evil.pt "):
        open_aesthetic(tmp_path / "evil.pt")
    assert not flag.exists()


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    save_aesthetic(torch.ones(1, 8), tmp_path / "x.pt")

    def half(_, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_aesthetic(torch.zeros(1, 8), tmp_path / "x.pt")
    assert torch.equal(open_aesthetic(tmp_path / "x.pt").vectors, torch.ones(1, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_the_ready_made_embeddings_of_the_original_work():
    folder = os.environ.get(REAL)
    files = sorted(Path(folder).rglob("*aesthetic*/*.pt")) if folder else []
    if not files:
        pytest.skip(f"{REAL} names no folder with aesthetic_embeddings/*.pt")
    for file in files:
        found = open_aesthetic(file)
        assert (found.vectors.shape, found.family) == ((1, 768), "sd1")
        assert 0.3 < float(found.vectors.float().norm()) < 30


def test_the_projection_of_a_clip_folder(tmp_path):
    tower = clip(layers=2, projection=True)
    tower.save_pretrained(tmp_path / "new")
    assert torch.equal(load_text_projection(tmp_path / "new"), text_projection(tower))
    (tmp_path / "old").mkdir()
    torch.save(tower.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert torch.equal(load_text_projection(tmp_path / "old"), text_projection(tower))
    (tmp_path / "open").mkdir()
    matrix = text_projection(tower).T.contiguous()
    save_file({"text_projection": matrix}, tmp_path / "open" / "open_clip_pytorch_model.safetensors")
    assert torch.equal(load_text_projection(tmp_path / "open"), matrix.T)
    assert text_projection(clip(layers=2)) is None


class Scripted(torch.nn.Module):
    """As OpenAI saves its CLIP models: a TorchScript archive, whose tensors are attributes of a module."""

    def __init__(self, matrix):
        super().__init__()
        self.text_projection = torch.nn.Parameter(matrix)
        self.visual = torch.nn.Linear(3, 3)
        self.sizes = [1, 2]

    def forward(self, x):
        return x @ self.text_projection


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_the_projection_of_a_file(tmp_path):
    matrix = torch.randn(24, 16).half()
    torch.jit.script(Scripted(matrix)).save(tmp_path / "ViT-L-14.pt")
    assert torch.equal(load_text_projection(tmp_path / "ViT-L-14.pt"), matrix.T)
    assert torch.equal(load_text_projection(tmp_path), matrix.T)
    torch.save({"text_projection.weight": matrix}, tmp_path / "plain.pt")
    assert torch.equal(load_text_projection(tmp_path / "plain.pt"), matrix)
    name = "text_encoders.clip_l.transformer.text_projection.weight"
    save_file({name: matrix}, tmp_path / "sd3_medium_incl_clips.safetensors")
    assert torch.equal(load_text_projection(tmp_path / "sd3_medium_incl_clips.safetensors"), matrix)
    save_file({"text_model.x": matrix}, tmp_path / "clip_g.safetensors")
    with pytest.raises(InvalidModelFolder, match=r"clip_g.safetensors: contains no CLIP text projection"):
        load_text_projection(tmp_path / "clip_g.safetensors")


def test_an_archive_with_other_code_than_modules_is_not_opened(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"text_projection": Code()}, tmp_path / "ViT-L-14.pt")
    with pytest.raises(InvalidModelFolder, match="contains code"):
        load_text_projection(tmp_path / "ViT-L-14.pt")


def test_a_folder_without_a_projection_is_said(tmp_path):
    with pytest.raises(InvalidModelFolder, match="this CLIP folder or file does not exist"):
        load_text_projection(tmp_path / "nobody")
    clip(layers=2).save_pretrained(tmp_path / "plain")
    with pytest.raises(InvalidModelFolder, match="contains no CLIP model with a text projection"):
        load_text_projection(tmp_path / "plain")
    (tmp_path / "plain" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidModelFolder, match=r"plain: model.safetensors: is incomplete"):
        load_text_projection(tmp_path / "plain")


TAGS = {
    "<aesthetic:ink>": ("ink", {}),
    "<aesthetic:ink:0.4>": ("ink", {"weight": 0.4}),
    "<aesthetic:a/b.pt:.5:steps=12:lr=1e-3>": ("a/b.pt", {"weight": 0.5, "steps": 12, "lr": 1e-3}),
    "<aesthetic:ink:1:slerp:text=a red sea, calm:negative:angle=-0.2>":
        ("ink", {"weight": 1.0, "slerp": True, "text": "a red sea, calm", "negative": True, "angle": -0.2}),
    '<aesthetic:"a:b >c":weight=2:text="x: ""y"" > z">': ("a:b >c", {"weight": 2.0, "text": 'x: "y" > z'}),
    "<aesthetic:ink:slerp=False:negative=0:lr=.01>": ("ink", {"lr": 0.01}),
    '<aesthetic:in"k:text=5" wide:steps=0>': ('in"k', {"text": '5" wide', "steps": 0}),
    '<aesthetic: "ink" : steps = 1000 :text= "" :100>': ("ink", {"steps": 1000, "text": "", "weight": 100.0}),
    '<aesthetic:x:lr=1:-100:text=">': ("x", {"lr": 1.0, "text": '"', "weight": -100.0}),
}  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_tags_say_it_all(tag):
    name, options = TAGS[tag]
    parsed = parse(f"a {tag}house <lyco:x:1>")
    assert (parsed.text, parsed.problems) == ("a house <lyco:x:1>", ())
    assert [(one.name, one.options, one.text) for one in parsed.tags] == [(name, AestheticOptions(**options), tag)]


def test_what_a_tag_does_not_say_is_as_in_the_web_uis_extension():
    says = (0.9, 5, 1e-4, False, "", False, 0.1)
    one = AestheticOptions()
    assert (one.weight, one.steps, one.lr, one.slerp, one.text, one.negative, one.angle) == says


def test_yes_and_no_in_each_spelling():
    for words, on in ((("1", "true", "YES", "on", ""), True), (("0", "False", "no", "off"), False)):
        for word in words:
            (tag,) = parse(f"<aesthetic:x:slerp={word}>").tags
            assert tag.options.slerp is on


def test_as_many_values_as_other_tags_have():
    tags = [f"<aesthetic:x{':slerp' * count}>" for count in (64, 65)]
    assert len(parse(tags[0]).tags) == 1
    assert parse(tags[1]).problems == (f"{tags[1]}: it has 65 values, so this tag is left out.",)


BAD = {
    "<aesthetic:>": "names no", "<aesthetic: :1>": "names no", "<aesthetic:x:100.5>": "'100.5'",
    "<aesthetic:x:-100.5>": "'-100.5'", "<aesthetic:x:lr=1.5>": "'1.5'", "<aesthetic:x:steps=1001>": "'1001'",
    "<aesthetic:x:much>": "'much' is not a number", "<aesthetic:x:nan>": "'nan'",
    "<aesthetic:x:steps=-1>": "'-1'", "<aesthetic:x:steps=99999>": "whole number from 0 to 1000",
    "<aesthetic:x:lr=0>": "'0' is not a learning rate", "<aesthetic:x:lr=>": "''", "<aesthetic:x:angle=1e9>": "'1e9'",
    "<aesthetic:x:slerp=maybe>": "'maybe' is neither", "<aesthetic:x:steps=1.5>": "'1.5'",
}  # fmt: skip


@pytest.mark.parametrize("tag", BAD)
def test_bad_tokens_name_themselves(tag):
    parsed = parse(f"a {tag}house")
    assert (parsed.text, parsed.tags) == ("a house", ())
    assert parsed.problems[0].startswith(f"{tag}: ")
    assert BAD[tag] in parsed.problems[0]
    assert parsed.problems[0].endswith("so this tag is left out.")


def test_what_is_unknown_is_said_and_ignored():
    parsed = parse("<aesthetic:x:1:2:speed=3><aesthetic:y")
    assert len(parsed.tags) == 1
    assert [any(word in problem for problem in parsed.problems) for word in ("'2'", "'speed'", "never closed")] == [
        True,
        True,
        True,
    ]
    assert json.dumps(parse('<aesthetic:"' * 2000).problems)
