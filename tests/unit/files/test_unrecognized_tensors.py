"""A file is judged by what it holds: sound layers are used, every other tensor of it is reported with its reason."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.errors import AdapterError, UnsupportedFile
from lib_adapters.files.adapter import Adapter, open_adapter
from tests.support.file_skeletons import trainer_keys as by
from tests.support.file_skeletons.base_model_layers import unet
from tests.support.file_skeletons.trainer_keys import write

PEFT = by.renamed("lora_A.weight", "lora_B.weight")
NAMED = by.renamed("lora_A.default.weight", "lora_B.default.weight")
LAYERS = {f"{place}.attentions.0.transformer_blocks.0.attn1.to_q": (320, 320) for place in ("mid_block", "up_blocks.1")}
TEXT = {f"text_model.encoder.layers.{n}.self_attn.q_proj": (768, 768) for n in range(2)}
ONE, WORDS = next(iter(LAYERS)), next(iter(TEXT))
LOHA = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)}
FORMS = {  # of a file with two layers: its keys, and what the first layer is called in it
    "kohya": by.flattened("lora_unet_", LAYERS),
    "text": by.flattened("lora_te_", TEXT),
    "dotted": by.dotted("unet.", LAYERS, PEFT),
    "peft": by.dotted("base_model.model.", LAYERS, PEFT),
    "named": by.dotted("base_model.model.", LAYERS, NAMED),
    "text-dotted": by.dotted("text_encoder.", TEXT, PEFT),
    "processors": by.processors("unet.", LAYERS),
    "hcp": by.dotted("", LAYERS, by.renamed("layer.W_down", "layer.W_up"), ".___."),
}
FIRST = {
    "kohya": f"lora_unet_{ONE.replace('.', '_')}",
    "text": f"lora_te_{WORDS.replace('.', '_')}",
    "dotted": f"unet.{ONE}",
    "peft": f"base_model.model.{ONE}",
    "named": f"base_model.model.{ONE}",
    "text-dotted": f"text_encoder.{WORDS}",
    "processors": f"unet.{ONE.replace('.to_q', '.processor.to_q')}",
    "hcp": ONE,
}
UNKNOWN = {  # what follows the layer's name -> words of the reason
    ".lora_diag": "KaSA",
    ".lora_diag.default": "KaSA",
    ".default_lora_latent_mapping.weight": "LoRA-XS",
    "_lora_latent_mapping.weight": "LoRA-XS",
    ".lora_AB.weight": "MoSLoRA",
    ".lora_AB.default.weight": "MoSLoRA",
    ".lora_F": "no supported algorithm",
    ".lora_C.weight": "no supported algorithm",
    ".never.heard.of.this": "no supported algorithm",
    ".gate.weight": "no supported algorithm",
    ".experts.0.1.down.weight": "TSM",
}


def opened(tmp_path, keys, metadata=None) -> Adapter:
    return open_adapter(write(tmp_path / "x.safetensors", keys, metadata))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extra", UNKNOWN)
def test_a_layer_with_an_unknown_tensor_is_not_applied_and_the_tensor_is_named(form, extra, tmp_path):
    adapter = opened(tmp_path, FORMS[form] | {FIRST[form] + extra: (4,)})
    assert len(adapter.layers) == 1
    ((name, reason),) = adapter.skipped
    assert name == FIRST[form]
    assert UNKNOWN[extra] in reason
    assert extra.lstrip("._") in reason


def test_a_pickle_obeys_the_same_rule(tmp_path):
    tensors = {key: torch.ones(shape) for key, shape in FORMS["dotted"].items()}
    torch.save({"state_dict": tensors | {f"{FIRST['dotted']}.lora_diag": torch.ones(4)}}, tmp_path / "x.pt")
    adapter = open_adapter(tmp_path / "x.pt")
    assert [name for name, _ in adapter.skipped] == [FIRST["dotted"]]
    assert len(adapter.layers) == 1


def test_a_file_of_which_every_layer_has_one_is_refused_by_its_name(tmp_path):
    keys = {key: shape for key, shape in FORMS["peft"].items() if FIRST["peft"] in key}
    with pytest.raises(UnsupportedFile, match="is KaSA, which is not supported"):
        opened(tmp_path, keys | {f"{FIRST['peft']}.lora_diag": (4,)})
    with pytest.raises(AdapterError, match="'gate', which no supported algorithm uses"):
        opened(tmp_path, keys | {f"{FIRST['peft']}.gate": (4,)})


@pytest.mark.parametrize(
    ("leaves", "extra"),
    [
        ({"lora_up.weight": (8, 2), "lora_down.weight": (2, 8)}, {"rescale": (8, 1)}),
        (LOHA, {"lora_mid.weight": (2, 2)}),
        ({"lora_up.weight": (8, 2), "lora_down.weight": (2, 8)}, {"w_norm": (8,)}),
        ({"diff": (8, 8)}, {"reshape_weight": (2,)}),
    ],
)
def test_a_tensor_that_the_algorithm_of_the_layer_does_not_use_is_reported(leaves, extra, tmp_path):
    keys = {f"lora_unet_x.{leaf}": shape for leaf, shape in (leaves | extra).items()}
    adapter = opened(tmp_path, keys | {"lora_unet_y.diff": (8, 8)})
    loaded = adapter.load()
    reasons = dict(loaded.skipped) | dict(adapter.skipped)
    assert next(iter(extra)) in reasons["lora_unet_x"]
    assert len(loaded.algorithms) == 1


@pytest.mark.parametrize("form", FORMS)
def test_what_training_leaves_beside_an_adapter_stops_nothing(form, tmp_path):
    first = FIRST[form]
    left = {f"{first}.lora_up.input_scale": (), "scaled_fp8": (2,)}
    left |= {f"{first}.lora_monteclora_sampler.default.sampler.weight": (4, 4)}
    adapter = opened(tmp_path, FORMS[form] | left)
    assert (len(adapter.layers), adapter.skipped) == (2, ())


def test_the_second_adapter_of_a_resumed_training_is_not_used_and_told(tmp_path):
    second = {key.replace("_A.", "_A_1.").replace("_B.", "_B_1."): shape for key, shape in FORMS["peft"].items()}
    adapter = opened(tmp_path, FORMS["peft"] | second)
    assert (len(adapter.layers), adapter.skipped) == (2, ())
    (note,) = adapter.notes
    assert "lora_A_1.weight (and 3 more) belongs to a second adapter in the same file, which is not used" in note
    alone = {key: shape for key, shape in second.items() if "lora_A_1" in key}  # half a pair is not an adapter
    with pytest.raises(AdapterError, match="lora_A_1"):
        opened(tmp_path, FORMS["peft"] | alone)


@pytest.mark.parametrize("first", [True, False])
def test_of_two_adapters_in_a_file_the_one_that_peft_reads_is_used(first, tmp_path):
    named = {key.replace(".weight", ".default_1.weight"): shape for key, shape in FORMS["peft"].items()}
    both = FORMS["peft"] | named if first else named | FORMS["peft"]
    adapter = opened(tmp_path, both)
    assert {key for module in adapter.layers for key in module.tensor_keys.values()} == FORMS["peft"].keys()
    (note,) = adapter.notes
    assert "(and 3 more) repeats a tensor" in note
    assert "default_1" in note


WHOLE = {
    "biases of every layer": {f"base_model.model.{path}.bias": shape[:1] for path, shape in unet("sd1").items()},
    "norms saved whole": {f"unet.down_blocks.{n}.norm.weight": (320,) for n in range(40)},
    "modules_to_save": {f"unet.conv_in.{leaf}": (4,) for leaf in ("weight", "bias")},
}
BESIDE = {
    "an IP-Adapter's projections": {f"ip_adapter.{n}.to_k_ip.weight": (320, 768) for n in range(40)},
    "its LoRA": {f"ip_adapter.{n}.to_q_lora.{half}.weight": (4, 4) for n in range(9) for half in ("up", "down")},
    "an image encoder": {f"id_encoder.vision_model.{n}.weight": (4, 4) for n in range(40)},
    "LoRA of an embedding": {"base_model.model.token_embedding.lora_embedding_A": (4, 99)},
    "trained tokens": {"base_model.model.token_embedding.token_adapter.trainable_tokens_delta": (2, 768)},
    "motion modules": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
    "the base layer": {f"base_model.model.{ONE}.base_layer.weight": (320, 320)},
    "one VeRA layer": {"base_model.model.conv_in.vera_lambda_b": (320,)},
}


@pytest.mark.parametrize("form", ["kohya", "dotted", "peft"])
@pytest.mark.parametrize("name", BESIDE)
def test_sound_layers_are_used_whatever_lies_beside_them(form, name, tmp_path):
    adapter = opened(tmp_path, BESIDE[name] | FORMS[form])
    assert len(adapter.layers) == 2
    assert adapter.skipped
    assert len(adapter.skipped) <= 41


@pytest.mark.parametrize("form", ["kohya", "dotted", "peft"])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_weights_under_their_own_names_are_used_with_the_factors(form, name, tmp_path):
    adapter = opened(tmp_path, WHOLE[name] | FORMS[form])
    assert adapter.algorithms["LoRA"] == 2
    assert adapter.algorithms["Whole weight"] > 0
    assert not [name for name, _ in adapter.skipped if "lora" in name]


def test_a_trained_bias_of_a_layer_is_used_with_its_factors(tmp_path):
    bias = f"{FIRST['peft']}.bias"
    adapter = opened(tmp_path, FORMS["peft"] | {bias: (320,)})
    assert len(adapter.layers) == 2
    assert adapter.skipped == ()
    assert bias in {key for module in adapter.layers for key in module.tensor_keys.values()}


def test_a_layer_of_a_model_may_be_called_like_a_tuner(tmp_path):
    layers = {f"mid_block.{word}_proj.to_q": (8, 8) for word in ("shadow", "lily", "bone", "osf", "token_adapter")}
    adapter = opened(tmp_path, by.dotted("unet.", layers, PEFT))
    assert (len(adapter.layers), adapter.skipped) == (5, ())


@pytest.mark.parametrize("kind", ["controlnet_cond_embedding.conv_in.weight", "internal_xlora_classifier.0.weight"])
def test_factors_for_something_other_than_the_model_are_refused_with_all_that_is_beside_them(kind, tmp_path):
    with pytest.raises(UnsupportedFile):
        opened(tmp_path, FORMS["dotted"] | {kind: (4, 4)})


@pytest.mark.parametrize(
    ("name", "algorithms"),
    [
        ("lora_unet_mid_block_resnets_0_norm1", {"Full": 1}),
        ("unet.mid_block.resnets.0.norm1", {"Full": 1, "Whole weight": 1}),
    ],
)
def test_a_weight_of_one_axis_is_not_ia3_without_the_mark_of_ia3(name, algorithms, tmp_path):
    """Under a trainer's name it is unknown; under the model's own name it is the model's weight."""
    save_file({f"{name}.weight": torch.ones(8), "lora_unet_y.diff": torch.ones(8, 8)}, tmp_path / "x.safetensors")
    adapter = open_adapter(tmp_path / "x.safetensors")
    assert adapter.algorithms == algorithms
    assert ("on_input" in dict(adapter.skipped).get(f"{name}.weight", "")) == ("Whole weight" not in algorithms)


