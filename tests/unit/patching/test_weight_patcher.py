"""Parameters that point at W': when they are computed, what is given back, and what becomes of the memory between."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching import weight_patcher
from lib_adapters.patching.checksum import OriginalChecksums
from lib_adapters.patching.report import ABANDONED
from lib_adapters.patching.weight_patcher import WeightPatcher
from lib_adapters.prompt.schedule import SamplingStep, parse_curve, parse_window
from tests.support.sample_adapters import adapter_for, full, lora

RAMP = parse_curve("0.5@0,1@1")
NAMES = ("conv_in", "conv_out", "time_embed_0")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(16, 16) for name in NAMES}).requires_grad_(False)


@pytest.fixture
def asked(model, tmp_path):
    made = {}

    def request(only=(), seed=1, **more):
        name = f"{'-'.join(only)}{seed}"
        if name not in made:
            made[name] = adapter_for(model, tmp_path / f"{name}.safetensors", lora, only, seed=seed)
        return Request(made[name], **more)

    return request


@pytest.fixture
def events(monkeypatch):
    """Sums, pointers that move, and copies that go to host memory, in their order."""
    done = []

    def noted(what, name):
        original = getattr(weight_patcher, name)
        monkeypatch.setattr(weight_patcher, name, lambda *given: done.append(what) or original(*given))

    noted("sum", "merged_weight")
    noted("move", "assign")
    monkeypatch.setattr(weight_patcher, "to_pinned", lambda tensor: done.append("away") or tensor.clone())
    return done


def weights(model):
    return [layer.weight.data for layer in model.values()]


def copies(model):
    return [weight.clone() for weight in weights(model)]


def same(found, wanted):
    return all(map(torch.equal, found, wanted))


def test_all_sums_come_before_the_first_pointer_moves(model, asked, events):
    with Session(unet=model) as session:
        session.activate([asked()])
        assert events == ["sum"] * 3 + ["move"] * 3
        events.clear()
        session.activate([asked(), asked(only=["conv_out"], seed=2)])
        assert events == ["sum"]  # the others stay, and this one is computed into the memory that it has
        events.clear()
    assert events == ["move"] * 3


@pytest.mark.parametrize("offload", [True, None, False])
@pytest.mark.parametrize("short", [False, True])
def test_short_of_memory_it_is_one_parameter_after_the_other(model, asked, events, monkeypatch, offload, short):  # noqa: PLR0917
    counted = []
    monkeypatch.setattr(weight_patcher, "is_low_on_vram", lambda slots: counted.append(len(list(slots))) or short)
    before = copies(model)
    session = Session(unet=model, offload=offload)
    session.activate([asked()])
    one_by_one = short if offload is None else offload
    assert events == (["sum", "away", "move"] * 3 if one_by_one else ["sum"] * 3 + ["move"] * 3)
    assert counted == ([3] if offload is None else [])
    events.clear()
    session.activate([asked(seed=2)])
    assert "away" not in events  # it is there already
    session.deactivate()
    assert same(weights(model), before)
    assert session.verify()


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("active", [False, True])
def test_a_sum_that_fails_changes_nothing(model, asked, monkeypatch, offload, active):
    session = Session(unet=model, offload=offload)
    session.activate([asked(only=["conv_in"], seed=5)] if active else [])
    before, places = copies(model), [weight.data_ptr() for weight in weights(model)]
    calls, original = [], weight_patcher.merged_weight

    def broken(*given):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return original(*given)

    monkeypatch.setattr(weight_patcher, "merged_weight", broken)
    with pytest.raises(MemoryError):
        session.activate([asked()])
    assert same(weights(model), before)
    assert len(session.active) == active
    assert [weight.data_ptr() for weight in weights(model)] == places
    monkeypatch.undo()
    session.deactivate()
    torch.manual_seed(0)
    assert same(weights(model), [nn.Linear(16, 16).weight for _ in NAMES])
    assert session.verify()


def test_only_replaced_sums_are_let_go_never_what_is_given_back(model, asked, monkeypatch):
    gone = []
    monkeypatch.setattr(
        weight_patcher, "free_async", lambda tensors: gone.append([tensor.data_ptr() for tensor in tensors])
    )
    session = Session(unet=model)
    session.activate([asked()])
    first = [weight.data_ptr() for weight in weights(model)]
    session.activate([asked(seed=2)])
    assert [weight.data_ptr() for weight in weights(model)] == first
    session.activate([asked(only=["conv_in"], seed=2)])
    session.deactivate()
    assert gone == [[], [], first[1:], first[:1]]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_if_overwriting_merged_weights_fails_the_original_ones_are_restored(model, asked, monkeypatch, fails_at):
    original, session, calls, compute = copies(model), Session(unet=model), [], weight_patcher.merged_weight
    session.activate([asked()])

    def broken(pristine, patches, into):
        calls.append(1)
        if len(calls) == fails_at:
            into.zero_()
            raise MemoryError
        return compute(pristine, patches, into)

    monkeypatch.setattr(weight_patcher, "merged_weight", broken)
    with pytest.raises(MemoryError):
        session.activate([asked(unet=0.5)])
    monkeypatch.undo()
    assert same(weights(model), original)
    assert (session.active, session.report.notes, session.verify()) == ((), [ABANDONED], True)
    assert not model._forward_pre_hooks
    session.activate([asked(unet=0.5)])
    assert not same(weights(model), original)
    assert ABANDONED not in session.report.notes


def test_of_a_change_that_overwrites_the_peak_is_what_is_there_already(model, asked):
    """No merged weight is allocated for another strength or another file on the same parameters."""
    original, session = copy.deepcopy(model), Session(unet=model)
    session.activate([asked()])
    places = [weight.data_ptr() for weight in weights(model)]
    for request in (asked(unet=0.5), asked(seed=2), asked(seed=2, unet=-3.0)):
        session.activate([request])
        assert [weight.data_ptr() for weight in weights(model)] == places
        with Session(unet=original) as other:
            other.activate([request])
            assert same(weights(model), weights(original))


def test_weights_that_their_owner_replaced_are_those_that_the_next_is_added_to(model, asked):
    session = Session(unet=model)
    session.activate([asked()])
    new = torch.randn(16, 16)
    model["conv_out"].weight = nn.Parameter(new.clone(), requires_grad=False)
    session.activate([asked(seed=2)])
    found = model["conv_out"].weight.data.clone()
    session.deactivate()
    assert torch.equal(model["conv_out"].weight, new)
    with Session(unet=model) as other:
        other.activate([asked(seed=2)])
        assert torch.equal(model["conv_out"].weight, found)


def test_at_another_step_only_what_changes_is_summed_and_in_its_place(model, asked, events):
    window = parse_window("2", None, None)
    asks = [asked(only=["conv_in"], unet=RAMP, mode="merged"), asked(seed=2, only=["conv_out"], window=window)]
    with Session(unet=model) as session:
        session.activate([*asks, asked(seed=3, only=["conv_out"], unet=0.5)], SamplingStep(0, 4))
        before, places = copies(model), [weight.data_ptr() for weight in weights(model)]
        events.clear()
        session.set_step(SamplingStep(1, 4))
        assert events == ["sum"]
        assert [torch.equal(*pair) for pair in zip(weights(model), before, strict=True)] == [False, True, True]
        session.set_step(SamplingStep(2, 4))
        assert events == ["sum"] * 3
        assert [weight.data_ptr() for weight in weights(model)] == places


def test_what_was_summed_anew_is_known_again_where_the_host_moves_it(model, asked):
    before = copies(model)
    session = Session(unet=model)
    session.activate([asked(unet=RAMP, mode="merged")], SamplingStep(0, 4))
    session.set_step(SamplingStep(2, 4))
    for layer in model.values():
        layer.weight.data = layer.weight.data.clone()
    session.deactivate()
    assert same(weights(model), before)


def test_a_bias_of_nothing_is_not_lent(tmp_path):
    model = nn.ModuleDict({"conv_in": nn.Linear(8, 8, bias=False), "conv_out": nn.Linear(8, 8, bias=False)})
    nothing, some = (
        adapter_for(model, tmp_path / f"{factor}.safetensors", lambda *a, f=factor: scaled(f, *a), [name])
        for factor, name in ((0.0, "conv_in"), (1.0, "conv_out"))
    )
    with Session(unet=model) as session:
        session.activate([Request(nothing), Request(some)])
        assert model["conv_in"].bias is None
        assert model["conv_out"].bias is not None
        session.activate([Request(nothing)])
        assert model["conv_out"].bias is None


def scaled(factor, shape, generator):
    leaves = full(shape, generator)
    return {**leaves, "diff_b": leaves["diff_b"] * factor}


@pytest.mark.parametrize("move", [False, True])
def test_a_more_exact_weight_of_the_hosts_is_what_is_added_to(model, asked, move):
    exact = {id(layer): layer.weight.data.clone() for layer in model.values()}
    with Session(unet=model) as session:
        session.activate([asked()])
        wanted = [weight.bfloat16() for weight in copies(model)]
    model.bfloat16()
    before = copies(model)
    session = Session(unet=model, base_of=lambda module, name: exact[id(module)] if name == "weight" else None)
    request = asked(unet=parse_curve("0@0,1@1"), mode="merged") if move else asked()
    session.activate([request], SamplingStep(0, 2))
    session.set_step(SamplingStep(1, 2))
    assert [weight.dtype for weight in weights(model)] == [torch.bfloat16] * 3
    assert same(weights(model), wanted)
    session.deactivate()
    assert same(weights(model), before)


def test_nothing_applied_is_in_place():
    one = WeightPatcher(OriginalChecksums())
    assert one.is_in_place()
    one.restore()
    assert (one.is_in_place(), one.originals(), one.written_layers()) == (True, {}, [])


def test_a_part_that_was_given_back_is_not_all(model, asked):
    session = Session(unet=model)
    session.activate([asked()])
    assert session._weight_patcher.is_in_place()
    session._weight_patcher.restore_module(nn.Linear(2, 2))  # none of ours
    assert session._weight_patcher.is_in_place()
    session._weight_patcher.restore_module(model["conv_in"])
    assert not session._weight_patcher.is_in_place()
    assert len(session._weight_patcher.originals()) == 2
    session.activate([asked()])
    assert session._weight_patcher.is_in_place()
    assert len(session._weight_patcher.originals()) == 3
    session.deactivate()
