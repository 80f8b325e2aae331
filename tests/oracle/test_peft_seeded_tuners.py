"""PEFT's tuners with seeds and shared tensors: files that PEFT saves, against the weights that PEFT merges, in float64.

What a PEFT release does not have is skipped; the leg of the current releases runs all of it.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_adapters import Request, Session, open_adapter
from lib_adapters.app.main import main
from lib_adapters.errors import CorruptFile
from lib_adapters.patching.layers import LayerTable
from lib_adapters.patching.plan import match_adapter
from tests.support import trainer_oracles

PLACE = "down_blocks.0.attentions.0.transformer_blocks.0"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj"]
SIZES = {"vera_lambda": 0.5, "spectrum": 1.0, "randlora_": 0.5, "vblora_": 1.0, "lora_": 0.3, "road_theta": 0.5}
VBLORA = {"r": 3, "num_vectors": 9, "vector_length": 4, "topk": 3}
CASES = {
    "vera": ("VeraConfig", {"r": 5}),
    "vera-drawn": ("VeraConfig", {"r": 5, "save_projection": False, "projection_prng_key": 1234567890123}),
    "fourierft": ("FourierFTConfig", {"n_frequency": 11, "scaling": 70.0}),
    "fourierft-seed": ("FourierFTConfig", {"n_frequency": 9, "random_loc_seed": 3, "n_frequency_pattern": {"to_k": 5}}),
    "randlora": ("RandLoraConfig", {"r": 5, "randlora_alpha": 20}),
    "randlora-drawn": ("RandLoraConfig", {"r": 5, "save_projection": False, "projection_prng_key": 9}),
    "randlora-sparse": ("RandLoraConfig", {"r": 3, "save_projection": False, "sparse": True}),
    "randlora-very-sparse": ("RandLoraConfig", {"r": 3, "save_projection": False, "very_sparse": True}),
    "vblora": ("VBLoRAConfig", VBLORA),
    "vblora-chosen": ("VBLoRAConfig", {**VBLORA, "save_only_topk_weights": True}),
    "waveft": ("WaveFTConfig", {"n_frequency": 11}),
    "waveft-db4": ("WaveFTConfig", {"n_frequency": 11, "wavelet_family": "db4", "random_loc_seed": 3, "scaling": 7.0}),
    "waveft-sym10": ("WaveFTConfig", {"n_frequency": 11, "wavelet_family": "sym10"}),
    "waveft-direct": ("WaveFTConfig", {"n_frequency": 11, "use_idwt": False}),
    "waveft-shares": ("WaveFTConfig", {"n_frequency": 11, "proportional_parameters": True}),
    "adalora": ("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10, "lora_alpha": 6}),
    "adalora-conv": ("AdaLoraConfig", {"init_r": 4, "total_step": 10, "target_modules": ["to_q", "conv"]}),
    "road-1": ("RoadConfig", {"variant": "road_1", "group_size": 4}),
    "road-2": ("RoadConfig", {"variant": "road_2", "group_size": 8}),
    "road-4": ("RoadConfig", {"variant": "road_4", "group_size": 4}),
}
by_peft = pytest.mark.filterwarnings("ignore")  # PEFT's own
every_case = pytest.mark.parametrize("name", CASES)


def model() -> nn.Module:
    """Layers of several sizes under Stable Diffusion's names; the widest input and the widest output are of two."""
    torch.manual_seed(0)
    attention = {"to_q": nn.Linear(8, 8, bias=False), "to_k": nn.Linear(20, 8, bias=False), "to_v": nn.Linear(24, 8)}
    attention["to_out"] = nn.ModuleList([nn.Linear(8, 8), nn.Identity()])
    feed = nn.ModuleDict({"net": nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(8, 32)})])})
    block = nn.ModuleDict({"attn1": nn.ModuleDict(attention), "ff": feed, "conv": nn.Conv2d(8, 12, 3)})
    down = nn.ModuleDict({"attentions": nn.ModuleList([nn.ModuleDict({"transformer_blocks": nn.ModuleList([block])})])})
    return nn.ModuleDict({"down_blocks": nn.ModuleList([down])}).requires_grad_(False)


