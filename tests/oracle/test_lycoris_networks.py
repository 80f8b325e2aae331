"""Files of whole LyCORIS networks, opened by the public contract alone: our model draws what the trainer's drew."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session, open_adapter
from tests.support import lycoris_networks
from tests.support.lycoris_networks import assert_same, at_strength, network, run_text, run_unet, saved
from tests.support.tiny_models import clip, diffusers_unet

WIDTH = 32
LINEAR = (1.0, 0.5, -1.0, 2.0)
ONE = (1.0,)  # where the trainer has a rule of its own for other strengths
INNER = (r"down_blocks\.[01]", r"up_blocks\.[23]")  # left out to be quick; "lora" trains everything
MIDDLE = MappingProxyType(
    {"boost": 4.0, "blocks": ["Transformer2DModel"], "outside": [], "without": (r"(down|up)_blocks", r".*layers\.1")}
)


class Case(NamedTuple):
    options: dict[str, Any]
    strengths: tuple[float, ...] = LINEAR
    layout: Any = MappingProxyType({"without": INNER})


DORA, COLUMNS = {"dora_wd": True}, {"dora_wd": True, "wd_on_output": False}
CASES = {
    "lora": Case({"algo": "lora"}, layout={}),
    "lora-scalar": Case({"algo": "lora", "use_scalar": True}),
    "lora-rs": Case({"algo": "lora", "rs_lora": True}),
    "lora-norm": Case({"algo": "lora", "train_norm": True}),
    "locon-tucker": Case({"algo": "locon", "use_tucker": True, "conv_dim": 2, "conv_alpha": 1}),
    "dora": Case({"algo": "lora", **DORA}, ONE),
    "dora-columns": Case({"algo": "lora", **COLUMNS}, ONE),
    "dora-tucker": Case({"algo": "locon", "use_tucker": True, **DORA}, ONE),
    "loha": Case({"algo": "loha"}),
    "loha-tucker": Case({"algo": "loha", "use_tucker": True}),
    "loha-rs": Case({"algo": "loha", "rs_lora": True, "use_scalar": True}),
    "doha": Case({"algo": "loha", **DORA}, ONE),
    "doha-columns": Case({"algo": "loha", **COLUMNS}, ONE),
    "lokr": Case({"algo": "lokr", "factor": 4}),
    "lokr-halves": Case(
        {"algo": "lokr", "dim": 1, "factor": 8, "decompose_both": True, "use_scalar": True},
        layout={"without": INNER, "boost": 2.5},
    ),
    "lokr-full": Case({"algo": "lokr", "full_matrix": True}),
    "lokr-unbalanced": Case({"algo": "lokr", "dim": 2, "unbalanced_factorization": True}),
    "lokr-tucker": Case({"algo": "lokr", "dim": 2, "factor": 2, "use_tucker": True, "rs_lora": True}),
    "dokr": Case({"algo": "lokr", "factor": 4, **DORA}, ONE),
    "dokr-columns": Case({"algo": "lokr", "dim": 2, "factor": 2, **COLUMNS}, ONE),
    "ia3": Case({"algo": "ia3"}),
    "full": Case({"algo": "full"}),
    "dylora": Case({"algo": "dylora", "block_size": 4}),
    "oft": Case({"algo": "diag-oft"}),
    "oft-constraint": Case({"algo": "diag-oft", "constraint": 0.005}),
    "oft-rescaled": Case({"algo": "diag-oft", "rescaled": True}, ONE),
    "boft": Case({"algo": "boft", "dim": 8}),
    "boft-constraint": Case({"algo": "boft", "dim": 8, "constraint": 0.005}),
    "boft-rescaled": Case({"algo": "boft", "dim": 8, "rescaled": True}, ONE),
    "glora": Case({"algo": "glora"}),
    "glora-rs": Case({"algo": "glora", "rs_lora": True, "use_scalar": True}),
    "tlora": Case({"algo": "tlora"}, layout=MIDDLE),  # slow to begin; its larger convolutions cannot run
}


class Pair(NamedTuple):
    unet: nn.Module
    encoder: nn.Module

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        return run_unet(self.unet), run_text(self.encoder)


@pytest.fixture(scope="module")
def pair():
    return Pair(diffusers_unet(context=WIDTH), clip(width=WIDTH, layers=2))


def in_training(pair, case):
    """A copy of the models with the trainer's network in them, and the arguments it stores."""
    theirs = copy.deepcopy(pair)
    stored = {name: value for name, value in case.options.items() if name != "dim"}
    return theirs, network(theirs.unet, [theirs.encoder], **case.options, **case.layout), stored


