"""Files of 2022 without names: the place in a list becomes a layer, and its shape must fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import open_adapter
from lib_adapters.files.cloneofsimo import name_positional_keys
from tests.support.file_skeletons import trainer_keys as by
from tests.support.file_skeletons.base_model_layers import text, unet
from tests.support.file_skeletons.trainer_keys import write

REAL = Path(os.environ.get("REAL_ADAPTERS", "nowhere")) / "analog_svd_rank4.safetensors"


def in_order() -> dict[str, tuple[int, ...]]:
    """SD1's layers as `named_modules()` of 2022 lists them: down, up, then the middle; attn1, ff, attn2."""
    layers = unet("sd1")
    blocks = [f"down_blocks.{n}" for n in range(3)] + [f"up_blocks.{n}" for n in range(1, 4)] + ["mid_block"]
    found = {}
    for block in blocks:
        inside = [path for path in layers if path.startswith(f"{block}.attentions")]
        for attention in dict.fromkeys(path.split(".transformer_blocks")[0] for path in inside):
            for part in ("attn1", "ff.net.0.proj", "attn2"):
                prefix = f"{attention}.transformer_blocks.0.{part}"
                found |= {path: layers[path] for path in inside if path.startswith(prefix)}
    return found


ATTENTION = {path: shape for path, shape in text("clip-l").items() if "self_attn" in path}


def shapes_by_name(adapter) -> dict[str, tuple[int, int]]:
    return {m.key.name: (m.shapes["lora_up.weight"][0], m.shapes["lora_down.weight"][1]) for m in adapter.layers}


def test_places_become_names_whose_shapes_fit(tmp_path):
    layers = in_order()
    adapter = open_adapter(write(tmp_path / "x.safetensors", by.positional(layers, ATTENTION)))
    assert (len(layers), adapter.family, adapter.components) == (144, "sd1", ("unet", "te"))
    expected = {path.replace(".", "_"): shape for path, shape in (layers | ATTENTION).items()}
    assert shapes_by_name(adapter) == expected
    assert name_positional_keys(adapter.tensor_file) is adapter.tensor_file


def test_the_bare_list_of_the_oldest_files(tmp_path):
    layers = in_order()
    for listed, part in ((layers, "unet"), (ATTENTION, "te")):
        tensors = [t for o, i in listed.values() for t in (torch.zeros(o, 4).half(), torch.zeros(4, i).half())]
        torch.save(tensors, tmp_path / "x.pt")
        adapter = open_adapter(tmp_path / "x.pt")
        assert (adapter.components, adapter.rank) == ((part,), 4)
        assert shapes_by_name(adapter) == {path.replace(".", "_"): shape for path, shape in listed.items()}


def test_a_list_points_to_its_companion(tmp_path):
    tensors = [t for o, i in in_order().values() for t in (torch.zeros(o, 1), torch.zeros(1, i))]
    torch.save(tensors, tmp_path / "x.pt")
    assert open_adapter(tmp_path / "x.pt").notes == ()
    torch.save([], tmp_path / "x.text_encoder.pt")
    assert "x.text_encoder.pt" in open_adapter(tmp_path / "x.pt").notes[0]


def test_a_list_that_fits_no_model_is_refused(tmp_path):
    torch.save([torch.ones(4, 2), torch.ones(2, 4)] * 5, tmp_path / "x.pt")
    with pytest.raises(AdapterError, match="5 layers only by position"):
        open_adapter(tmp_path / "x.pt")


@pytest.mark.skipif(not REAL.exists(), reason="the real file of 2023 is not here (REAL_ADAPTERS names its folder)")
def test_a_real_file_of_2023_fits_stable_diffusion_1():
    adapter = open_adapter(REAL)
    expected = {path.replace(".", "_"): shape for path, shape in (in_order() | ATTENTION).items()}
    assert shapes_by_name(adapter) == expected
    assert len(adapter.load().algorithms) == len(expected)
