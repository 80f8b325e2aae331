"""What torch itself remembers of a parameter: for a backward pass, and as its cast while autocast is on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_gradients_through_live_layers_are_those_of_merged_ones(tmp_path, kind, trainable):
    """Autograd keeps parameters themselves, and reads them when the layer holds its own weight again."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3, padding=1)}).requires_grad_(trainable)
    layer, adapter = model["conv_in"], adapter_for(model, tmp_path / "x.safetensors", MAKERS[kind])
    seen = []
    for mode in ("merged", "live"):
        x = torch.ones(2, 4, 5, 5, requires_grad=True)
        with Session(unet=model, mode=mode) as session:
            session.activate([Request(adapter, 0.7)])
            layer(x).square().sum().backward()
        seen.append([x.grad, *(parameter.grad for parameter in model.parameters() if trainable)])
        model.zero_grad()
    for found, wanted in zip(*seen, strict=True):
        close(found, wanted)


@pytest.mark.parametrize("mode", ["merged", "live"])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_strengths_are_followed_inside_one_autocast_block(tmp_path, kind, mode):
    """As in `with torch.autocast("cuda"): pipe(...)`, where casts of trainable weights are kept for all steps."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3, padding=1)})
    layer, adapter = model["conv_in"], adapter_for(model, tmp_path / "x.safetensors", MAKERS[kind])
    x, ramp = torch.ones(2, 4, 5, 5), Request(adapter, parse_curve("0@0,1@1"), mode=mode)
    session = Session(unet=model, mode=mode)

    def step(number):
        session.activate([] if number is None else [ramp], SamplingStep(number or 0, 3))
        return layer(x)

    def inside():
        return torch.autocast("cpu", torch.bfloat16)

    steps = (0, 1, 2, None, 2, None)
    with torch.no_grad():
        wanted = []
        for number in steps:
            with inside():
                wanted.append(step(number))
        with inside():
            found = [step(number) for number in steps]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert not torch.equal(found[0], found[2])
