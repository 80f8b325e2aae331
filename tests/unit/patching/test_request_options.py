"""What a request may ask for beside a strength, and what a session remembers of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_adapters import AdapterError, Request, Session, open_adapter
from lib_adapters.prompt.block_weights import BlockWeights, element_rules
from lib_adapters.prompt.schedule import Curve, Position, Window
from tests.support.sample_adapters import adapter_for, lora

MODES = ("merged", "live")


def layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3)}).requires_grad_(False)


def output(model):
    return model["conv_in"](torch.ones(1, 4, 5, 5))


@pytest.fixture
def adapter(tmp_path):
    return adapter_for(layer(), tmp_path / "ink.safetensors", lambda *a: lora(*a, rank=4))


@pytest.fixture
def cut(adapter, tmp_path):
    """The same file with the first two of its four ranks, at the scale that it had."""
    tensors = load_file(adapter.path)
    down, up = "lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight"
    tensors |= {down: tensors[down][:2].clone(), up: tensors[up][:, :2].clone()}
    tensors["lora_unet_conv_in.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "cut.safetensors")
    return open_adapter(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("mode", MODES)
def test_dyn_cuts_an_adapter_to_its_first_ranks(adapter, cut, mode):
    model, other = layer(), layer()
    session = Session(unet=model, mode=mode)
    session.activate([Request(adapter)])
    whole = output(model)
    Session(unet=other, mode=mode).activate([Request(cut)])
    session.activate([Request(adapter, dyn=2)])
    torch.testing.assert_close(output(model), output(other))
    session.activate([Request(adapter, dyn=4)])
    torch.testing.assert_close(output(model), whole)
    assert not torch.allclose(output(other), whole, atol=1e-3)


RISE, LEVEL = (Curve("share", ((0.0, low), (1.0, 0.5))) for low in (0.0, 0.5))


def test_what_moves_and_what_only_looks_like_it(adapter):
    window = Window(start=Position(1.0, "step"))
    for more in ({"unet": RISE}, {"window": window}, {"dyn": RISE}, {"dyn": "timestep"}):
        request = Request(adapter, **more)
        assert (request.is_dynamic("unet"), request.is_dynamic("te")) == (True, False)
    some = Request(adapter, rows=frozenset({1}))
    assert (some.is_dynamic("unet"), some.is_dynamic("te")) == (True, True)
    for still in (Request(adapter, dyn=4), Request(adapter, unet=LEVEL)):
        assert not still.is_dynamic("unet")
    assert Request(adapter, unet=LEVEL).unet == 0.5
    assert [Request(adapter, 0.25, 0.75).strength(part) for part in ("unet", "te")] == [0.25, 0.75]


def test_requests_are_told_apart_by_all_that_they_ask_for(adapter):
    blocks = BlockWeights((("IN05", 0.5),))
    asked = [
        {}, {"unet": 0.5}, {"te": 0.5}, {"dyn": 2}, {"mode": "live"}, {"rows": frozenset()}, {"rows": frozenset({1})},
        {"unet": RISE}, {"window": Window()}, {"blocks": blocks}, {"blocks": replace(blocks, default=0.5)},
        *(
            {"blocks": BlockWeights(rules=element_rules(rule))}
            for rule in ("IN05:attn:0.5", ":attn:0.5", ":NOT attn:0.5")
        ),
    ]  # fmt: skip
    assert len({Request(adapter, **more).key for more in asked}) == len(asked)
    assert all(Request(adapter, **more).key == Request(adapter, **more).key for more in asked)


@pytest.mark.parametrize("strength", [1e9, -1e9])
def test_a_strength_has_an_end(adapter, strength):
    steep = Curve("share", ((0.0, 0.0), (1.0, 2 * strength)))
    assert Request(adapter, unet=strength, te=strength).unet == strength
    for more in ({"unet": 1.1 * strength}, {"te": 1.1 * strength}, {"unet": steep}):
        with pytest.raises(AdapterError, match="at most 1e\\+09"):
            Request(adapter, **more)


def test_dyn_is_a_number_of_ranks(adapter):
    with pytest.raises(AdapterError, match="ink: dyn is a number of ranks"):
        Request(adapter, dyn=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("second", [{"unet": 0.5}, {"unet": -1.0}, {"unet": 1.0, "dyn": 1}, {"unet": 0.0}], ids=str)
def test_whatever_changes_in_a_request_changes_the_model(adapter, mode, second):
    model, fresh = layer(), layer()
    session = Session(unet=model, mode=mode)
    session.activate([Request(adapter)])
    before = output(model)
    session.activate([Request(adapter, **second)])
    Session(unet=fresh, mode=mode).activate([Request(adapter, **second)])
    assert torch.equal(output(model), output(fresh))
    assert not torch.allclose(output(model), before, atol=1e-3)


def test_weights_replaced_by_their_owner_are_nothing_to_answer_for(adapter):
    """As old as the ones they replace: only that they are not ours tells them apart."""
    model = layer()
    model["conv_in"].weight = nn.Parameter(torch.randn(8, 4, 3, 3), requires_grad=False)
    session = Session(unet=model)
    session.activate([Request(adapter)])
    model["conv_in"].weight = nn.Parameter(torch.randn(8, 4, 3, 3), requires_grad=False)
    session.deactivate()
    assert session.verify()


def test_grouped_convolutions_are_the_same_both_ways(tmp_path):
    outputs = []
    for mode in MODES:
        torch.manual_seed(0)
        model = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3, groups=2, padding=1, padding_mode="reflect")})
        adapter = adapter_for(model, tmp_path / "a.safetensors")
        with Session(unet=model, mode=mode) as session:
            assert session.activate([Request(adapter)]).adapters[0].matched == 1
            outputs.append(output(model))
    torch.testing.assert_close(outputs[0], outputs[1])


def with_bias(shape, generator):
    return {**lora(shape, generator), "lora_up.bias": torch.ones(shape[0])}


def test_a_lora_with_a_bias_is_the_same_both_ways(tmp_path):
    outputs, adapter = [], adapter_for(layer(), tmp_path / "a.safetensors", with_bias)
    plain = adapter_for(layer(), tmp_path / "b.safetensors", lora)
    for mode, requested in (("merged", adapter), ("live", adapter), ("live", plain)):
        model = layer()
        Session(unet=model, mode=mode).activate([Request(requested, unet=0.5)])
        outputs.append(output(model))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[1], outputs[2] + 0.5)


def test_a_bias_where_there_can_be_none_is_named(tmp_path):
    model = nn.ModuleDict({"conv_in": nn.Embedding(8, 4)})
    tensors = {"diff": torch.ones(8, 4), "diff_b": torch.ones(8)}
    save_file({f"lora_unet_conv_in.{leaf}": tensor for leaf, tensor in tensors.items()}, tmp_path / "a.safetensors")
    (report,) = Session(unet=model).activate([Request(open_adapter(tmp_path / "a.safetensors"))]).adapters
    assert report.matched == 1
    assert report.unmatched == [("lora_unet_conv_in", "conv_in takes no bias")]


def test_verify_notices_numbers_that_changed_places(adapter):
    model = nn.ModuleDict({"conv_in": nn.Linear(4096, 2)})
    session = Session(unet=model)
    down, up = torch.ones(1, 4096), torch.ones(2, 1)
    save_file({"unet.conv_in.lora_A.weight": down, "unet.conv_in.lora_B.weight": up}, adapter.path)
    session.activate([Request(open_adapter(adapter.path))])
    session.deactivate()
    assert session.verify()
    values = model["conv_in"].weight.data
    values[0, :4] = values[0, :4].flip(0)
    assert not session.verify()
