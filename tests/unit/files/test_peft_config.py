"""PEFT's config in a file's folder: whose it is, that the user is told of it, and what cannot be followed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib_adapters import Request, Session, open_adapter
from lib_adapters.errors import ShapeMismatch

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 16}
LAYER = "mid_block.attentions.0.proj_in"


def pair(name: str, down: str = "lora_A", up: str = "lora_B") -> dict[str, torch.Tensor]:
    return {f"{name}.{down}.weight": torch.ones(2, 8), f"{name}.{up}.weight": torch.ones(8, 2)}


def scale_of(path) -> float:
    (algorithm,) = open_adapter(path).load().algorithms.values()
    return float(algorithm.delta(torch.zeros(8, 8))[0, 0]) / 2


@pytest.mark.parametrize(
    ("file", "tensors", "scale"),
    [
        ("adapter_model.safetensors", pair(f"base_model.model.{LAYER}"), 8.0),
        ("adapter_model.safetensors", pair(f"unet.{LAYER}"), 8.0),
        ("other.safetensors", pair(f"base_model.model.{LAYER}"), 8.0),
        ("other.safetensors", pair(f"unet.{LAYER}"), 1.0),
        ("other.safetensors", pair(f"lora_unet_{LAYER.replace('.', '_')}", "lora_down", "lora_up"), 1.0),
    ],
)
def test_a_config_belongs_to_pefts_own_files_and_its_use_is_reported(file, tensors, scale, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, tmp_path / file)
    assert scale_of(tmp_path / file) == scale
    notes = [note for note in open_adapter(tmp_path / file).notes if "adapter_config.json" in note]
    assert len(notes) == (scale != 1)


def test_layers_whose_alpha_cannot_be_known_are_left_out_with_the_reason(tmp_path):
    table = {**CONFIG, "alpha_pattern": {"proj_in": 4, r"(?<=x)y": 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(table))
    other = LAYER.replace("proj_in", "proj_out")
    save_file(pair(LAYER) | pair(other), tmp_path / "adapter_model.safetensors")
    adapter = open_adapter(tmp_path / "adapter_model.safetensors")
    assert [module.name for module in adapter.layers] == [LAYER]
    ((name, reason),) = adapter.skipped
    assert name == other
    assert "(?<=x)y" in reason


@pytest.mark.parametrize("mode", ["merged", "live"])
def test_a_whole_bias_beside_factors_is_the_layers_at_full_strength_and_goes_back(mode, tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv_in": nn.Linear(8, 8)}).requires_grad_(False)
    weight, bias = (getattr(model.conv_in, name).clone() for name in ("weight", "bias"))
    whole, x = torch.randn(8), torch.randn(3, 8)
    tensors = pair("base_model.model.conv_in") | {"base_model.model.conv_in.base_layer.bias": whole}
    save_file(tensors | {"base_model.model.conv_in.lora_B.bias": torch.ones(8)}, tmp_path / "x.safetensors")
    for strength in (1.0, 0.5):
        with Session(unet=model, mode=mode) as session:
            (report,) = session.activate([Request(open_adapter(tmp_path / "x.safetensors"), unet=strength)]).adapters
            assert (report.error, report.unmatched, report.matched) == (None, [], 1)
            output = model.conv_in(x)
        expected = x @ (weight + strength * 2).T + bias + strength * (whole - bias + 1)
        torch.testing.assert_close(output, expected)
        assert torch.equal(model.conv_in.weight, weight)
        assert torch.equal(model.conv_in.bias, bias)


def test_a_bias_of_a_wrapped_layer_belongs_to_it_and_one_of_another_size_is_refused(tmp_path):
    name = f"base_model.model.{LAYER}"
    for key, size in ((f"{name}.base_layer.bias", 8), (f"{name}.bias", 8), (f"{name}.bias", 7)):
        save_file(pair(name) | {key: torch.full((size,), 3.0)}, tmp_path / "x.safetensors")
        (algorithm,) = open_adapter(tmp_path / "x.safetensors").load().algorithms.values()
        if size == 8:
            algorithm.check_shape((8, 8))
            assert torch.equal(algorithm.bias_delta(torch.ones(8)), torch.full((8,), 2.0))
        else:
            with pytest.raises(ShapeMismatch, match="a bias of"):
                algorithm.check_shape((8, 8))


TRAINED = {"conv_norm_out.modules_to_save.default", "time_embedding.modules_to_save.default.linear_1"}
BASE = {"conv_out", "conv_norm_out.original_module", "time_embedding.original_module.linear_1"}


def dump(prefix: str) -> dict[str, torch.Tensor]:
    """What a whole PeftModel has in its state_dict(): the base model, what was trained, and the layers before it."""
    plain = {f"{prefix}{LAYER}.base_layer.weight": torch.ones(8, 8), f"{prefix}{LAYER}.base_layer.bias": torch.ones(8)}
    for number, name in enumerate(sorted(TRAINED | BASE)):
        plain |= {f"{prefix}{name}.{leaf}": torch.full((8,), float(number)) for leaf in ("weight", "bias")}
    return plain | pair(f"{prefix}{LAYER}", "lora_A.default", "lora_B.default")


@pytest.mark.parametrize("prefix", ["base_model.model.", "unet.", ""])
def test_of_a_whole_model_with_its_adapter_only_what_was_trained_is_used(prefix, tmp_path):
    tensors = dump(prefix)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    adapter = open_adapter(tmp_path / "adapter_model.safetensors")
    used = {key for module in adapter.layers for key in module.tensor_keys.values()}
    assert used == {key for key in tensors if "modules_to_save" in key or "lora_" in key}
    assert {module.key.name for module in adapter.layers} == {
        "conv_norm_out", "mid_block_attentions_0_proj_in", "time_embedding_linear_1"
    }  # fmt: skip
    parts = ("conv_out.weight", "conv_out.bias", f"{LAYER}.base_layer.weight", f"{LAYER}.base_layer.bias")
    assert {key for key, _ in adapter.skipped} == {f"{prefix}{part}" for part in parts}


def test_the_biases_of_a_whole_model_are_used_where_its_config_says_that_they_were_trained(tmp_path):
    save_file(dump("base_model.model."), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({**CONFIG, "bias": "all"}))
    adapter = open_adapter(tmp_path / "adapter_model.safetensors")
    assert {module.key.name: sorted(module.tensor_keys) for module in adapter.layers} == {
        "conv_out": ["set_bias"],
        "conv_norm_out": ["set_bias", "set_weight"],
        "time_embedding_linear_1": ["set_bias", "set_weight"],
        "mid_block_attentions_0_proj_in": ["lora_down.weight", "lora_up.weight", "set_bias"],
    }
    parts = ("conv_out.weight", f"{LAYER}.base_layer.weight")
    assert {key for key, _ in adapter.skipped} == {f"base_model.model.{part}" for part in parts}


@pytest.mark.parametrize("kind", ["lora_only", "all"])
@pytest.mark.parametrize("there", [True, False])
def test_biases_that_were_trained_and_not_saved_are_reported(there, kind, tmp_path):
    name = f"base_model.model.{LAYER}"
    bias = {f"{name}.base_layer.bias": torch.ones(8)} if there else {}
    norm = {f"base_model.model.conv_norm_out.{leaf}": torch.ones(8) for leaf in ("weight", "bias")}  # modules_to_save
    save_file(pair(name) | bias | norm, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({**CONFIG, "bias": kind}))
    notes = [note for note in open_adapter(tmp_path / "adapter_model.safetensors").notes if f"bias='{kind}'" in note]
    assert len(notes) == (not there)


def test_a_series_of_more_terms_than_are_followed_is_the_longest_and_not_the_default(tmp_path):
    save_file({f"base_model.model.{LAYER}.oft_R.weight": torch.ones(2, 6)}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "OFT", "peft_version": "0.18.1", "num_cayley_neumann_terms": 100}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (algorithm,) = open_adapter(tmp_path / "adapter_model.safetensors").load().algorithms.values()
    assert algorithm.highest == 63


SHARED = {
    "VeRA": {"vera_A": (2, 8), "vera_B": (8, 2)},
    "RandLora": {"randlora_A": (2, 1, 8), "randlora_B": (8, 4, 2)},
    "VB-LoRA": {"vblora_vector_bank": (5, 4)},
}
OWN = {
    "VeRA": {"vera_lambda_b": (8,), "vera_lambda_d": (2,)},
    "RandLora": {"randlora_lambda": (2, 4), "randlora_gamma": (4, 8)},
    "VB-LoRA": {"vblora_logits_A": (2, 2, 5), "vblora_logits_B": (2, 2, 5)},
}


@pytest.mark.parametrize("name", SHARED)
def test_what_layers_share_takes_no_trained_layer_for_its_own(name, tmp_path):
    """PEFT keeps it at `base_model`, with which the name of every layer begins."""
    tensors = {f"base_model.{leaf}": torch.rand(shape) for leaf, shape in SHARED[name].items()}
    tensors |= {f"base_model.model.{LAYER}.{leaf}": torch.rand(shape) for leaf, shape in OWN[name].items()}
    tensors |= {f"base_model.model.conv_norm_out.{leaf}": torch.rand(8) for leaf in ("weight", "bias")}
    save_file(tensors | {"base_model.model.mid_block.odd": torch.rand(8)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": name.replace("-", "")}))
    adapter = open_adapter(tmp_path / "adapter_model.safetensors")
    assert adapter.algorithms == {name: 1, "Whole weight": 1}
    assert [key for key, _ in adapter.skipped] == ["base_model.model.mid_block.odd"]
