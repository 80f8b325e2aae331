"""The double of the web UI with tiny checkpoints, and a second one, new each time, that tells what is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tests.fake_webui.sd_models
import tests.fake_webui.webui
from lib_adapters.hosts.webui import name_resolver
from lib_adapters.library.library import AdapterLibrary
from tests.fake_webui import builtin_hypernetwork, builtin_lora, extra_networks
from tests.fake_webui.checkpoint import Checkpoint
from tests.fake_webui.webui import WebUI
from tests.integration.webui.test_aesthetic_script import put_embedding
from tests.integration.webui.test_hypernetwork_handler import put_net
from tests.support import tiny_models
from tests.support.state_machines.versioned_adapters import LETTERS, Shelf
from tests.support.tiny_model_pair import FEWER, Pair

FOLDERS = ("LyCORIS", "hypernetworks", "aesthetic_embeddings", "CLIP")
SHARED = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"  # a layer of our files and of the built-in's


def checkpoint() -> Checkpoint:
    return Checkpoint(tiny_models.ldm_unet(**FEWER), tiny_models.clip(layers=2))


def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every double that is made from now on; and a name that is not there is looked for each time."""
    for module in (tests.fake_webui.webui, tests.fake_webui.sd_models):
        monkeypatch.setattr(module, "checkpoint", checkpoint)
    monkeypatch.setattr(name_resolver, "RESCAN_INTERVAL", -1.0)
    monkeypatch.setattr(AdapterLibrary, "start", lambda _: None)  # cards are not looked at here


def host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    made = WebUI(folder, monkeypatch)
    layer = made.model.unet.get_submodule(SHARED)
    delta = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(5)) * 0.3
    builtin_lora.deltas["theirs"] = {layer.network_layer_name: delta}
    return made


def furnish(webui: WebUI) -> Shelf:
    """A file of every kind, a hypernetwork, an aesthetic embedding and what that needs."""
    shelf = Shelf(webui.folder / "LyCORIS", webui.folder / "kept", Pair())
    for letter in LETTERS:
        shelf.put(letter, 0)
    put_net(webui)
    (webui.folder / "CLIP").mkdir()
    projection = torch.randn(16, 24, generator=torch.Generator().manual_seed(4))
    save_file({"text_projection.weight": projection}, webui.folder / "CLIP" / "model.safetensors")
    put_embedding(webui, "glow")
    return shelf


@contextmanager
def aside(folder: Path, like: WebUI) -> Iterator[WebUI]:
    """A web UI that was just started, with the same files, settings and models; the other one sleeps meanwhile."""
    tables = (extra_networks.extra_network_registry, extra_networks.extra_network_aliases, builtin_lora.deltas)
    kept, lists = [dict(one) for one in tables], (builtin_lora.loaded_networks, extra_networks.displayed)
    listed, shared, patch = [list(one) for one in lists], builtin_hypernetwork.shared, pytest.MonkeyPatch()
    folder.mkdir()
    for name in FOLDERS:
        (folder / name).symlink_to(like.folder / name)
    try:
        fresh = host(folder, patch)
        _settings(fresh, like)
        yield fresh
    finally:
        fresh.call("script_unloaded", backwards=True)
        patch.undo()
        for table, before in zip((*tables, *lists), (*kept, *listed), strict=True):
            table.clear()
            table.update(before) if isinstance(table, dict) else table.extend(before)
        builtin_hypernetwork.shared = shared


def _settings(fresh: WebUI, like: WebUI) -> None:
    fresh.shared.opts.data |= like.shared.opts.data
    fresh.loader.chosen, fresh.loader.limit = like.loader.chosen, like.loader.limit
    now, *others = [one.sd_checkpoint_info for one in like.sd_models.model_data.loaded_sd_models]
    fresh.model.load_in_place(now.state(), now)
    fresh.sd_models.model_data.loaded_sd_models += [info.made() for info in others]