def saved(name: str, folder, **options) -> nn.Module:
    """PEFT's folder with trained-looking values; the model as PEFT merges it in float64 when it reads that folder."""
    peft, (config, given) = trainer_oracles.peft(), CASES[name]
    if not hasattr(peft, config):
        pytest.skip(f"PEFT {peft.__version__} has no {config}")
    settings = getattr(peft, config)(**{"target_modules": TARGETS, **given, **options})
    try:
        theirs = peft.get_peft_model(model(), settings)
    except ValueError as error:
        pytest.skip(f"PEFT {peft.__version__}: {error}")
    torch.manual_seed(5)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            size = next((size for mark, size in SIZES.items() if mark in key), None)
            if size is not None:
                parameter.copy_(torch.randn_like(parameter) * size)
            elif "road_alpha" in key:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    theirs.save_pretrained(str(folder))
    return peft.PeftModel.from_pretrained(model(), str(folder)).double().merge_and_unload()


def assert_merged(path, expected: nn.Module, layers: int) -> None:
    """Every weight and bias is PEFT's, and goes back to what it was."""
    ours = model()
    before = copy.deepcopy(ours.state_dict())
    with Session(unet=ours) as session:
        (report,) = session.activate([Request(open_adapter(path))]).adapters
        assert (report.error, report.unmatched, report.matched) == (None, [], layers)
        changed = 0
        for key, weight in expected.state_dict().items():
            delta = weight - before[key].double()
            changed += bool(delta.abs().max() > 1e-3)
            largest = max(float(delta.abs().max()), float(weight.abs().max()))
            torch.testing.assert_close(ours.state_dict()[key].double(), weight, rtol=1e-5, atol=1e-6 * largest)
        assert changed >= layers
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in before.items())


@by_peft
@every_case
def test_merged_weights_are_peft_s(name, tmp_path):
    expected = saved(name, tmp_path)
    assert_merged(tmp_path / "adapter_model.safetensors", expected, 2 if "conv" in name else 5)


@by_peft
def test_adalora_keeps_the_scale_of_its_first_rank(tmp_path):
    layer = f"{PLACE}.attn1.to_q.lora_E"
    expected = saved("adalora", tmp_path, rank_pattern={layer: [True, False, False, True]})
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors[f"base_model.model.{layer}"].shape == (2, 1)
    assert_merged(tmp_path / "adapter_model.safetensors", expected, 5)


NEEDED = {
    "fourierft": "random_loc_seed and scaling", "waveft": "wavelet_family", "vera-drawn": "projection_prng_key",
    "randlora": "randlora_alpha", "randlora-drawn": "projection_prng_key", "vblora": "topk", "adalora": "init_r",
    "road-1": "group_size",
}  # fmt: skip


@by_peft
@pytest.mark.parametrize("name", NEEDED)
def test_without_the_config_it_needs_the_file_is_refused_and_says_so(name, tmp_path):
    saved(name, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CorruptFile, match=f"{NEEDED[name]}.*adapter_config.json"):
        open_adapter(tmp_path / "adapter_model.safetensors")


@by_peft
@pytest.mark.parametrize("name", ["vera", "vblora-chosen"])
def test_what_needs_no_config_is_read_without_it(name, tmp_path):
    expected = saved(name, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert_merged(tmp_path / "adapter_model.safetensors", expected, 5)


@by_peft
@pytest.mark.parametrize("name", ["fourierft", "vera-drawn"])
def test_another_tuner_s_config_is_not_taken(name, tmp_path):
    saved(name, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "LORA"}))
    with pytest.raises(CorruptFile, match=r"adapter_config\.json"):
        open_adapter(tmp_path / "adapter_model.safetensors")


@by_peft
@pytest.mark.parametrize("wavelet", ["coif2", "db99", "sym1", "no such"])
def test_a_wavelet_that_is_not_computed_is_named(wavelet, tmp_path):
    saved("waveft", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "wavelet_family": wavelet}))
    with pytest.raises(CorruptFile, match="db1 to db10 or sym2 to sym10"):
        open_adapter(tmp_path / "adapter_model.safetensors")


@by_peft
@pytest.mark.parametrize("name", ["vera", "vera-drawn", "randlora", "randlora-drawn", "fourierft"])
def test_only_a_file_without_its_projections_says_so(name, tmp_path):
    saved(name, tmp_path)
    notes = open_adapter(tmp_path / "adapter_model.safetensors").notes
    assert any("generated from its seed" in note for note in notes) == ("drawn" in name)


@by_peft
@pytest.mark.parametrize("name", ["vera-drawn", "randlora-drawn"])
def test_projections_are_not_drawn_for_a_model_that_lacks_a_layer(name, tmp_path):
    """The missing layer may be the largest, and every number depends on its size."""
    saved(name, tmp_path)
    smaller = model()
    block = smaller.get_submodule(PLACE)
    del block.ff
    with Session(unet=smaller) as session:
        (report,) = session.activate([Request(open_adapter(tmp_path / "adapter_model.safetensors"))]).adapters
    assert "save_projection" in str(report.error)
    assert "1 of them" in str(report.error)


