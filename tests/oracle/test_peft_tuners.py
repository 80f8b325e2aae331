"""PEFT's tuners beside LoRA: real files of PEFT's, our merged weights against PEFT's own, which computes in float64.

The PEFT that the other tests are pinned to has some of these tuners, today's has others: a case skips where its PEFT
has no such tuner. The first run and the leg "current" of .ci/run together have all of them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_adapters import Adapter, Request, Session, open_adapter
from tests.support import trainer_oracles

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
LAYERS = {
    f"{BLOCK}.attn1.to_q": lambda: nn.Linear(32, 32, bias=False),
    f"{BLOCK}.attn2.to_k": lambda: nn.Linear(24, 32, bias=False),
    f"{BLOCK}.attn2.to_v": lambda: nn.Linear(24, 32, bias=False),
    f"{BLOCK}.attn1.to_out.0": lambda: nn.Linear(32, 32),
    f"{BLOCK}.ff.net.0.proj": lambda: nn.Linear(32, 64),
    "mid_block.attentions.0.proj_in": lambda: nn.Conv2d(32, 32, 1),
    "mid_block.resnets.0.conv1": lambda: nn.Conv2d(16, 32, 3, padding=1),
    f"{BLOCK}.norm1": lambda: nn.LayerNorm(32),
    "mid_block.resnets.0.norm1": lambda: nn.GroupNorm(4, 16),
}
LINEAR, WITH_CONVOLUTIONS, NORMS = tuple(LAYERS)[:5], tuple(LAYERS)[:7], tuple(LAYERS)[7:]


class Case(NamedTuple):
    config: str
    options: dict
    layers: tuple[str, ...] = LINEAR


RANDOM = {"init_weights": False}
CASES = {
    "boft": Case("BOFTConfig", {"boft_block_size": 4}, WITH_CONVOLUTIONS),
    "boft-blocks": Case("BOFTConfig", {"boft_block_size": 0, "boft_block_num": 8}, WITH_CONVOLUTIONS),
    "boft-two-factors": Case("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 2}, WITH_CONVOLUTIONS),
    "boft-three-factors": Case("BOFTConfig", {"boft_block_size": 6, "boft_n_butterfly_factor": 3}, LINEAR[1:3]),
    "hra": Case("HRAConfig", {"r": 6}, WITH_CONVOLUTIONS),
    "hra-odd": Case("HRAConfig", {"r": 3, **RANDOM}),
    "hra-gram-schmidt": Case("HRAConfig", {"r": 6, "apply_GS": True}, WITH_CONVOLUTIONS),
    "deft": Case("DeftConfig", {"r": 4}),
    "deft-alpha": Case("DeftConfig", {"r": 4, "alpha": 6}),
    "deft-qr": Case("DeftConfig", {"r": 4, "decomposition_method": "qr"}),
    "deft-para": Case("DeftConfig", {"r": 4, "para": True}),
    "deft-para-qr": Case("DeftConfig", {"r": 4, "para": True, "decomposition_method": "qr"}),
    "c3a": Case("C3AConfig", {"block_size": 8}),
    "c3a-pattern": Case("C3AConfig", {"block_size": 8, "block_size_pattern": {"to_q": 16}}),
    "delora": Case("DeloraConfig", {"r": 4, "delora_lambda": 12}),
    "delora-pattern": Case("DeloraConfig", {"r": 4, "rank_pattern": {"to_q": 7}, **RANDOM}),
    "gralora": Case("GraloraConfig", {"r": 8, "alpha": 12, "gralora_k": 2}),
    "gralora-hybrid": Case("GraloraConfig", {"r": 8, "hybrid_r": 3, "gralora_k": 4}),
    "hira": Case("HiraConfig", {"r": 4}, WITH_CONVOLUTIONS),
    "miss": Case("MissConfig", {"r": 8}),
    "miss-uneven": Case("MissConfig", {"r": 5}),
    "miss-mini": Case("MissConfig", {"r": 8, "mini_r": 16, "init_weights": "mini"}),
    "miss-bat": Case("MissConfig", {"r": 8, "init_weights": "bat"}),
    "bone": Case("BoneConfig", {"r": 8}),
    "bone-uneven": Case("BoneConfig", {"r": 5}),
    "bone-bat": Case("BoneConfig", {"r": 8, "init_weights": "bat"}),
    "ln-tuning": Case("LNTuningConfig", {}, NORMS),
    "shira": Case("ShiraConfig", {"r": 2, "random_seed": 3}),
}  # fmt: skip
MISSING = {"0.18.1": {"DeftConfig", "GraloraConfig", "HiraConfig"}, "0.21.2": {"BoneConfig"}}  # in the pinned releases
ABOUT_ONE = ("boft_s", "ln_tuning_layers")  # multipliers and whole weights
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own


class BlockDiagonal:
    """What PEFT's CUDA extension computes; without the extension PEFT makes one factor of BOFT, whatever is set."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Trained-looking values in what the tuner added."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            values = torch.randn_like(parameter)
            about_one = any(word in name for word in ABOUT_ONE) or "delora_lambda" in name
            parameter.copy_(parameter * (1 + 0.2 * values) + 0.02 * values if about_one else 0.3 * values)


