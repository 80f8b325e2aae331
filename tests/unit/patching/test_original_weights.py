"""What is remembered of each parameter that points at W': where it goes back to, and whose numbers are in it now."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching import weight_patcher
from lib_adapters.patching.report import ABANDONED
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import adapter_for, full, lora

RAMP = parse_curve("1@0,0@1")


def linear(n, **options):
    torch.manual_seed(n)
    return nn.Linear(16, 16, **options).requires_grad_(False)


@pytest.fixture
def model():
    return nn.ModuleDict({"conv_in": linear(1), "conv_out": linear(2), "conv_shortcut": linear(3, bias=False)})


@pytest.fixture
def asked(model, tmp_path):
    made = [adapter_for(model, tmp_path / f"{n}.safetensors", maker, seed=n) for n, maker in enumerate((lora, full))]
    return lambda n=0, **more: Request(made[n], **more)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def alone(model, *requests):
    with Session(unet=model) as session:
        session.activate(requests)
        return state(model)


@pytest.mark.parametrize("offload", [False, True])
def test_one_after_the_other_each_is_as_if_it_were_the_first(model, asked, offload):
    before, wanted = state(model), [alone(model, *some) for some in ([asked(1)], [asked(0), asked(1)], [asked(0)])]
    session = Session(unet=model, offload=offload)
    for some, expected in zip(([asked(1)], [asked(0), asked(1)], [asked(0)]), wanted, strict=True):
        session.activate(some)
        assert same(state(model), expected)
        assert None not in session._weight_patcher.originals().values()
        assert session.verify()
    session.deactivate()
    assert same(state(model), before)


@pytest.mark.parametrize(("n", "lent"), [(0, False), (1, False), (1, True)], ids=["weights", "biases", "lent biases"])
def test_steps_are_merges_and_at_a_strength_of_zero_nothing_is_left(model, asked, n, lent):
    if not lent:
        model["conv_shortcut"] = linear(3)
    before, steps = state(model), [(0, 1.0), (1, 0.75), (3, 0.25), (2, 0.5), (4, 0.0), (1, 0.75)]
    wanted = [alone(model, asked(n, unet=strength)) for _, strength in steps]
    session = Session(unet=model)
    session.activate([asked(n, unet=RAMP, mode="merged")], SamplingStep(0, 5))
    for (step, _), expected in zip(steps, wanted, strict=True):
        session.set_step(SamplingStep(step, 5))
        assert same(state(model), expected)
    assert same(wanted[4], before)
    session.deactivate()
    assert same(state(model), before)


def test_a_sum_may_be_nothing(tmp_path):
    """A bias that becomes 0 is one that changed."""
    model = nn.ModuleDict({"conv_in": linear(1)})
    numbers = {"diff": -model["conv_in"].weight, "diff_b": -model["conv_in"].bias}
    adapter = adapter_for(model, tmp_path / "a.safetensors", lambda *_: numbers)
    with Session(unet=model) as session:
        session.activate([Request(adapter)])
        assert not any(tensor.any() for tensor in model.state_dict().values())


def test_whoever_fails_last_everything_goes_back(model, asked, monkeypatch):
    before, session = state(model), Session(unet=model)
    session.activate([asked(0)])
    first = state(model)

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_update_report", broken)
    with pytest.raises(KeyboardInterrupt):
        session.activate([asked(1)])
    monkeypatch.undo()
    assert same(state(model), before)  # the first one's merged weights have been overwritten
    session.activate([asked(0)])
    assert same(state(model), first)
    session.deactivate()
    assert same(state(model), before)
    assert session.verify()


def test_short_of_memory_what_went_to_the_host_comes_back_from_there(model, asked, monkeypatch):
    """A second copy of it would be in the way."""
    before, places, calls, original = state(model), places_of(model), [], weight_patcher.merged_weight

    def broken(*given):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return original(*given)

    monkeypatch.setattr(weight_patcher, "to_pinned", torch.clone)
    monkeypatch.setattr(weight_patcher, "merged_weight", broken)
    with pytest.raises(MemoryError):
        Session(unet=model, offload=True).activate([asked(0)])
    assert same(state(model), before)
    assert [one == two for one, two in zip(places_of(model), places, strict=True)] == [False, False, True]


def places_of(model):
    return [layer.weight.data_ptr() for layer in model.values()]


def test_restored_wherever_it_was_moved(model, asked):
    before, session = state(model), Session(unet=model)
    session.activate([asked(0)])
    for layer in model.values():
        layer.weight.data = layer.weight.data.clone()
    assert not session._weight_patcher.is_in_place()
    session._weight_patcher.restore()
    assert same(state(model), before)


def replaced(layer, new):
    layer.weight = nn.Parameter(new.clone(), requires_grad=False)


def exchanged(layer, new):
    """Other numbers in the same Parameter."""
    layer.weight.data = new.clone()


@pytest.mark.parametrize("put", [replaced, exchanged])
@pytest.mark.parametrize("how", ["restore_module", "refresh", "restore", "drop_collected"])
def test_what_its_owner_put_there_stays(model, asked, put, how):
    model = copy.deepcopy(model)  # nobody else's: it can be dropped
    before, session, new = state(model), Session(unet=model), torch.randn(16, 16)
    session.activate([asked(0)])
    put(model["conv_in"], new)
    kept = list(model.values())
    if how == "restore_module":
        session._weight_patcher.restore_module(model["conv_in"])
        assert not session._weight_patcher.is_in_place()
    elif how == "drop_collected":
        del model
        gc.collect()
        assert session._components.unet() is None
    else:
        getattr(session._weight_patcher, how)()
        assert not session._weight_patcher.is_in_place()
        session._weight_patcher.restore()
        assert same(state(model), {**before, "conv_in.weight": new})
    assert torch.equal(kept[0].weight, new)
    assert session.verify()


def test_of_a_model_that_is_dropped_the_parts_that_live_on_get_their_own(model, asked, tmp_path):
    model, encoder = copy.deepcopy(model), nn.ModuleDict({"final_layer_norm": linear(7)})
    text = adapter_for(encoder, tmp_path / "te.safetensors", prefix="lora_te_")
    before, own = state(model), state(encoder)
    session = Session(unet=model, text_encoders=[encoder])
    session.activate([asked(0), Request(text)])
    patched, layer = state(encoder), model["conv_in"]
    assert not torch.equal(layer.weight, before["conv_in.weight"])
    del model
    gc.collect()
    assert session._components.unet() is None
    assert torch.equal(layer.weight, before["conv_in.weight"])
    assert same(state(encoder), patched)
    assert len(session._weight_patcher.originals()) == 1
    session.deactivate()
    assert same(state(encoder), own)


def test_weights_that_other_code_put_there_are_not_overwritten(model, asked):
    session, new = Session(unet=model), torch.randn(16, 16)
    session.activate([asked(0, unet=RAMP, mode="merged")], SamplingStep(0, 5))
    kept = model["conv_in"].weight.data = new.clone()
    session.set_step(SamplingStep(1, 5))
    assert torch.equal(kept, new)
    session.deactivate()
    assert torch.equal(model["conv_in"].weight, new)


def test_a_step_that_fails_leaves_nothing_half_written(model, asked, monkeypatch):
    before, session = state(model), Session(unet=model)
    session.activate([asked(0, unet=RAMP, mode="merged")], SamplingStep(0, 5))
    calls, original = [], weight_patcher.merged_weight

    def broken(*given):
        calls.append(original(*given))
        if len(calls) == 2:
            raise MemoryError

    monkeypatch.setattr(weight_patcher, "merged_weight", lambda *given: broken(*given) or calls[-1])
    with pytest.raises(MemoryError):
        session.set_step(SamplingStep(1, 5))
    assert same(state(model), before)
    assert (session.active, session.report.adapters, session.report.notes) == ((), [], [ABANDONED])


def test_what_deltas_are_added_to_is_the_same_before_and_after(model, asked):
    session, weight = Session(unet=model), model["conv_in"].weight.data.clone()
    slot = session._components.layer_table().unet["conv_in"].weight
    for requests in ((), [asked(0)], ()):
        session.activate(requests)
        assert torch.equal(session._weight_patcher.base_of(slot), weight)
    del model["conv_in"]
    gc.collect()
    assert session._weight_patcher.base_of(slot) is None


def test_what_was_given_back_is_not_forgotten(model, asked):
    session = Session(unet=model)
    session.activate([asked(0)])
    session._weight_patcher.restore_module(model["conv_in"])
    for again in (lambda: session._weight_patcher.restore_module(linear(9)), session._weight_patcher.refresh):
        again()
        assert not session._weight_patcher.is_in_place()
    session.activate([asked(0)])
    assert session._weight_patcher.is_in_place()
