"""One layer with adapters live on it: beside it or with W' in place, by the work; and whatever else its forward is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib_adapters import Request, Session
from lib_adapters.patching import patched_forward
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for

NOW = SamplingStep(0, 2)
MUCH = 4000  # tokens


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(8, 6).requires_grad_(False)


@pytest.fixture
def model(layer):
    return nn.ModuleDict({"conv_in": layer})


@pytest.fixture
def asked(model, tmp_path):
    made = {n: adapter_for(model, tmp_path / f"{n}.safetensors", seed=n) for n in (1, 2)}
    return lambda n=1, **more: Request(made[n], **more)


@pytest.fixture
def lent(monkeypatch):
    """The calls with W' in place."""
    calls, original = [], patched_forward.call_with_weights
    monkeypatch.setattr(patched_forward, "call_with_weights", lambda *given: calls.append(1) or original(*given))
    return calls


def tokens(count, rows=1):
    return torch.randn(rows, count, 8, generator=torch.Generator().manual_seed(4))


def delta(model, request, x):
    """ΔW·x"""
    layer = model["conv_in"]
    with Session(unet=model) as session:
        before = layer.weight.data
        session.activate([request])
        return functional.linear(x, layer.weight.data - before)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def chosen(session, rows):
    session.set_step(NOW, rows)
    session._controller._plan.set_rows(rows)  # a layer alone has no UNet around it that says how many


@pytest.mark.parametrize(("count", "calls"), [(1, 0), (7, 0), (8, 1), (MUCH, 1)])
def test_w_is_lent_where_that_is_less_work(model, layer, asked, lent, count, calls):  # noqa: PLR0917
    """Of rank 2: 66 products for each of its 48 numbers, against 2·(8 + 6) + 64·6 for each token."""
    x = tokens(count)
    wanted = layer(x) + delta(model, asked(), x)
    with torch.no_grad(), Session(unet=model, mode="live") as session:
        session.activate([asked()])
        close(layer(x), wanted)
    assert len(lent) == calls


@pytest.mark.parametrize(
    ("rows", "count", "calls"),
    [
        ([1, 2, 1, 2], 29, 0),
        ([1, 2, 1, 2], 30, 2),  # twice 68·48, and 64·6 to join them, against 4·(8 + 6) + 64·6 for each token
        ([1, 1, 1, 2], 30, 2),
        ([1, 2, 1, 0], MUCH, 0),  # what is joined is more than the fourth row
        ([1, 2, 1, 2] * 4, 7, 0),
        ([1, 2, 1, 2] * 4, 8, 2),
    ],
)
def test_rows_are_grouped_where_that_is_less_work(model, layer, asked, lent, rows, count, calls):  # noqa: PLR0917
    x = tokens(count, len(rows))
    wanted = layer(x)
    for n in (1, 2):
        wanted += delta(model, asked(n), x) * torch.tensor([float(row == n) for row in rows]).view(-1, 1, 1)
    with torch.no_grad(), Session(unet=model) as session:
        session.activate([asked(n, rows=frozenset({n})) for n in (1, 2)], NOW)
        chosen(session, rows)
        close(layer(x), wanted)
        assert not layer.forward.__func__._merged_cache  # nothing as large as a weight
    assert len(lent) == calls


@pytest.mark.parametrize("count", [1, MUCH])
def test_a_forward_of_somebodys_own_is_asked_and_what_it_gives_is_his(model, layer, asked, lent, count):
    """It may not read the weight at all; and it may give the same tensor each time."""
    x = tokens(count)
    kept = torch.zeros(1, count, 6)
    wanted = kept + delta(model, asked(), x)
    layer.forward = lambda _: kept
    with torch.no_grad(), Session(unet=model, mode="live") as session:
        session.activate([asked()])
        for _ in range(2):
            close(layer(x), wanted)
    assert not kept.any()
    assert not lent


@pytest.mark.parametrize("count", [1, MUCH])
def test_where_the_host_has_a_more_exact_weight_the_delta_runs_beside(model, layer, asked, lent, count):
    x, exact = tokens(count), layer.weight.data * 2
    wanted = layer(x) + delta(model, asked(), x)
    with torch.no_grad(), Session(unet=model, mode="live", base_of=lambda module, name: exact) as session:
        session.activate([asked()])
        close(layer(x), wanted)
    assert not lent


