"""PEFT's LoRA, DoRA, rs-LoRA, LoRA with bias, LoHa, LoKr and IA3, against the forward of PEFT's own layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, TrainingInfo
from tests.support import trainer_oracles

CANONICAL = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_B.bias": "lora_up.bias",
    "lora_magnitude_vector": "dora_scale",
}
RANK, ALPHA = 4, 6.0
LORA = {"r": RANK, "lora_alpha": ALPHA}
CASES = {
    "lora": ("LoraConfig", LORA),
    "rs-lora": ("LoraConfig", {**LORA, "use_rslora": True}),
    "lora-bias": ("LoraConfig", {**LORA, "lora_bias": True}),
    "loha": ("LoHaConfig", {"r": RANK, "alpha": ALPHA}),
    "loha-tucker": ("LoHaConfig", {"r": RANK, "alpha": ALPHA, "use_effective_conv2d": True}),
    "lokr": ("LoKrConfig", {"r": 2, "alpha": ALPHA}),
    "lokr-tucker": ("LoKrConfig", {"r": 2, "alpha": ALPHA, "use_effective_conv2d": True}),
    "lokr-both": ("LoKrConfig", {"r": 1, "alpha": ALPHA, "decompose_both": True, "decompose_factor": 8}),
}


def wrapped(base: nn.Module, config: str, options: dict) -> nn.Module:
    """The layer as PEFT trains it, with trained-looking values."""
    peft = trainer_oracles.peft()
    settings = getattr(peft, config)(target_modules=["layer"], **options)
    model = nn.ModuleDict({"layer": copy.deepcopy(base)})
    layer = peft.inject_adapter_in_model(settings, model)["layer"]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            elif "base_layer" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return layer


def read(layer: nn.Module, alpha: float | None, facts: TrainingInfo) -> Algorithm:
    """Names as files/ translates them: the adapter's name is dropped."""
    leaves = {} if alpha is None else {"alpha": torch.tensor(alpha)}
    for key, value in layer.state_dict().items():
        if "base_layer" not in key:
            name = key.replace(".default", "").removesuffix(".weight" if "magnitude" in key else "")
            leaves[CANONICAL.get(name, name)] = value.clone()
    return select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(leaves, facts)


@pytest.mark.parametrize("kind", trainer_oracles.LAYERS)
@pytest.mark.parametrize("name", CASES)
def test_layer_outputs_are_the_trainers(name, kind):
    torch.manual_seed(0)
    config, options = CASES[name]
    base = trainer_oracles.layer(kind)
    x = trainer_oracles.inputs(base)
    layer = wrapped(base, config, options)
    adapter = read(layer, ALPHA, TrainingInfo(producer="peft", rs_lora="rs" in name))
    for strength in (1.0, 0.5, -1.0, 2.0):
        layer.set_scale("default", strength)
        with torch.no_grad():
            trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, strength), layer(x))


@pytest.mark.parametrize("width", [24, 16], ids=["wide", "square"])
@pytest.mark.parametrize("kind", trainer_oracles.LAYERS)
def test_dora(kind, width):
    torch.manual_seed(0)
    base = trainer_oracles.layer(kind, i=width)
    x = trainer_oracles.inputs(base)
    layer = wrapped(base, "LoraConfig", {**LORA, "use_dora": True})
    adapter = read(layer, ALPHA, TrainingInfo(producer="peft"))
    with torch.no_grad():
        trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, 1.0), layer(x))


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("kind", trainer_oracles.LAYERS)
def test_ia3(kind, columns):
    torch.manual_seed(0)
    base = trainer_oracles.layer(kind)
    x = trainer_oracles.inputs(base)
    layer = wrapped(base, "IA3Config", {"feedforward_modules": ["layer"] if columns else []})
    adapter = read(layer, None, TrainingInfo(producer="peft"))
    with torch.no_grad():
        trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, 1.0), layer(x))
