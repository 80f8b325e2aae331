"""A layer that is given W' for one call, where that is less work than the delta beside it: seldom seen from outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching import patched_forward
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for

FIRST, SECOND = 0, 1
NOW = SamplingStep(1, 3)
LAYERS = {"linear": lambda: nn.Linear(24, 16), "conv": lambda: nn.Conv2d(24, 16, 3, padding=1, stride=2)}
SIZES = {"little to look at": 2, "much to look at": 40}


def x_for(layer, rows, size):
    generator = torch.Generator().manual_seed(2)
    shape = (rows, 24, size, size) if isinstance(layer, nn.Conv2d) else (rows, size * size, 24)
    return torch.randn(shape, generator=generator)


@pytest.fixture(params=list(LAYERS))
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]()


@pytest.fixture
def model(layer):
    return nn.ModuleDict({"conv_in": layer})


@pytest.fixture(params=["LoRA", "LoKr"])
def asked(request, model, tmp_path):
    """Two adapters, by their strengths."""
    made = [adapter_for(model, tmp_path / f"{n}.safetensors", MAKERS[request.param], seed=n) for n in (1, 2)]
    return lambda one, two, **more: [Request(a, unet=s, **more) for a, s in zip(made, (one, two), strict=True)]


@pytest.fixture
def lent(monkeypatch):
    """The calls with W'."""
    calls = []

    def counted(module, made, call):
        calls.append(len(made))
        return original(module, made, call)

    original = patched_forward.call_with_weights
    monkeypatch.setattr(patched_forward, "call_with_weights", counted)
    return calls


def plainly(layer, requests, x):
    model = nn.ModuleDict({"conv_in": layer})
    with Session(unet=model) as session:
        session.activate(requests)
        return layer(x)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("size", list(SIZES))
def test_either_way_is_the_sum(model, layer, asked, lent, size, around):  # noqa: PLR0917
    x = x_for(layer, 2, SIZES[size])
    place = layer.weight.data_ptr()
    with around():
        plain, wanted = layer(x), plainly(layer, asked(0.5, -0.3), x)
        with Session(unet=model, mode="live") as session:
            session.activate(asked(parse_curve("1@0,0@1"), -0.3), NOW)
            close(layer(x), wanted)
            session.set_step(SamplingStep(2, 3))
            close(layer(x), plainly_twin(layer, asked(0.0, -0.3), x, session))
        assert torch.equal(layer(x), plain)
    assert bool(lent) == (SIZES[size] == 40)
    assert layer.weight.data_ptr() == place
    assert not session._forward_patcher._buffers._free


def plainly_twin(layer, requests, x, session):
    """On a layer that nothing is done to now."""
    twin = type(layer)(24, 16) if isinstance(layer, nn.Linear) else nn.Conv2d(24, 16, 3, padding=1, stride=2)
    twin.load_state_dict(layer.state_dict())
    assert session.active
    return plainly(twin, requests, x)


@pytest.mark.parametrize("rows", [[0, 1], [1, 0, 0], [0, 1, 0, 1], [1, 1, 0], [5, 0]])
@pytest.mark.parametrize("size", list(SIZES))
def test_rows_either_way(model, layer, asked, size, rows):
    x = x_for(layer, len(rows), SIZES[size])
    with torch.no_grad():
        plain = layer(x)
        alone = [plainly(layer, asked(*strengths), x) for strengths in ((0.6, 0.0), (0.0, -0.4))]
        wanted = [alone[row][n] if row < 2 else plain[n] for n, row in enumerate(rows)]
        with Session(unet=model) as session:
            one, two = asked(0.6, -0.4)
            scopes = [Request(one.adapter, unet=0.6, rows=frozenset({0}))]
            scopes.append(Request(two.adapter, unet=-0.4, rows=frozenset({1})))
            session.activate(scopes, NOW)
            session.set_step(NOW, rows)
            session._controller._plan.set_rows(rows)  # a layer alone has no UNet around it that says how many
            for _ in range(2):
                close(layer(x), torch.stack(wanted))


def test_a_row_of_nobody_is_left_alone_to_the_bit(model, layer, asked, lent):
    x = x_for(layer, 3, 2)
    with torch.no_grad(), Session(unet=model) as session:
        plain = layer(x)
        session.activate(asked(0.6, 0.3, rows=frozenset({SECOND})), NOW)
        session.set_step(NOW, rows := [FIRST, SECOND, FIRST])
        session._controller._plan.set_rows(rows)
        found = layer(x)
    assert torch.equal(found[::2], plain[::2])
    assert not torch.equal(found[1], plain[1])
    assert not lent


def test_gradients_are_those_of_the_sum(model, layer, asked, lent):
    """What autograd keeps is the parameter: it must not have held anything else meanwhile."""
    seen = []
    for mode in ("merged", "live"):
        x = x_for(layer, 2, 40).requires_grad_()
        with Session(unet=model, mode=mode) as session:
            session.activate(asked(0.5, -0.3), NOW)
            layer(x).square().sum().backward()
        seen.append(x.grad)
    close(*seen)
    assert not lent


def test_inside_autocast(model, layer, asked, lent):
    """It remembers a parameter's cast for as long as it lasts."""
    x = x_for(layer, 2, 40)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Session(unet=model, mode="live") as s:
        plain = layer(x).float()
        s.activate(asked(0.5, 2.0), NOW)
        found = layer(x).float()
    assert float((found - plain).abs().max()) > 0.1
    assert not lent
