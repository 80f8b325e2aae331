"""Links, pipes, sockets and folders under adapters' names: links keep their names, the others are never opened."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters import open_adapter
from lib_adapters.app import main as app
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.library import hashes, sidecar_json
from lib_adapters.library.companions import Companions, companion_path
from tests.support.sample_library import opened, scan

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
LAYER = "lora_unet_mid_block_attentions_0_proj_in"


def adapter(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{LAYER}.lora_down.weight": torch.ones(2, 8), f"{LAYER}.lora_up.weight": torch.ones(8, 2)}, path)
    return path


@pytest.fixture
def odd(tmp_path, monkeypatch) -> Path:
    """A folder with a pipe, a socket and a folder under the names of adapters, and pipes beside one."""
    folder = tmp_path / "odd"
    adapter(folder / "ink.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    for suffix in (".json", ".txt", ".png", ".civitai.info"):
        os.mkfifo(folder / f"ink{suffix}")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the name of a socket is short
        server.bind("socket.safetensors")
    return folder


def listed(folder: Path, capsys) -> dict[str, dict]:
    assert app.main(["list", str(folder), "--json"]) == 0
    return {Path(entry["path"]).name: entry for entry in json.loads(capsys.readouterr().out)}


def test_what_is_no_file_is_listed_with_the_reason(odd, capsys):
    found = listed(odd, capsys)
    assert found.keys() == {"ink.safetensors", "pipe.safetensors", "socket.safetensors"}
    assert found["ink.safetensors"]["algorithms"] == {"LoRA": 1}
    assert "a pipe, a socket or a device" in found["pipe.safetensors"]["error"]
    assert "a pipe, a socket or a device" in found["socket.safetensors"]["error"]


def test_the_catalogue_never_opens_what_is_no_file(odd, tmp_path):
    with opened(odd, place=tmp_path / "place") as catalogue:
        found = scan(catalogue)
        assert found.keys() == {"ink", "pipe", "socket"}
        assert "error" not in found["ink"]
        assert "preview" not in found["ink"]
        assert "a pipe, a socket or a device" in found["pipe"]["error"]
        for card in found.values():
            catalogue.details(card["id"])
            assert catalogue.thumbnail(card["id"]) is None
            assert catalogue.preview(card["id"]) is None
        with pytest.raises(AdapterError, match="a pipe, a socket or a device"):
            catalogue.hash_of(found["pipe"]["id"])


@pytest.mark.parametrize("read", [open_adapter, open_hypernetwork, open_aesthetic, hashes.file_hashes])
def test_no_reader_waits_for_a_pipe(read, tmp_path):
    for name in ("x.safetensors", "x.pt"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(AdapterError, match=f"{name} cannot be read: it is a pipe"):
            read(tmp_path / name)


def test_a_pipe_in_the_place_of_a_text_is_no_text(odd):
    path = odd / "ink.safetensors"
    assert Companions.from_path(path).stamp == ""
    assert Companions(path, ".txt:0:0").read_text(".txt") == ""
    with pytest.raises(AdapterError, match="it is a pipe"):
        sidecar_json.save_sidecar(path, {"notes": "x"})
    assert companion_path(path, ".json").is_fifo()


def test_links_are_known_by_their_own_names(tmp_path, capsys):
    """As in the Hugging Face cache, where names are links to files that are named by their hashes."""
    adapter(tmp_path / "blobs" / "3f2a")
    folder = tmp_path / "snapshots"
    for name in ("ink.safetensors", "style/brush.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(tmp_path / "blobs" / "3f2a")
    adapter(tmp_path / "far" / "away.sft")
    (folder / "linked").symlink_to(tmp_path / "far")
    (folder / "lost.safetensors").symlink_to(tmp_path / "nowhere")
    found = listed(folder, capsys)
    assert found.keys() == {"ink.safetensors", "brush.safetensors", "away.sft", "lost.safetensors"}
    assert found["ink.safetensors"]["name"] == "ink"
    assert "a link to a file that does not exist" in found["lost.safetensors"]["error"]
    assert app.main(["list", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("ink.safetensors")
    shelf = FolderResolver([folder])
    for name in ("ink", "style/brush", "away", "linked/away"):
        assert shelf.adapter(name).adapter.name == name.rpartition("/")[2]


def test_two_links_to_one_file_are_not_two_files(tmp_path):
    adapter(tmp_path / "a" / "ink.safetensors")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ink.safetensors").symlink_to(tmp_path / "a" / "ink.safetensors")
    shelf = FolderResolver([tmp_path])
    assert shelf.adapter("ink").adapter.path == tmp_path / "a" / "ink.safetensors"
    assert [shelf.shortest_name(path) for path in shelf.files] == ["ink", "ink"]


def test_a_link_is_not_its_target_where_another_config_lies_beside_it(tmp_path):
    file = adapter(tmp_path / "blobs" / "x")
    link = tmp_path / "adapter_model.safetensors"
    link.symlink_to(file)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8}))
    assert (open_adapter(link).alpha, open_adapter(file).alpha) == (8.0, None)
    assert open_adapter(link).cache_key != open_adapter(file).cache_key


def test_sft_is_a_name_of_safetensors(tmp_path, capsys):
    adapter(tmp_path / "files" / "ink.sft")
    assert listed(tmp_path / "files", capsys).keys() == {"ink.sft"}
    assert FolderResolver([tmp_path / "files"]).adapter("ink").adapter.name == "ink"
    with opened(tmp_path / "files", place=tmp_path / "place") as catalogue:
        (card,) = scan(catalogue).values()
        assert card["algorithms"] == ["LoRA"]
        assert "addnet" in catalogue.hash_of(card["id"])
