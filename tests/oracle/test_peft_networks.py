"""Files as PEFT and diffusers save them: our model draws what theirs drew."""

from __future__ import annotations

import copy
import json
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import nn

from lib_adapters import Request, Session, open_adapter
from lib_adapters.errors import UnsupportedFile
from tests.support import trainer_oracles
from tests.support.lycoris_networks import assert_same, run_text, run_unet, written
from tests.support.tiny_models import clip, diffusers_unet

WIDTH = 32
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = [
    *ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "conv",
    "time_emb_proj", "conv_in", "conv_out", "linear_1", "linear_2",
]  # fmt: skip
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
LORA = {"r": 4, "lora_alpha": 6}
ROTATION = {"r": 0, "oft_block_size": 4, "target_modules": ATTENTION}
PATTERNS = {
    "target_modules": ATTENTION,
    "rank_pattern": {"attn2.to_k": 2, "to_q": 3},
    "alpha_pattern": {"to_v": 1, "mid_block.attentions.0.transformer_blocks.0.attn1.to_k": 9},
}
EXPRESSIONS = {  # of some layers more than one is true: the first counts
    r"down_blocks\.\d\..*attn[12]\.to_(k|v)": 2,
    r"(?!.*attn2).*to_q$": 3,
    "^mid_block.*": 9,
    "to.out.0": 1,
}
WHOLE = ["conv_in", "conv_norm_out", "norm2", "time_embedding"]


class Case(NamedTuple):
    config: str
    options: dict


CASES = {
    "lora": Case("LoraConfig", LORA),
    "rs-lora": Case("LoraConfig", {**LORA, "use_rslora": True}),
    "dora": Case("LoraConfig", {**LORA, "use_dora": True}),
    "bias": Case("LoraConfig", {**LORA, "lora_bias": True}),
    "patterns": Case("LoraConfig", {**LORA, **PATTERNS}),
    "loha": Case("LoHaConfig", {"r": 4, "alpha": 6}),
    "loha-tucker": Case("LoHaConfig", {"r": 4, "alpha": 6, "use_effective_conv2d": True}),
    "lokr": Case("LoKrConfig", {"r": 2, "alpha": 6}),
    "lokr-tucker": Case("LoKrConfig", {"r": 2, "alpha": 6, "use_effective_conv2d": True, "decompose_both": True}),
    "oft": Case("OFTConfig", {**ROTATION, "use_cayley_neumann": True}),
    "oft-exact": Case("OFTConfig", {**ROTATION, "use_cayley_neumann": False}),
    "oft-shared": Case("OFTConfig", {**ROTATION, "block_share": True}),
    "oft-2-terms": Case("OFTConfig", {**ROTATION, "use_cayley_neumann": True, "num_cayley_neumann_terms": 2}),
    "oft-3-terms": Case("OFTConfig", {**ROTATION, "use_cayley_neumann": True, "num_cayley_neumann_terms": 3}),
    "oft-7-terms": Case("OFTConfig", {**ROTATION, "use_cayley_neumann": True, "num_cayley_neumann_terms": 7}),
    "oft-bound": Case("OFTConfig", {**ROTATION, "use_cayley_neumann": True, "coft": True, "eps": 0.5}),
    "oft-all-biases": Case("OFTConfig", {**ROTATION, "bias": "all"}),
    "expressions": Case("LoraConfig", {**LORA, "alpha_pattern": EXPRESSIONS, "target_modules": ATTENTION}),
    "all-biases": Case("LoraConfig", {**LORA, "bias": "all"}),
    "all-biases-and-its-own": Case("LoraConfig", {**LORA, "bias": "all", "lora_bias": True}),
    "its-biases": Case("LoraConfig", {**LORA, "bias": "lora_only"}),
    "whole-modules": Case("LoraConfig", {**LORA, "target_modules": ATTENTION, "modules_to_save": WHOLE}),
    "ia3": Case("IA3Config", {"target_modules": ["to_k", "to_v", "ff.net.2"], "feedforward_modules": ["ff.net.2"]}),
}
SIZES = {"ia3": 0.2, "oft_R": 0.1, "lora_": 0.15, "hada_": 0.4, "lokr_": 0.3}


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Trained-looking values in what was added to the model."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        size = next((size for mark, size in SIZES.items() if mark in name), None)
        if "magnitude" in name:
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        elif size is not None:
            parameter.copy_(torch.randn_like(parameter) * size + ("ia3" in name))
        elif parameter.requires_grad:  # whole biases and modules
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter)).add_(0.05 * torch.randn_like(parameter))


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet(context=WIDTH)


@pytest.fixture(scope="module")
def encoder():
    return clip(width=WIDTH, layers=2)


def keys_of(folder) -> list[str]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as opened:
        return list(opened.keys())


def config_of(case: Case, targets: list[str]):
    return getattr(trainer_oracles.peft(), case.config)(**{"target_modules": targets, **case.options})


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("name", CASES)
def test_a_folder_by_peft_draws_what_peft_drew(unet, tmp_path, name):
    theirs = trainer_oracles.peft().get_peft_model(copy.deepcopy(unet), config_of(CASES[name], EVERYTHING)).eval()
    randomise(theirs)
    theirs.save_pretrained(str(tmp_path))
    if "bias" in CASES[name].options and not any(key.endswith(".base_layer.bias") for key in keys_of(tmp_path)):
        pytest.skip("this release of PEFT does not save the biases that it trains with this method")
    plain, expected = run_unet(unet), run_unet(theirs.base_model.model)
    with Session(unet=unet) as session:
        (report,) = session.activate([Request(open_adapter(tmp_path / "adapter_model.safetensors"))]).adapters
        assert (report.error, report.unmatched) == (None, [])
        assert_same(run_unet(unet), expected, plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["lora", "rs-lora", "dora", "bias", "loha", "lokr", "all-biases"])