def test_a_class_may_give_its_output_in_any_layout(model, layer, asked, monkeypatch):
    x, original = tokens(2, rows=3), nn.Linear.forward
    wanted = layer(x) + delta(model, asked(), x)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: original(self, x).mT.contiguous().mT)
    with torch.no_grad(), Session(unet=model, mode="live") as session:
        session.activate([asked()])
        close(layer(x), wanted)


def test_what_autograd_keeps_of_an_output_is_not_written_into(model, layer, asked, monkeypatch):
    x, original = tokens(1).requires_grad_(), nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: original(self, x).sigmoid())
    with Session(unet=model, mode="live") as session:
        session.activate([asked()])
        layer(x).sum().backward()
    twin = tokens(1).requires_grad_()
    (layer(twin).sum() + delta(model, asked(), twin).sum()).backward()
    close(x.grad, twin.grad)


def test_a_part_of_a_weight_is_the_same_both_ways(tmp_path):
    narrow, wide = (nn.ModuleDict({"conv_in": nn.Conv2d(n, 8, 3)}).requires_grad_(False) for n in (4, 9))
    request, x, seen = Request(adapter_for(narrow, tmp_path / "a.safetensors")), torch.randn(1, 9, 3, 3), []
    for mode in ("merged", "live"):
        with Session(unet=wide, mode=mode) as session:
            session.activate([request])
            seen.append(wide["conv_in"](x))
    close(*seen)


class Scaled(nn.Linear):
    """With an argument of its own, as some hosts' layers have."""

    def forward(self, input, scale=1.0):
        return super().forward(input) * scale


@pytest.mark.parametrize("kind", ["LoRA", "OFT"])
@pytest.mark.parametrize("call", [lambda f, x: f(input=x), lambda f, x: f(x, 2.0), lambda f, x: f(x, scale=2.0)])
def test_however_it_is_called_it_gives_the_same(tmp_path, kind, call):
    model = nn.ModuleDict({"conv_in": Scaled(8, 8)}).requires_grad_(False)
    layer, x = model["conv_in"], tokens(2, rows=2)
    request = Request(adapter_for(model, tmp_path / "a.safetensors", MAKERS[kind]))
    plain = call(layer, x)
    with Session(unet=model) as session:
        session.activate([request])
        wanted = call(layer, x)
    with Session(unet=model, mode="live") as session:
        session.activate([request])
        close(call(layer, x), wanted)
    with Session(unet=model) as session:
        session.activate([Request(request.adapter, rows=frozenset({1}))], NOW)
        chosen(session, [0, 1])
        assert not session._forward_patcher.rows_unresolved
        assert torch.equal(call(layer, x), plain)  # which is which it cannot know
        layer(x)
        assert session._forward_patcher.rows_unresolved  # in this picture


def test_rows_that_cannot_be_told_apart_once_are_lost_for_the_picture(model, layer, asked):
    with torch.no_grad(), Session(unet=model) as session:
        session.activate([asked(rows=frozenset({1}))], NOW)
        chosen(session, [0, 1])
        layer(tokens(2, rows=2))
        assert not session._forward_patcher.rows_unresolved
        x = tokens(2, rows=3)
        assert torch.equal(layer(x), nn.Linear.forward(layer, x))
        assert session._forward_patcher.rows_unresolved
        layer(tokens(2, rows=2))
        assert session._forward_patcher.rows_unresolved


def test_at_a_strength_of_zero_it_is_the_layer_to_the_bit(model, layer, asked):
    x = tokens(3)
    plain = layer(x)
    with torch.no_grad(), Session(unet=model) as session:
        session.activate([asked(unet=parse_curve("1@0,0@1"), mode="live"), asked(2, unet=0.0)], NOW)
        assert not torch.equal(layer(x), plain)
        session.set_step(SamplingStep(1, 2))
        assert torch.equal(layer(x), plain)


def test_where_rows_are_is_found_once_while_their_strengths_stay(model, layer, asked, monkeypatch):
    seen, original = [], patched_forward.RowStrengths.layout
    monkeypatch.setattr(patched_forward.RowStrengths, "layout", lambda *given: seen.append(1) or original(*given))
    with torch.no_grad(), Session(unet=model, mode="live") as session:
        session.activate([asked(rows=frozenset({1})), asked(2)], NOW)
        counts = []
        for rows, repeated in (([0, 1], 1), ([0, 1], 1), ([0, 1], 2), ([1, 0], 2), ([1, 0], 2)):
            chosen(session, rows)
            layer(tokens(2, rows=2 * repeated))
            counts.append(len(seen))
    assert counts == [1, 1, 2, 3, 3]
