"""`<hypernet:NAME:strength>` where prompts are read, and hypernetwork files on the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_adapters.app.main import main
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.conditioning.hypernetwork_patcher import attention_projections
from lib_adapters.errors import HypernetworkFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.hosts.diffusers.load_pipeline import open_pipeline
from tests.unit.conditioning.test_hypernetworks import module, save

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
QUICK = Settings(steps=2, seed=3, size=(64, 64))


@pytest.fixture(scope="module")
def folder(sd1_folder, tmp_path_factory):
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("hypernetworks")
    unet = open_pipeline(sd1_folder, torch.device("cpu")).unet
    for name in ("one", "two"):
        widths = {one.width for one in attention_projections(unet)}
        save(folder / f"{name}.pt", {w: tuple(module(w, [1, 2, 1], "relu") for _ in "kv") for w in widths},
             activation_func="relu")  # fmt: skip
    return folder


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image, dtype=np.int16)


def test_a_tag_changes_the_picture_and_leaves_no_trace(sd1_folder, folder):
    with Generator.open(sd1_folder, torch.device("cpu"), FolderResolver([folder])) as studio:
        plain = studio.generate("a cat", QUICK)
        tagged = studio.generate("a cat <hypernet:one:0.5>", QUICK)
        assert np.abs(pixels(plain) - pixels(tagged)).max() > 8
        assert tagged.problems == ()
        (report,) = tagged.report.adapters
        assert (
            report.summary() == f"one: {report.total} of {report.total} attentions (Hypernetwork 1-2-1), strength 0.5"
        )
        there, back = (studio.generate(f"a cat {tags}", QUICK) for tags in ("<hypernet:one><hypernet:two>",) * 2)
        other = studio.generate("a cat <hypernet:two><hypernet:one>", QUICK)
        assert (pixels(there) == pixels(back)).all()
        assert (pixels(there) != pixels(other)).any()  # they are chained in the order of the prompt
        again = studio.generate("a cat", QUICK)
        assert (pixels(again) == pixels(plain)).all()
        assert not any(layer._forward_pre_hooks for layer in studio.pipe.unet.modules())


def test_what_is_not_there_or_something_else_is_said(sd1_folder, folder):
    with Generator.open(sd1_folder, torch.device("cpu"), FolderResolver([folder])) as studio:
        active = studio.activate_prompt("<hypernet:nobody><lyco:one><hypernet:TWO:2>")
    report, problems = active.report, active.problems
    assert "no hypernetwork is called 'nobody'" in problems[1]
    assert "one.pt is a hypernetwork" in problems[0]
    assert "write <hypernet:NAME:1>" in problems[0]
    assert "'TWO' was taken for 'two'" in problems[2]
    assert [one.name for one in report.adapters] == ["two"]


def test_convert_there_and_back(folder, tmp_path, capsys):
    there, back = tmp_path / "x.safetensors", tmp_path / "y.pt"
    assert main(["convert", str(folder / "one.pt"), str(there)]) == 0
    assert main(["convert", str(there), str(back)]) == 0
    first, last = (open_hypernetwork(path) for path in (folder / "one.pt", back))
    for width, pair in first.state_dicts.items():
        for mine, theirs in zip(pair, last.state_dicts[width], strict=True):
            assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items())
    with pytest.raises(HypernetworkFile, match="is a hypernetwork"):
        open_adapter(there)
    assert main(["convert", str(there), str(tmp_path / "z.pt"), "--dtype", "fp16"]) == 2
    assert main(["convert", str(there), str(tmp_path / "z.zip")]) == 2
    assert "ends in .safetensors or .pt" in capsys.readouterr().err


def test_list_and_inspect_know_them(folder, capsys):
    assert main(["list", str(folder)]) == 0
    assert "one.pt  unknown  Hypernetwork 1-2-1" in capsys.readouterr().out
    assert main(["inspect", str(folder / "one.pt")]) == 0
    assert "write      <hypernet:one:1>" in capsys.readouterr().out
    assert main(["inspect", str(folder / "one.pt"), "--json"]) == 0
    assert '"activation_func": "relu"' in capsys.readouterr().out