def test_a_text_encoder_by_peft_says_what_peft_said(encoder, tmp_path, name):
    theirs = trainer_oracles.peft().get_peft_model(copy.deepcopy(encoder), config_of(CASES[name], PROJECTIONS)).eval()
    randomise(theirs)
    theirs.save_pretrained(str(tmp_path))
    plain, expected = run_text(encoder), run_text(theirs.base_model.model)
    with Session(text_encoders=[encoder]) as session:
        (report,) = session.activate([Request(open_adapter(tmp_path / "adapter_model.safetensors"))]).adapters
        assert (report.error, report.unmatched) == (None, [])
        assert_same(run_text(encoder), expected, plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("option", ["alora_invocation_tokens", "use_qalora"])
def test_variants_of_lora_that_no_weight_can_be_are_refused(unet, tmp_path, option):
    value = {"alora_invocation_tokens": [1, 2], "use_qalora": True}[option]
    trainer_oracles.peft().get_peft_model(copy.deepcopy(unet), config_of(CASES["lora"], ATTENTION)).save_pretrained(
        tmp_path
    )
    table = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**table, option: value}))
    with pytest.raises(UnsupportedFile, match="cannot be expressed as a change of weights"):
        open_adapter(tmp_path / "adapter_model.safetensors")


class Trained(NamedTuple):
    models: list[nn.Module]  # UNet, then text encoders, as they were
    expected: list[torch.Tensor]
    layers: dict  # what save_lora_weights of diffusers takes
    facts: dict  # and since 0.35, the configs beside it


def trained(family: str, unet_options: dict, text_options: dict) -> Trained:
    """As diffusers' own training scripts do it."""
    peft, utils = (
        trainer_oracles.peft(),
        pytest.importorskip("diffusers.utils", reason="oracle: diffusers is not installed"),
    )
    encoders = [clip(width=WIDTH, layers=2), clip(width=WIDTH, layers=3, projection=True)]
    models = [diffusers_unet(family=family, context=WIDTH), *encoders[: 2 if family == "sdxl" else 1]]
    theirs, layers, facts = copy.deepcopy(models), {}, {}
    for n, model in enumerate(theirs):
        targets, options = ([*ATTENTION, "conv1"], unet_options) if not n else (PROJECTIONS[:5], text_options)
        config = peft.LoraConfig(target_modules=targets, **options)
        model.add_adapter(config)
        randomise(model)
        part = ("unet", "text_encoder", "text_encoder_2")[n]
        layers[f"{part}_lora_layers"] = utils.convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(model))
        facts[f"{part}_lora_adapter_metadata"] = {k: v for k, v in config.to_dict().items() if v is not None}
    return Trained(models, [run_unet(theirs[0]), *map(run_text, theirs[1:])], layers, facts)


def pipeline_class(family: str):
    diffusers = pytest.importorskip("diffusers", reason="oracle: diffusers is not installed")
    return diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline


def assert_draws(job: Trained, path) -> None:
    unet, *encoders = job.models
    plain = [run_unet(unet), *map(run_text, encoders)]
    with Session(unet=unet, text_encoders=encoders) as session:
        (report,) = session.activate([Request(open_adapter(path))]).adapters
        assert (report.error, report.unmatched) == (None, [])
        ours = [run_unet(unet), *map(run_text, encoders)]
    for mine, expected, before in zip(ours, job.expected, plain, strict=True):
        assert_same(mine, expected, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_file_by_diffusers_without_its_alphas(family, tmp_path):
    job = trained(family, {"r": 4, "lora_alpha": 4}, {"r": 2, "lora_alpha": 2})
    pipeline_class(family).save_lora_weights(str(tmp_path), **job.layers)
    assert_draws(job, tmp_path / "pytorch_lora_weights.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("dora", [False, True])
def test_a_file_by_diffusers_with_its_configs(family, dora, tmp_path):
    job = trained(family, {"r": 4, "lora_alpha": 7, "use_dora": dora}, {"r": 2, "lora_alpha": 3, "use_rslora": True})
    try:
        pipeline_class(family).save_lora_weights(str(tmp_path), **job.layers, **job.facts)
    except TypeError:
        pytest.skip("this diffusers keeps no configs")
    assert_draws(job, tmp_path / "pytorch_lora_weights.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_export_for_the_web_ui(family, tmp_path):
    utils = pytest.importorskip("diffusers.utils.state_dict_utils", reason="oracle: diffusers is not installed")
    job = trained(family, {"r": 4, "lora_alpha": 4}, {"r": 4, "lora_alpha": 4})
    tensors = {f"{part.removesuffix('_lora_layers')}.{key}": tensor
               for part, layers in job.layers.items() for key, tensor in layers.items()}  # fmt: skip
    exported = utils.convert_state_dict_to_kohya(utils.convert_all_state_dict_to_peft(tensors))
    assert_draws(job, written(exported, tmp_path / "kohya.safetensors"))