def test_reports_of_many_tensors_stay_short(tmp_path):
    plain = {f"x{n}.weight": (4,) for n in range(500)} | {f"odd{n}.thing": (4,) for n in range(500)}
    adapter = opened(tmp_path, FORMS["kohya"] | plain)
    assert len(adapter.skipped) == 42
    assert {name for name, _ in adapter.skipped if "more" in name} == {"480 more keys"}


NAMES = {
    "BEFT": "beft_bias.default", "Lily": "lily_A.weight", "PEANuT": "peanut_A.weight", "PVERA": "pvera_lambda_b",
    "TinyLoRA": "tinylora_v", "UniLoRA": "unilora_theta_d", "FRoD": "frod_lambda_l", "AdaMSS": "adamss_A.0",
    "Custom Diffusion": "processor.to_k_custom_diffusion.weight", "SVDiff": "to_k.delta",
    "OSF": "osf_svd_params.U_high", "SuperTuning": "supertuning_values", "Poly": "poly_router.weight",
    "PSOFT": "psoft_R", "PEFT's GLoRA": "glora_B.weight",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_supported_is_refused_by_its_name(name, tmp_path):
    with pytest.raises(UnsupportedFile, match=f"is {name}, which is not supported"):
        opened(tmp_path, {f"base_model.model.{layer}.{NAMES[name]}": (4, 4) for layer in LAYERS})