@by_peft
@pytest.mark.parametrize("name", ["vera-drawn", "randlora-drawn"])
def test_larger_layers_of_another_kind_in_the_file_change_no_projection(name, tmp_path):
    """A LoRA of the convolution, whose 48 inputs are more than any trained layer of the tuner has."""
    expected, path = saved(name, tmp_path), tmp_path / "adapter_model.safetensors"
    pair = {"lora_A.weight": torch.ones(1, 48, 3, 3), "lora_B.weight": torch.zeros(12, 1, 1, 1)}
    other = {f"base_model.model.{PLACE}.conv.{leaf}": tensor for leaf, tensor in pair.items()}
    save_file(load_file(path) | other, path)
    ours = model()
    ours.get_submodule(PLACE).conv = nn.Conv2d(48, 12, 3)
    with Session(unet=ours) as session:
        (report,) = session.activate([Request(open_adapter(path))]).adapters
        assert (report.unmatched, report.matched) == ([], 6)
        for key, weight in expected.state_dict().items():
            if "conv" not in key:
                torch.testing.assert_close(ours.state_dict()[key].double(), weight, rtol=1e-5, atol=1e-5)


@by_peft
def test_one_file_on_two_models_draws_for_each(tmp_path):
    """What is kept between activations is kept for one size of projections."""
    expected, path = saved("vera-drawn", tmp_path), tmp_path / "adapter_model.safetensors"
    adapter, other, ours = open_adapter(path), model(), model()
    other.get_submodule(PLACE).attn1.to_k = nn.Linear(40, 8, bias=False)
    loaded = adapter.load()
    for each in (other, ours):
        found = match_adapter(Request(adapter), loaded, LayerTable.from_model(each, []))
        assert found.unmatched == []
    key, weight = f"{PLACE}.attn1.to_q.weight", ours.get_submodule(PLACE).attn1.to_q.weight
    (patch,) = [patch for slot, patch in found.patches if slot.path.endswith("to_q")]
    torch.testing.assert_close(patch.algorithm.merged(weight, 1.0).double(), expected.state_dict()[key])


@by_peft
def test_a_shared_tensor_is_one_tensor_for_all_layers(tmp_path):
    saved("vera", tmp_path)
    loaded = open_adapter(tmp_path / "adapter_model.safetensors").load()
    assert len({algorithm.a.data_ptr() for algorithm in loaded.algorithms.values()}) == 1
    assert len(loaded.algorithms) == 5


@by_peft
@pytest.mark.parametrize("name", ["vera", "randlora", "vblora", "waveft", "adalora", "road-2"])
def test_the_adapter_s_name_in_the_keys_changes_nothing(name, tmp_path):
    """As in the state dict of a model that PEFT wraps, which trainers save as it is."""
    expected = saved(name, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"{key}.default": tensor for key, tensor in load_file(path).items()}, path)
    assert_merged(path, expected, 5)


@by_peft
def test_a_file_in_another_spelling_keeps_its_seed(tmp_path, capsys):
    """A seed of many digits is no float32; what layers share has one name only in PEFT's own spelling."""
    saved("vera-drawn", tmp_path / "drawn")
    saved("vera", tmp_path / "shared")
    out = tmp_path / "out.safetensors"
    assert convert(tmp_path / "drawn", out) == 0
    seeds = {int(tensor) for key, tensor in load_file(out).items() if key.endswith("projection_prng_key")}
    assert seeds == {1234567890123}
    assert convert(tmp_path / "shared", tmp_path / "other.safetensors") != 0
    assert "share vera_A" in capsys.readouterr().err


def convert(folder, out) -> int:
    return main(["convert", str(folder / "adapter_model.safetensors"), str(out), "--to", "kohya", "--dtype", "fp16"])


@by_peft
def test_two_components_in_one_file_share_nothing(tmp_path):
    """Each has projections of its own, under its own prefix."""
    expected = saved("vera", tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    other = {f"text_encoder.{key}": tensor + 1 for key, tensor in tensors.items()}
    both = {f"unet.{key}": tensor for key, tensor in tensors.items()} | other
    save_file(both, tmp_path / "both.safetensors")
    adapter = open_adapter(tmp_path / "both.safetensors")
    keys = {module.tensor_keys["vera_A"] for module in adapter.layers}
    assert keys == {"unet.base_model.vera_A", "text_encoder.base_model.vera_A"}
    ours = model()
    with Session(unet=ours) as session:
        session.activate([Request(adapter, te=0.0)])
        for key, weight in expected.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key].double(), weight, rtol=1e-5, atol=1e-5)
