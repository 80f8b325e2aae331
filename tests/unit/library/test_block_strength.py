"""The strength by block: of files as they are, and of small files that would ask for much."""

from __future__ import annotations

import pytest

from tests.support.file_skeletons.trainer_keys import write
from tests.support.input_bounds import patience, within
from tests.support.sample_adapters import adapter_file, oft
from tests.support.sample_library import opened, scan


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def catalogue(root, tmp_path):
    with opened(root, place=tmp_path / "place") as made:
        yield made


def test_the_block_chart(root, catalogue):
    shapes = {"down_blocks_0_attentions_0_proj_in": (8, 8), "mid_block_attentions_0_proj_in": (8, 8)}
    adapter_file(root / "x.safetensors", shapes)
    adapter_file(root / "turn.safetensors", shapes, oft)
    found = scan(catalogue)
    rows = {row["block"]: row for row in catalogue.strengths(found["x"]["id"])}
    assert (rows["IN01"]["layers"], rows["M00"]["layers"], rows["OUT00"]["layers"]) == (1, 1, 0)
    assert rows["IN01"]["strength"] > 0
    turned = {row["block"]: row["strength"] for row in catalogue.strengths(found["turn"]["id"])}
    assert turned["M00"] is None


@pytest.mark.parametrize(
    "leaves",
    [
        {"delora_A": (2, 8), "delora_B": (6, 2), "delora_lambda": (1,), "delora_w_norm": (8,)},
        {"c3a_kernel": (3, 4, 2)},
        {"gralora_A": (2, 4, 4), "gralora_B": (2, 4, 3)},
    ],
    ids=["DeLoRA", "C3A", "GraLoRA"],
)
def test_the_factors_of_pefts_tuners_show_how_strong_they_are(root, catalogue, leaves):
    path = "base_model.model.mid_block.attentions.0.proj_in"
    write(root / "x.safetensors", {f"{path}.{leaf}": shape for leaf, shape in leaves.items()})
    rows = {row["block"]: row["strength"] for row in catalogue.strengths(scan(catalogue)["x"]["id"])}
    assert rows["M00"] is not None


WIDE = 1 << 15


@pytest.mark.parametrize(
    "leaves",
    [
        {"lora_up.weight": (1 << 20, 1), "lora_down.weight": (1, 1 << 20)},
        {"lora_up.weight": (1, WIDE), "lora_down.weight": (WIDE, 1)},
        {"hada_w1_a": (WIDE, 1), "hada_w1_b": (1, WIDE), "hada_w2_a": (WIDE, 1), "hada_w2_b": (1, WIDE)},
        {"lokr_w1_a": (WIDE, 1), "lokr_w1_b": (1, WIDE), "lokr_w2": (1, WIDE)},
    ],
    ids=["wide", "rank", "product", "kronecker"],
)
def test_a_small_file_makes_no_large_chart(root, catalogue, leaves):
    """Thin factors stand for weights of any size: 260 kB for minutes and gigabytes."""
    write(root / "x.safetensors", {f"lora_unet_x.{leaf}": shape for leaf, shape in leaves.items()}, dtype="F8_E4M3")
    number = scan(catalogue)["x"]["id"]
    with patience(), within(300 << 20):
        (row,) = [row for row in catalogue.strengths(number) if row["layers"]]
    assert row["strength"] == (0.0 if leaves.get("lora_up.weight") == (1, WIDE) else None)
