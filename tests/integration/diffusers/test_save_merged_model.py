"""Keeping a stack: every weight file of a folder is rewritten in its own dtype and spelling, or nothing is."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_adapters import Request, open_adapter
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers import weight_diff as module
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.lora_extraction import extract_lora, truncated_svd
from lib_adapters.hosts.diffusers.weight_diff import ParameterDiff, diff_weights, save_merged_model
from tests.support.sample_adapters import adapter_file, full, layers

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
UNET = "diffusion_pytorch_model"


@pytest.fixture
def folder(sd1_folder, tmp_path):
    """One component in three forms side by side, as downloads often are."""
    shutil.copytree(sd1_folder, tmp_path / "model")
    unet = tmp_path / "model" / "unet"
    tensors = load_file(unet / f"{UNET}.safetensors")
    save_file(
        {key: value.half() for key, value in tensors.items()}, unet / f"{UNET}.fp16.safetensors", {"format": "pt"}
    )
    torch.save(tensors, unet / f"{UNET}.bin")
    return tmp_path / "model"


def stack(folder, path, **options):
    studio = Generator.open(folder, CPU, FolderResolver([]))
    shapes = {
        name: shape for name, shape in layers(studio.pipe.unet).items() if "attn1.to_q" in name or name == "conv_in"
    }
    found, _ = diff_weights(studio, [Request(open_adapter(adapter_file(path / "a.safetensors", shapes, **options)))])
    return studio, found


def test_every_form_of_a_component_gets_the_same_values_in_its_own_dtype(folder, tmp_path):
    _, found = stack(folder, tmp_path)
    assert save_merged_model(folder, tmp_path / "out", found) == []
    whole = load_file(tmp_path / "out" / "unet" / f"{UNET}.safetensors")
    half = load_file(tmp_path / "out" / "unet" / f"{UNET}.fp16.safetensors")
    pickled = torch.load(tmp_path / "out" / "unet" / f"{UNET}.bin", weights_only=True)
    before = load_file(folder / "unet" / f"{UNET}.safetensors")
    touched = {change.path: change.merged for change in found}
    assert len(touched) == 17
    for key, value in before.items():
        expected = touched.get(key, value)
        assert torch.equal(whole[key], expected)
        assert torch.equal(pickled[key], expected)
        assert torch.equal(half[key], expected.half())


def test_a_bias_that_the_layer_never_had_has_no_place_and_is_named(folder, tmp_path):
    _, found = stack(folder, tmp_path, maker=full)
    homeless = save_merged_model(folder, tmp_path / "out", found)
    assert len(homeless) == 16
    assert all(path.endswith("attn1.to_q.bias") for path in homeless)


def test_what_goes_wrong_half_way_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_merged_model(
            folder, tmp_path / "out", [ParameterDiff("unet", "conv_in.weight", None, torch.zeros(32, 4, 3, 3))]
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(AdapterError, match="exists already"):
        save_merged_model(folder, tmp_path / "out", [])


def test_a_component_whose_names_nobody_knows_is_an_error(folder, tmp_path):
    strange = ParameterDiff("unet", "nobody.knows.weight", None, torch.zeros(2, 2))
    with pytest.raises(AdapterError, match="no weight file there"):
        save_merged_model(folder, tmp_path / "out", [strange])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(12, 30), (300, 400)])
def test_the_cut_is_the_best_of_its_rank(shape):
    """Eckart and Young: no matrix of this rank comes closer; the larger shape takes the randomised way."""
    torch.manual_seed(0)
    values = 0.8 ** torch.arange(min(shape)).float()
    left, right = (torch.linalg.qr(torch.randn(size, min(shape)))[0] for size in shape)
    matrix = left * values @ right.T
    up, down = truncated_svd(matrix, 4)
    assert (up.shape, down.shape) == ((shape[0], 4), (4, shape[1]))
    best = values[4:].square().sum().sqrt()
    assert float((matrix - up @ down).norm()) == pytest.approx(float(best), rel=1e-3)


def test_what_is_no_matrix_is_kept_whole():
    root = nn.ModuleDict({"norm": nn.LayerNorm(3), "words": nn.Embedding(5, 3), "lin": nn.Linear(3, 3)})
    names = {"norm.weight": 3, "norm.bias": 3, "lin.bias": 3}
    found = [ParameterDiff("unet", path, None, torch.ones(size)) for path, size in names.items()]
    found.append(ParameterDiff("unet", "words.weight", None, torch.ones(5, 3)))
    result = extract_lora(found, {"unet": root}, 1, torch.float32, lambda _: None)
    leaves = {"lora_unet_norm.w_norm", "lora_unet_norm.b_norm", "lora_unet_lin.diff_b", "lora_unet_words.diff"}
    assert set(result.tensors) == leaves
    assert result.relative_error == 0