def trained(name: str, unet: nn.Module) -> nn.Module:
    """A PeftModel in float64, or a skip where this release of PEFT has no such tuner."""
    peft, case = trainer_oracles.peft(), CASES[name]
    if not hasattr(peft, case.config):
        pytest.skip(f"PEFT {peft.__version__} has no {case.config}")
    config = getattr(peft, case.config)(target_modules=list(case.layers), **case.options)
    if "factors" not in name:
        return _filled(peft.get_peft_model(unet, config))
    layers = peft.tuners.boft.layer
    with patch.object(layers, "get_fbd_cuda", lambda: True):
        return _filled(peft.get_peft_model(unet, config))


def _filled(model: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    model.double()
    randomise(model)
    return model.eval()


@pytest.fixture
def block_diagonal(monkeypatch):
    layers = pytest.importorskip("peft.tuners.boft.layer", reason="this PEFT has no BOFT")
    monkeypatch.setattr(layers, "FastBlockDiag", BlockDiagonal)


def saved(model: nn.Module, folder: Path) -> Adapter:
    """As PEFT's own scripts save: two files in a folder."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return open_adapter(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def plain():
    """A few layers under the names that they have in Stable Diffusion's UNet."""
    torch.manual_seed(0)
    unet = nn.Module()
    for path, layer in LAYERS.items():
        parent, *between, name = unet, *path.split(".")
        for part in between:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(name, layer())
    for parameter in unet.requires_grad_(False).parameters():
        parameter.add_(torch.rand_like(parameter) * 0.1)  # norms start from ones and zeros, which hide mistakes
    return unet


def test_the_pinned_releases_have_all_tuners_between_them():
    peft = trainer_oracles.peft()
    missing = {case.config for case in CASES.values() if not hasattr(peft, case.config)}
    assert missing == MISSING.get(peft.__version__, missing)
    assert not set.intersection(*MISSING.values())


@pytest.mark.usefixtures("block_diagonal")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_merged_weights_and_outputs_are_pefts(name, plain, tmp_path):
    theirs, ours = trained(name, copy.deepcopy(plain)), copy.deepcopy(plain)
    adapter = saved(theirs, tmp_path)
    with Session(unet=ours) as session:
        (report,) = session.activate([Request(adapter)]).adapters
        assert (report.error, report.unmatched, report.matched) == (None, [], len(CASES[name].layers))
        assert adapter.skipped == ()
        assert not any("is missing" in note for note in adapter.notes)
        for path in CASES[name].layers:
            layer, original, merged = (m.get_submodule(path) for m in (theirs.base_model.model, plain, ours))
            x = _inputs(original).double()
            forward = layer(x)
            layer.merge()
            _same(merged.weight, layer.get_base_layer().weight, original.weight)
            bias = None if merged.bias is None else merged.bias.double()
            assert (bias is None) == (layer.get_base_layer().bias is None)
            if bias is not None:
                torch.testing.assert_close(bias, layer.get_base_layer().bias, rtol=1e-6, atol=1e-7)
            output = trainer_oracles.apply(original, x, merged.weight.double(), bias)
            trainer_oracles.assert_same(output, forward)
    for (key, now), before in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(now, before), key


def _inputs(layer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if isinstance(layer, nn.Linear):
        return torch.randn(3, 2, layer.in_features, generator=generator)
    if isinstance(layer, nn.LayerNorm):
        return torch.randn(3, 2, *layer.normalized_shape, generator=generator)
    return torch.randn(2, layer.weight.shape[1 if layer.weight.ndim > 1 else 0], 5, 5, generator=generator)


def _same(ours: Tensor, theirs: Tensor, original: Tensor) -> None:
    """To two millionths of the largest weight, and the tuner changed ten thousand times more than that."""
    largest = float(theirs.abs().max())
    assert float((theirs - original).abs().max()) > 2e-2 * largest
    torch.testing.assert_close(ours.double(), theirs, rtol=0.0, atol=2e-6 * largest)


@pytest.mark.usefixtures("block_diagonal")
@pytest.mark.parametrize("name", CASES)
def test_names_with_the_adapters_name_inside_are_the_same_layers(name, plain, tmp_path):
    """A state_dict that was saved without PEFT's help has `.default` in its names."""
    theirs = trained(name, copy.deepcopy(plain))
    adapter = saved(theirs, tmp_path)
    added = {key: value for key, value in theirs.state_dict().items() if ".default" in key}
    if "shira" in name:
        added |= {f"base_model.model.{path}.shira_indices.default": value for path, value in _places(theirs).items()}
    save_file({key: value.contiguous() for key, value in added.items()}, tmp_path / "raw.safetensors")
    raw = open_adapter(tmp_path / "raw.safetensors")
    assert {m.key: (m.algorithm, dict(m.shapes)) for m in raw.layers} == {
        m.key: (m.algorithm, dict(m.shapes)) for m in adapter.layers
    }
    assert raw.skipped == ()


def _places(model: nn.Module) -> dict[str, Tensor]:
    return {path: model.base_model.model.get_submodule(path).shira_indices["default"] for path in LINEAR}


@pytest.mark.parametrize(
    ("name", "words"),
    [("hra-gram-schmidt", "'apply_GS'"), ("deft-alpha", "'decomposition_method'"), ("gralora", "'alpha'")],
)
def test_a_file_without_the_config_that_it_needs_says_so(name, words, plain, tmp_path):
    saved(trained(name, copy.deepcopy(plain)), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert words in "\n".join(open_adapter(tmp_path / "adapter_model.safetensors").notes)
