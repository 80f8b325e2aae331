"""No file stays open or mapped once it was read: on Windows its owner could neither replace nor delete it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lib_adapters import Request, Session, open_adapter
from lib_adapters.app import main as app
from lib_adapters.app.arguments import ADAPTERS, AESTHETICS
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.errors import AdapterError, AestheticFile, HypernetworkFile
from lib_adapters.files.torch_pickle.reader import read_pickle
from lib_adapters.hosts.diffusers import weight_diff
from lib_adapters.library.preset_file import PresetFile
from tests.support.sample_adapters import MAKERS, adapter_for
from tests.support.sample_library import opened, picture, scan
from tests.support.tiny_models import ldm_unet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process holds")
REAL = sorted(
    path for folder in (ADAPTERS, AESTHETICS) for path in folder.iterdir() if path.suffix in (".pt", ".safetensors")
)


def held(folder: Path) -> list[str]:
    """Files below a folder that this process has open or mapped."""
    links = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(number.readlink()))
    mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    return [name for name in links + mapped if name.startswith(f"{folder}/")]


def read(path: Path) -> object:
    try:
        return open_adapter(path)
    except HypernetworkFile:
        return open_hypernetwork(path)
    except AestheticFile:
        return open_aesthetic(path)


def test_what_is_held_is_seen(tmp_path):
    adapter_for(ldm_unet(), tmp_path / "x.safetensors", only=("time_embed",))
    with (tmp_path / "x.safetensors").open("rb"):
        assert held(tmp_path) == [str(tmp_path / "x.safetensors")]
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        tensor = file.get_tensor(next(iter(file.keys())))
        assert set(held(tmp_path)) == {str(tmp_path / "x.safetensors")}
        assert tensor.numel()
    del tensor, file
    assert held(tmp_path) == []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_reading_leaves_nothing_open(tmp_path, path, tried):
    tried("files left open", "readings").add()
    copy = Path(shutil.copy(path, tmp_path))
    kept = read(copy)
    tree = read_pickle(copy) if copy.suffix == ".pt" else None
    assert (held(tmp_path), kept is None, tree is None) == ([], False, copy.suffix != ".pt")


@pytest.mark.parametrize("maker", MAKERS)
def test_an_active_adapters_file_can_be_taken_away(tmp_path, maker, tried):
    tried("files left open", "readings").add()
    unet = ldm_unet()
    adapter = adapter_for(unet, tmp_path / "x.safetensors", MAKERS[maker], only=("middle_block", "time_embed"))
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    assert held(tmp_path) == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["gold_lora.safetensors", "dusk_hypernet.pt"])
def test_a_broken_file_is_not_held_by_its_error(tmp_path, name, share, tried):
    tried("files left open", "broken files").add()
    content = (ADAPTERS / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AdapterError) as error:
        read(tmp_path / name)
    assert error.value.__traceback__ is not None
    assert held(tmp_path) == []


def test_the_catalogue_holds_nothing_but_its_index(tmp_path, tried):
    folder = tmp_path / "shelf"
    shutil.copytree(ADAPTERS, folder)
    readings = tried("files left open", "readings")
    with opened(folder, place=tmp_path / "index") as catalogue:
        for card in scan(catalogue).values():
            catalogue.details(card["id"]), catalogue.hash_of(card["id"]), catalogue.preview(card["id"])
            catalogue.thumbnail(card["id"])
            catalogue.save(card["id"], {"notes": "seen"})
            readings.add()
            assert held(folder) == [], card["name"]
        catalogue.strengths(card["id"])
        catalogue.set_preview(card["id"], picture())
        presets = PresetFile(folder / "presets.txt")
        presets.save(presets.presets())
        assert held(folder) == []


def test_the_commands_hold_nothing(tmp_path, capsys):
    shutil.copy(ADAPTERS / "gold_lora.safetensors", tmp_path)
    given = str(tmp_path / "gold_lora.safetensors")
    for line in (
        ["inspect", given],
        ["list", str(tmp_path)],
        ["verify", given],
        ["convert", given, str(tmp_path / "y.safetensors")],
    ):
        assert app.main(line) == 0
        assert held(tmp_path) == []


def test_a_model_folder_is_written_over_no_file_that_is_mapped(sd1_folder, tmp_path, monkeypatch):
    """safetensors gives tensors that are the file itself, and Windows refuses to write such a file."""
    mapped, real = [], weight_diff.save_file

    def save_file(tensors, file, metadata):
        mapped.extend(held(tmp_path))
        real(tensors, file, metadata)

    monkeypatch.setattr(weight_diff, "save_file", save_file)
    value = torch.ones(32, 4, 3, 3)
    weight_diff.save_merged_model(
        sd1_folder, tmp_path / "out", [weight_diff.ParameterDiff("unet", "conv_in.weight", None, value)]
    )
    assert mapped == held(tmp_path) == []
    with safe_open(next((tmp_path / "out" / "unet").glob("*.safetensors")), "pt") as file:
        assert torch.equal(file.get_tensor("conv_in.weight").float(), value)
