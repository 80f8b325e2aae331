"""Cards of like files are told from the first of them: it must be what reading each would say."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters import open_adapter
from lib_adapters.errors import CorruptFile
from lib_adapters.library.header_cache import DECIDING_KEYS, HeaderCache
from tests.support.sample_adapters import MAKERS, adapter_file
from tests.support.sample_library import adapter


def test_files_of_one_layout_are_described_as_each_alone(tmp_path):
    """The second of two like files is told from the first; it must say what reading it says."""
    layouts, shapes = HeaderCache(), {"mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (8, 12)}
    for name, maker in MAKERS.items():
        for seed in (1, 2):
            path = adapter_file(tmp_path / f"{name}{seed}.safetensors", shapes, maker, seed=seed)
            check(layouts, path)
    for alpha, base in ((1.0, "sd_v1"), (4.0, "sd_v1"), (4.0, "sdxl_base_v1-0"), (4.0, "")):
        pair = {"lora_up.weight": torch.ones(4, 2), "lora_down.weight": torch.ones(2, 4), "alpha": torch.tensor(alpha)}
        path = tmp_path / f"{alpha}{base}.safetensors"
        save_file({f"lora_te_x.{leaf}": value for leaf, value in pair.items()}, path, {"ss_base_model_version": base})
        check(layouts, path)


def check(layouts, path):
    alone, told = open_adapter(path), layouts.summarize(path)
    assert told.metadata == alone.metadata
    assert (told.family, told.rank, told.alpha, told.parts) == (alone.family, alone.rank, alone.alpha, alone.components)
    assert list(told.algorithms) == list(alone.algorithms)


def test_the_second_of_a_layout_is_not_parsed_but_checked(tmp_path, monkeypatch):
    layouts = HeaderCache()
    first, second, short = (adapter(tmp_path / f"{n}.safetensors", ss_output_name=n * 9) for n in "abc")
    layouts.summarize(first)
    short.write_bytes(short.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match="incomplete"):
        layouts.summarize(short)
    monkeypatch.setattr("lib_adapters.library.header_cache.open_adapter", None)
    assert layouts.summarize(second).metadata == {"ss_output_name": "b" * 9}


def test_layouts_are_told_apart_by_all_metadata_that_decides(tmp_path, monkeypatch):
    """What the engine asks of the metadata for family, algorithms, rank and parts."""
    asked = set()

    class Asked(dict):
        def get(self, key, default=None):
            asked.add(key)
            return super().get(key, default)

        def __getitem__(self, key):
            asked.add(key)
            return super().__getitem__(key)

        def __contains__(self, key):
            asked.add(key)
            return super().__contains__(key)

    monkeypatch.setattr("lib_adapters.files.safetensors_header._metadata", lambda raw: Asked(raw or {}))
    monkeypatch.setattr(
        "lib_adapters.files.adapter.read_training_info", lambda *given: None
    )  # decides what a layer computes
    for key in ("lora_te_x.lora_{}.weight", "text_encoder:0:{}", "unet:0:{}"):
        save_file({key.format("up"): torch.ones(4, 2), key.format("down"): torch.ones(2, 4)}, tmp_path / "x")
        with suppress(CorruptFile):  # one layer by its position in a UNet is not enough
            open_adapter(tmp_path / "x")
    assert asked - {"lora_adapter_metadata"} == set(DECIDING_KEYS)
