"""Every LyCORIS module that we read, against the forward of the releases that trained such files."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import nn

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, TrainingInfo
from tests.support import trainer_oracles

STRENGTHS = (1.0, 0.5, -1.0, 2.0)
TWO = ("1.8.2", "1.9.0", "2.0.0", "2.2.0", "2.2.0.post3")
THREE = ("3.0.0.post1", "3.2.0.post2", "3.4.0", "4.1.3")
ALL = (*TWO, *THREE)
FORWARD_BROKEN = "3.0.0.post1"  # its LoHa used w1_a for both halves


class Case(NamedTuple):
    module: str
    name: str
    options: Mapping[str, object] = MappingProxyType({})
    releases: tuple[str, ...] = ALL
    layers: tuple[str, ...] = trainer_oracles.LAYERS
    facts: Mapping[str, bool] = MappingProxyType({})
    strengths: tuple[float, ...] = STRENGTHS


TUCKER = {"use_cp": True, "use_tucker": True}
DORA = {"weight_decompose": True}
RS = {"rs_lora": True}
NOT_BOTH = tuple(v for v in ALL if v not in ("1.9.0", "2.0.0"))  # their forward raises with both factors split
FULL = tuple(v for v in ALL if v not in ("1.8.2", "3.4.0"))  # not there yet; its forward raises
LOHA = tuple(v for v in ALL if v != FORWARD_BROKEN)
SPATIAL = ("conv3x3",)
POINTS = ("linear", "conv1x1")
ONE = (1.0,)
WITH_DORA = ("2.2.0", "2.2.0.post3", *THREE)

CASES = {
    "lora": Case("locon", "LoConModule"),
    "lora-tucker": Case("locon", "LoConModule", TUCKER, layers=SPATIAL),
    "lora-rs": Case("locon", "LoConModule", RS, THREE, facts=RS),
    "lora-bypass": Case("locon", "LoConModule", {"bypass_mode": True}, ("2.2.0", *THREE), facts={"bypass_mode": True}),
    "loha": Case("loha", "LohaModule", releases=LOHA),
    "loha-tucker": Case("loha", "LohaModule", TUCKER, LOHA, SPATIAL),
    "loha-rs": Case("loha", "LohaModule", RS, LOHA[-3:], facts=RS),
    "lokr": Case("lokr", "LokrModule", {"factor": 2}),
    "lokr-small": Case("lokr", "LokrModule", {"factor": 2, "lora_dim": 2}),
    "lokr-both": Case("lokr", "LokrModule", {"factor": 8, "lora_dim": 1, "decompose_both": True}, NOT_BOTH),
    "lokr-whole": Case("lokr", "LokrModule", {"factor": 4, "lora_dim": 100000}),
    "lokr-tucker": Case("lokr", "LokrModule", {"factor": 2, "lora_dim": 2, **TUCKER}, layers=SPATIAL),
    "lokr-rs": Case("lokr", "LokrModule", {"factor": 2, "lora_dim": 2, **RS}, THREE, facts=RS),
    "lokr-bypass": Case(
        "lokr", "LokrModule", {"factor": 2, "lora_dim": 2, "bypass_mode": True}, ("2.2.0", *THREE),
        layers=("linear",), facts={"bypass_mode": True}, strengths=ONE,
    ),
    "lokr-bypass-conv": Case(
        "lokr", "LokrModule", {"factor": 2, "lora_dim": 2, "bypass_mode": True}, ("2.2.0", "4.1.3"),
        layers=SPATIAL, facts={"bypass_mode": True}, strengths=ONE,
    ),
    "full": Case("full", "FullModule", releases=FULL, strengths=ONE),
    "ia3": Case("ia3", "IA3Module"),
    "ia3-bypass": Case("ia3", "IA3Module", {"bypass_mode": True}, THREE, facts={"bypass_mode": True}),
    "ia3-on-input": Case("ia3", "IA3Module", {"train_on_input": True}),
    "glora-old": Case("glora", "GLoRAModule", releases=TWO, layers=POINTS),
    "glora": Case("glora", "GLoRAModule", releases=THREE),
    "glora-rs": Case("glora", "GLoRAModule", RS, THREE, facts=RS),
    "glora-bypass": Case("glora", "GLoRAModule", {"bypass_mode": True}, THREE, POINTS, {"bypass_mode": True}),
    "dora": Case("locon", "LoConModule", DORA, WITH_DORA, strengths=ONE),
    "dora-input": Case("locon", "LoConModule", {**DORA, "wd_on_out": False}, WITH_DORA, strengths=ONE),
    "dora-bypass": Case("locon", "LoConModule", {**DORA, "bypass_mode": True}, THREE, facts={"bypass_mode": True}),
    "doha": Case("loha", "LohaModule", DORA, tuple(v for v in WITH_DORA if v != FORWARD_BROKEN), strengths=ONE),
    "dokr": Case("lokr", "LokrModule", {"factor": 2, "lora_dim": 2, **DORA}, WITH_DORA, strengths=ONE),
}  # fmt: skip
RUNS = [(n, v, kind) for n, case in CASES.items() for v in case.releases for kind in case.layers]


def trained(case: Case, version: str, base: nn.Module) -> nn.Module:
    cls = getattr(trainer_oracles.lycoris(version, case.module), case.name)
    options = {"lora_dim": 4, "alpha": 2.0, **case.options}
    if case.module == "ia3" and version in TWO:
        del options["lora_dim"], options["alpha"]
    module = cls("layer", base, **options)
    trainer_oracles.randomise(module)
    module.apply_to()
    return module


def read(module: nn.Module, facts: TrainingInfo) -> Algorithm:
    leaves = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(leaves, facts)


def facts_of(version: str, case: Case) -> TrainingInfo:
    return TrainingInfo(producer="lycoris", trained_at=trainer_oracles.started(version), **case.facts)


@pytest.mark.parametrize(("name", "version", "kind"), RUNS)
def test_layer_outputs_are_the_trainers(name, version, kind):
    torch.manual_seed(0)
    case, base = CASES[name], trainer_oracles.layer(kind)
    x = trainer_oracles.inputs(base)
    module = trained(case, version, copy.deepcopy(base))
    adapter = read(module, facts_of(version, case))
    for strength in case.strengths:
        module.multiplier = strength
        with torch.no_grad():
            expected = module(x)
        trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, strength), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "4.1.3" in case.releases])
def test_files_of_half_precision_are_computed_in_float32(name, dtype):
    torch.manual_seed(0)
    case, kind = CASES[name], CASES[name].layers[-1]
    base = trainer_oracles.layer(kind)
    x = trainer_oracles.inputs(base)
    module = trained(case, "4.1.3", copy.deepcopy(base))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(dtype))
        expected = module(x)
    whole = name == "full"  # a difference of rounded weights is not itself a rounded number
    leaves = {leaf: v if whole or not v.ndim else v.to(dtype) for leaf, v in module.state_dict().items()}
    adapter = select_algorithm({leaf: tuple(v.shape) for leaf, v in leaves.items()}).from_tensors(
        leaves, facts_of("4.1.3", case)
    )
    trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, 1.0), expected)


@pytest.mark.parametrize("version", FULL)
@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8)], ids=["layer", "group"])
def test_norms(norm, version):
    torch.manual_seed(0)
    base = copy.deepcopy(norm)
    trainer_oracles.randomise(base)
    x = torch.randn(3, 8)
    module = trained(Case("norms", "NormModule", {"lora_dim": None}), version, copy.deepcopy(base))
    adapter = read(module, TrainingInfo())
    for strength in STRENGTHS:
        module.multiplier = strength
        with torch.no_grad():
            trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, strength), module(x))


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("kind", trainer_oracles.LAYERS)
@pytest.mark.parametrize("version", ["1.9.0", "2.2.0", *THREE])
def test_dylora_at_every_rank_that_was_trained(version, kind, blocks, monkeypatch):
    torch.manual_seed(0)
    base = trainer_oracles.layer(kind)
    x = trainer_oracles.inputs(base)
    case = Case("dylora", "DyLoraModule", {"lora_dim": 6, "block_size": 2})
    module = trained(case, version, copy.deepcopy(base))
    monkeypatch.setattr("random.randint", lambda low, high: blocks - 1)
    facts = TrainingInfo(producer="lycoris", algo="dylora", block_size=2, trained_at=trainer_oracles.started(version))
    adapter = read(module, facts).truncate(blocks * 2)
    with torch.no_grad():
        trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, 1.0), module(x))