@pytest.mark.parametrize("name", CASES)
def test_a_whole_network_draws_what_its_trainer_drew(pair, tmp_path, name):
    case, plain = CASES[name], pair.outputs()
    theirs, made, stored = in_training(pair, case)
    adapter = open_adapter(saved(made, tmp_path / "net.safetensors", **stored))
    assert adapter.family == "sd1"
    assert adapter.components == ("unet", "te")
    for strength in case.strengths:
        at_strength(made, strength)
        with Session(unet=pair.unet, text_encoders=[pair.encoder]) as session:
            (report,) = session.activate([Request(adapter, unet=strength, te=strength)]).adapters
            assert (report.error, report.unmatched) == (None, [])
            assert report.matched == report.total == len(made.loras)
            for ours, expected, before in zip(pair.outputs(), theirs.outputs(), plain, strict=True):
                assert_same(ours, expected, before)
    for after, before in zip(pair.outputs(), plain, strict=True):
        assert torch.equal(after, before)


@pytest.mark.parametrize("name", ["lora", "dora", "loha", "lokr", "oft-constraint", "boft", "glora", "ia3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_saved_in_half_is_what_the_trainer_loads_from_it(pair, tmp_path, name, dtype):
    case = CASES[name]
    theirs, made, stored = in_training(pair, case._replace(layout={"without": INNER}))
    path = saved(made, tmp_path / "net.safetensors", dtype, **stored)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.to(dtype))
    for module in made.loras:
        if getattr(module, "constraint", 0):
            module.constraint *= float(torch.tensor(0.005).to(dtype)) / 0.005  # what alpha became
    before = run_unet(pair.unet)
    with Session(unet=pair.unet) as session:
        session.activate([Request(open_adapter(path))])
        assert_same(run_unet(pair.unet), run_unet(theirs.unet), before)


@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner", "sd2"])
def test_other_families(tmp_path, family):
    unet = diffusers_unet(family=family, context=WIDTH)
    kinds = {"sdxl": [(2, False), (3, True)], "sdxl-refiner": [(3, True)], "sd2": [(3, False)]}[family]
    encoders = [clip(width=WIDTH, layers=layers, projection=projection) for layers, projection in kinds]
    theirs = copy.deepcopy([unet, *encoders])
    outside = [*lycoris_networks.OUTSIDE, "add_embedding.linear_1", "add_embedding.linear_2"]
    made = network(theirs[0], theirs[1:], outside=outside, algo="lokr", factor=4, train_norm=True)
    adapter = open_adapter(saved(made, tmp_path / "net.safetensors", algo="lokr", train_norm=True))
    plain = [run_unet(unet), *map(run_text, encoders)]
    expected = [run_unet(theirs[0]), *map(run_text, theirs[1:])]
    with Session(unet=unet, text_encoders=encoders) as session:
        (report,) = session.activate([Request(adapter)]).adapters
        ours = [run_unet(unet), *map(run_text, encoders)]
    assert (report.error, report.unmatched) == (None, [])
    assert report.matched == len(made.loras)
    for mine, trainers_own, before in zip(ours, expected, plain, strict=True):
        assert_same(mine, trainers_own, before)


def test_each_part_has_its_own_strength(pair, tmp_path):
    theirs, made, stored = in_training(pair, CASES["loha"])
    adapter = open_adapter(saved(made, tmp_path / "net.safetensors", **stored))
    for module in made.text_encoder_loras:
        module.multiplier = -0.25
    for module in made.unet_loras:
        module.multiplier = 0.75
    plain = pair.outputs()
    with Session(unet=pair.unet, text_encoders=[pair.encoder], mode="live") as session:
        session.activate([Request(adapter, unet=0.75, te=-0.25)])
        ours = pair.outputs()
    for mine, expected, before in zip(ours, theirs.outputs(), plain, strict=True):
        assert_same(mine, expected, before)
