"""Rotations and T-LoRA against the forward of the releases that trained such files."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import nn

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import ShapeMismatch
from tests.support import trainer_oracles

ALL_STRENGTHS, ONE = (1.0, 0.5, -1.0, 2.0), (1.0,)
DIAG = ("2.0.0", "2.0.2")  # store R; what follows stores its generator
UNSTORED = "2.1.0"  # trained with a constraint that no file tells
SINCE = ("2.1.0.post3", "2.2.0", "3.0.0.post1", "3.1.0", "3.2.0.post2", "3.4.0", "4.1.3")
BUTTERFLY = tuple(v for v in SINCE if v != "3.2.0.post2")  # its rebuilding forward raises
PER_FACTOR = ("3.0.0.post1", "3.1.0", "3.4.0", "4.1.3")  # before, strength reached the first factor alone
BUTTERFLY_BYPASS = ("3.0.0.post1", "3.1.0", "3.2.0.post2", "4.1.3")
FORMS = ("linear", "conv3x3", "conv1x1")


class Case(NamedTuple):
    name: str
    options: Mapping = MappingProxyType({})
    releases: tuple[str, ...] = SINCE
    layers: tuple[str, ...] = FORMS
    strengths: tuple[float, ...] = ALL_STRENGTHS
    bypass: bool = False


OFT, BOFT, TLORA = "diag_oft.DiagOFTModule", "boft.ButterflyOFTModule", "tlora.TLoraModule"
TIGHT, RESCALED, BYPASS = {"constraint": 0.05}, {"rescaled": True}, {"bypass_mode": True}
CASES = {
    "oft": Case(OFT, releases=(*DIAG, UNSTORED, *SINCE)),
    "oft-constraint": Case(OFT, TIGHT, (*DIAG, *SINCE)),
    "oft-loose": Case(OFT, {"constraint": 50.0}, (*DIAG, *SINCE)),
    "oft-rescaled": Case(OFT, RESCALED, SINCE, strengths=ONE),
    "oft-rescaled-diag": Case(OFT, RESCALED, DIAG),
    "oft-rescaled-columns": Case(OFT, RESCALED, (UNSTORED,), ("square",), ONE),
    "oft-bypass-first": Case(OFT, BYPASS, ("2.2.0",), bypass=True),  # the 3.x ones raise
    "oft-bypass": Case(OFT, BYPASS, ("4.1.3",), strengths=ONE, bypass=True),
    "oft-bypass-rescaled": Case(OFT, {**BYPASS, **RESCALED}, ("4.1.3",), strengths=ONE, bypass=True),
    "boft-first": Case(BOFT, releases=(UNSTORED, *BUTTERFLY), strengths=ONE),
    "boft": Case(BOFT, releases=PER_FACTOR),
    "boft-constraint": Case(BOFT, TIGHT, PER_FACTOR),
    "boft-constraint-first": Case(BOFT, TIGHT, BUTTERFLY, strengths=ONE),
    "boft-rescaled": Case(BOFT, RESCALED, PER_FACTOR),
    "boft-bypass-first": Case(BOFT, BYPASS, ("2.2.0",), ("linear",), ONE, bypass=True),
    "boft-bypass": Case(BOFT, BYPASS, BUTTERFLY_BYPASS, strengths=ONE, bypass=True),
    "boft-bypass-rescaled": Case(BOFT, {**BYPASS, **RESCALED}, BUTTERFLY_BYPASS, strengths=ONE, bypass=True),
    "tlora": Case(TLORA, releases=("4.1.3",), layers=("linear", "conv1x1")),
}  # fmt: skip
RUNS = [(name, release, form) for name, case in CASES.items() for release in case.releases for form in case.layers]


def layer(form: str) -> nn.Module:
    return nn.Linear(16, 16) if form == "square" else trainer_oracles.layer(form)


def trained(case: Case, release: str, base: nn.Module) -> nn.Module:
    file, name = case.name.split(".")
    cls = getattr(trainer_oracles.lycoris(release, file), name)
    options = {"lora_dim": 4, "alpha": 2.0, **case.options}
    if "constrain" in inspect.signature(cls).parameters and "constraint" in options:
        options["constrain"] = options.pop("constraint")  # spelled so before 3.0
    module = cls("layer", base, **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_("rescale" in name).add_(torch.randn_like(parameter) * 0.2)
    module.apply_to()
    return module


def read(leaves: dict[str, torch.Tensor], facts: TrainingInfo):
    leaves = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    return select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(leaves, facts)


def saved(module: nn.Module) -> dict[str, torch.Tensor]:
    own = getattr(module, "custom_state_dict", lambda: None)()
    return module.state_dict() if own is None else own


@pytest.mark.parametrize(("name", "release", "form"), RUNS)
def test_layer_outputs_are_the_trainers(name, release, form):
    torch.manual_seed(0)
    case, base = CASES[name], layer(form)
    x = trainer_oracles.inputs(base)
    module = trained(case, release, copy.deepcopy(base))
    adapter = read(saved(module), TrainingInfo(producer="lycoris", bypass_mode=case.bypass))
    for strength in case.strengths:
        module.multiplier = strength
        with torch.no_grad():
            expected = module(x)
        trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, strength), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["oft-constraint", "boft", "tlora"])
def test_half_files_are_what_the_trainer_loads_from_them(name, dtype):
    torch.manual_seed(0)
    base = layer("linear")
    x = trainer_oracles.inputs(base)
    module = trained(CASES[name], "4.1.3", copy.deepcopy(base))
    leaves = {k: v.detach().to(dtype) for k, v in saved(module).items()}
    module.load_state_dict({k: v.float() for k, v in leaves.items()}, strict=False)
    if name != "tlora":
        module.constraint = float(leaves["alpha"]) * 16
    with torch.no_grad():
        expected = module(x)
    trainer_oracles.assert_same(trainer_oracles.with_adapter(read(leaves, TrainingInfo()), base, x, 1.0), expected)


@pytest.mark.parametrize("form", ["linear", "conv1x1"])
def test_tlora_with_its_start_stored_does_not_read_the_weight(form):
    torch.manual_seed(0)
    base = layer(form)
    x = trainer_oracles.inputs(base)
    module = trained(CASES["tlora"], "4.1.3", copy.deepcopy(base))
    start = {name: getattr(module, name) for name in ("base_q", "base_p", "base_lambda")}
    adapter = read({**saved(module), **start}, TrainingInfo())
    with torch.no_grad():
        expected = module(x)
        base.weight.mul_(2)
        ours = trainer_oracles.with_adapter(adapter, base, x, 1.0) - base(x)
        base.weight.div_(2)
        trainer_oracles.assert_same(ours + base(x), expected)


PEFT_OPTIONS = {
    "series": {"use_cayley_neumann": True},
    "exact": {"use_cayley_neumann": False},
    "shared": {"use_cayley_neumann": True, "block_share": True},
}


def by_peft(form: str, options: dict) -> tuple[nn.Module, nn.Module, TrainingInfo]:
    trainer_oracles.peft()
    from peft.tuners.oft import layer as oft

    torch.manual_seed(0)
    base = layer(form)
    kind = oft.Linear if isinstance(base, nn.Linear) else oft.Conv2d
    module = kind(copy.deepcopy(base), "default", r=0, oft_block_size=4, init_weights=False, **options)
    facts = TrainingInfo(producer="peft", overrides={"use_cayley_neumann": float(options["use_cayley_neumann"])})
    return base, module, facts


@pytest.mark.parametrize("options", PEFT_OPTIONS.values(), ids=PEFT_OPTIONS.keys())
@pytest.mark.parametrize("form", ["linear", "conv1x1"])
def test_input_rotations_are_pefts(form, options):
    base, module, facts = by_peft(form, options)
    x = trainer_oracles.inputs(base)
    adapter = read({"oft_R.weight": module.oft_R["default"].weight}, facts)
    with torch.no_grad():
        expected = module(x)
    trainer_oracles.assert_same(trainer_oracles.with_adapter(adapter, base, x, 1.0), expected)


def test_pefts_rotated_patches_are_refused():
    base, module, facts = by_peft("conv3x3", PEFT_OPTIONS["series"])
    with pytest.raises(ShapeMismatch, match="patches"):
        read({"oft_R.weight": module.oft_R["default"].weight}, facts).check_shape(tuple(base.weight.shape))
