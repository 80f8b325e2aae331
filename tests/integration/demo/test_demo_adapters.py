"""The embedded adapters as files: what the index says of each is what was trained and what lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.demo import ADAPTERS, index
from lib_adapters.demo.recipes import HYPERNETWORKS, RECIPES, Recipe, recipe
from lib_adapters.demo.trainer_modules import metadata

LEAVES = {
    "LoRA": {"lora_up.weight", "lora_down.weight", "alpha"},
    "LoCon": {"lora_up.weight", "lora_down.weight", "alpha"},
    "LoCon, tucker": {"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha"},
    "LoHa": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "LoHa, tucker": {"hada_t1", "hada_w1_a", "hada_w1_b", "hada_t2", "hada_w2_a", "hada_w2_b", "alpha"},
    "LoKr, both factors whole": {"lokr_w1", "lokr_w2", "alpha"},
    "IA3": {"weight", "on_input"},
    "Diag-OFT": {"oft_blocks", "alpha"},
    "BOFT": {"oft_blocks", "alpha"},
    "GLoRA": {"a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"},
    "DoRA": {"lora_up.weight", "lora_down.weight", "dora_scale", "alpha"},
    "full": {"diff", "diff_b"},
    "norm": {"w_norm", "b_norm"},
    "DyLoRA": {"lora_up.weight", "lora_down.weight", "alpha"},
    "T-LoRA": {"q_layer.weight", "p_layer.weight", "lambda_layer", "alpha"},
    "LoRA, rank-stabilised": {"lora_up.weight", "lora_down.weight", "alpha"},
}
EVERY = (*RECIPES, *HYPERNETWORKS)
DIALECTS = {"kohya": ("lora_unet_", "lora_te_"), "lycoris": ("lycoris_",), "diffusers": ("unet.",)}


def file_of(known: Recipe) -> Path:
    return ADAPTERS / f"{known.name}.safetensors"


def test_the_index_names_each_file_and_no_other() -> None:
    adapters, others = ({file.stem for file in ADAPTERS.glob(ending)} for ending in ("*.safetensors", "*.pt"))
    assert adapters == {known.name for known in RECIPES}
    assert others == {known.name for known in HYPERNETWORKS}
    assert adapters | others == set(index())


def test_each_kind_is_there_once() -> None:
    kinds = [known.kind for known in RECIPES]
    assert len(set(kinds)) == len(kinds) >= 16
    assert sum(known.text for known in RECIPES) >= 1


@pytest.mark.parametrize("known", EVERY, ids=lambda known: known.name)
def test_the_index_is_what_the_recipe_says(known: Recipe) -> None:
    entry = index()[known.name]
    assert entry["kind"] == known.kind
    assert entry["prompt"] == known.shown.caption
    assert entry["measure"] == known.measure.__name__
    assert entry["at_least"] == known.least


@pytest.mark.parametrize("known", EVERY, ids=lambda known: known.name)
def test_the_effect_was_there_when_it_was_trained(known: Recipe) -> None:
    entry = index()[known.name]
    assert (float(entry["with"]) - float(entry["without"])) / known.least >= 1


@pytest.mark.parametrize("known", RECIPES, ids=lambda known: known.name)
def test_a_file_holds_small_finite_halves_under_its_trainers_names(known: Recipe) -> None:
    with safe_open(str(file_of(known)), "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it is no mapping
        found = opened.metadata()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert all(key.startswith(DIALECTS[known.dialect]) for key in tensors)
    assert found == metadata(known)
    if known.kind in LEAVES:
        assert {key.split(".", 1)[1] for key in tensors} == LEAVES[known.kind]


@pytest.mark.parametrize("known", RECIPES, ids=lambda known: known.name)
def test_a_file_is_small(known: Recipe) -> None:
    assert file_of(known).stat().st_size < 300 * 1024


@pytest.mark.parametrize("known", HYPERNETWORKS, ids=lambda known: known.name)
def test_a_hypernetwork_is_as_the_web_ui_writes_it(known: Recipe) -> None:
    file = ADAPTERS / f"{known.name}.pt"
    found = open_hypernetwork(file)
    assert found.structure == "1-2-1"
    assert found.fields["name"] == known.name
    assert found.fields["activate_output"] is False
    assert file.stat().st_size < 300 * 1024


def test_the_text_encoder_has_its_part_where_the_recipe_says() -> None:
    with safe_open(str(file_of(recipe("gold_lora"))), "pt") as opened:
        assert any(key.startswith("lora_te_") for key in opened.keys())  # noqa: SIM118


def test_the_metadata_tell_the_trainers_arguments() -> None:
    arguments = json.loads(metadata(recipe("star_dora"))["ss_network_args"])
    assert arguments["algo"] == "lora"
    assert arguments["dora_wd"] == "True"
    assert json.loads(metadata(recipe("rainbow_rslora"))["ss_network_args"])["rs_lora"] == "True"
