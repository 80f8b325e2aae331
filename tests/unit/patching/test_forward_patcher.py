"""The forwards that live layers put on modules: on exactly those that are meant, between whatever others put there."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching import patched_forward
from lib_adapters.patching.forward_patcher import ForwardPatcher
from lib_adapters.patching.transaction import Transaction
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for

X = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"conv_in": nn.Conv2d(4, 4, 3), "conv_out": nn.Conv2d(4, 4, 3)}).requires_grad_(False)


@pytest.fixture
def asked(model, tmp_path):
    def request(kind="OFT", only=(), seed=1, **more):
        name = f"{kind}{''.join(only)}{seed}.safetensors"
        return Request(adapter_for(model, tmp_path / name, MAKERS[kind], only, seed=seed), **more)

    return request


@pytest.fixture
def session(model):
    with Session(unet=model, mode="live") as found:
        yield found


def drawn(model):
    return [layer(X) for layer in model.values()]


def ours(model):
    return [layer.__dict__["forward"].__func__ if "forward" in layer.__dict__ else None for layer in model.values()]


def merged(model, requests):
    with Session(unet=model) as session:
        session.activate(requests)
        return drawn(model)


def close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["OFT", "LoRA"])
def test_a_layer_that_nothing_changes_for_stays_as_it_is(model, session, asked, kind):
    both, one = asked(kind), asked("LoRA", ["conv_out"], seed=2)
    wanted = [merged(model, requests) for requests in ([both], [both, one], [one])]
    session.activate([both])
    first, second = ours(model)
    close(drawn(model), wanted[0])
    session.activate([both, one])
    assert ours(model)[0] is first
    assert ours(model)[1] is not second
    close(drawn(model), wanted[1])
    session.activate([one])
    assert ours(model)[0] is None
    assert [first.is_disabled, second.is_disabled, ours(model)[1].is_disabled] == [True, True, False]
    close(drawn(model), wanted[2])
    session.deactivate()
    assert ours(model) == [None, None]


def test_a_change_that_fails_puts_all_of_them_back(model, session, asked, monkeypatch):
    """The layer that is exchanged, the one that comes and the one that goes."""
    model["conv_norm_out"] = nn.Conv2d(4, 4, 3)
    before, after = [asked(only=["conv_in"]), asked("LoRA", ["conv_out"])], asked(only=["conv_out", "conv_norm_out"])
    session.activate(before)
    there, found = ours(model), drawn(model)

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_update_report", broken)
    with pytest.raises(KeyboardInterrupt):
        session.activate([after])
    assert ours(model) == there
    assert [layer is None or layer.is_disabled for layer in there] == [False, False, True]
    assert all(map(torch.equal, drawn(model), found))
    monkeypatch.undo()
    session.activate([after])
    assert [layer is None for layer in ours(model)] == [True, False, False]


def test_a_failure_between_two_steps_leaves_none(model, asked, monkeypatch):
    plain = drawn(model)
    session = Session(unet=model)
    session.activate([asked(unet=parse_curve("1@0,0@1"), mode="live")], SamplingStep(0, 3))
    assert None not in ours(model)

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(session._weight_patcher, "apply", broken)
    with pytest.raises(MemoryError):
        session.set_step(SamplingStep(1, 3))
    assert ours(model) == [None, None]
    assert all(map(torch.equal, drawn(model), plain))
    assert session.bypassed_modules() == []


@pytest.mark.parametrize("again", ["the same", "another"])
def test_where_somebody_took_ours_off_it_is_put_on_again(model, session, asked, again):
    request, other = asked(), asked("LoRA", ["conv_out"])
    wanted = merged(model, [request])
    session.activate([request])
    del model["conv_in"].forward
    session.activate([request] if again == "the same" else [request, other])
    assert None not in ours(model)
    close(drawn(model)[:1], wanted[:1])


def test_where_somebody_took_ours_off_there_is_nothing_to_take_off(model, session, asked):
    plain = drawn(model)
    session.activate([asked()])
    del model["conv_in"].forward
    session.deactivate()
    assert ours(model) == [None, None]
    assert all(map(torch.equal, drawn(model), plain))


def test_a_forward_around_ours_stays_around_the_next_one(model, session, asked):
    """And the delta is added once."""
    one, other, calls = asked("LoRA"), asked("LoRA", seed=2), []
    wanted = [merged(model, requests)[0] for requests in ([one], [one, other], [])]
    session.activate([one])
    inner = model["conv_in"].forward

    def around(x):
        calls.append(1)
        return inner(x)

    model["conv_in"].forward = around
    seen = [model["conv_in"](X)]
    session.activate([one, other])
    seen.append(model["conv_in"](X))
    session.deactivate()
    seen.append(model["conv_in"](X))
    close(seen, wanted)
    assert len(calls) == 3
    assert model["conv_in"].__dict__["forward"] is around


def test_layers_that_are_gone_are_none_of_ours(model, session, asked):
    session.activate([asked()])
    assert session.bypassed_modules() == list(model.values())
    del model["conv_in"]
    gc.collect()
    assert session.bypassed_modules() == list(model.values())
    session.deactivate()
    assert ours(model) == [None]


def test_nothing_live_is_nothing():
    live = ForwardPatcher()
    with Transaction() as change:
        live.prepare({})(change)
    live.restore()
    live.precompute()
    live.start()
    assert (len(live), live.modules(), live.rows_unresolved, live.is_installed()) == (0, [], False, True)


def test_weights_that_are_written_while_rows_differ_are_used(model, asked):
    """W' is kept while strengths stay, but not beyond the weights that it was made of."""
    rows = {"rows": frozenset({1})}
    session = Session(unet=model)
    session.activate([asked(**rows)], SamplingStep(0, 3))
    session.set_step(SamplingStep(0, 3), [0, 1])
    session._controller._plan.set_rows([0, 1])  # a layer alone has no UNet around it that says how many
    x = X.repeat(2, 1, 1, 1)
    model["conv_in"](x)
    with torch.no_grad():
        model["conv_in"].weight.mul_(-1)
    session.set_step(SamplingStep(0, 3), [0, 1])
    session._controller._plan.set_rows([0, 1])
    found = model["conv_in"](x)
    session.deactivate()
    close([found[0], found[1]], [model["conv_in"](x)[0], merged(model, [asked()])[0][0]])


def test_weights_that_were_written_are_looked_at_once(model, session, asked, monkeypatch):
    request = asked()
    session.activate([request])
    with torch.no_grad():
        model["conv_in"].weight.mul_(-1)
    session.activate([request])
    monkeypatch.setattr(Session, "_build_plan", lambda *_: pytest.fail("computed again"))
    session.activate([request])
    model["conv_in"].weight.data = model["conv_in"].weight.data.clone()
    session._ensure_in_place()  # as before each run


def test_of_rows_that_differ_each_kind_is_computed_once_while_its_strength_stays(model, asked, monkeypatch):
    made, original = [], patched_forward.merge_param

    def patched(*given):
        made.append(len(ours(model)[0]._merged_cache))
        return original(*given)

    monkeypatch.setattr(patched_forward, "merge_param", patched)
    curve, x = parse_curve("0.5@0,0.5@1,1@2"), X.repeat(4, 1, 1, 1)
    with Session(unet=model) as session, torch.no_grad():
        two = [asked(only=["conv_in"], unet=curve, rows=frozenset({n}), seed=n) for n in (1, 2)]
        session.activate(two, SamplingStep(0, 3))
        counts = []
        for step, rows in (
            (0, (0, 1, 2, 1)),
            (0, (0, 1, 2, 1)),
            (0, (1, 1, 2, 0)),
            (2, (0, 1, 2, 1)),
            (2, (0, 0, 1, 0)),
        ):
            session.set_step(SamplingStep(step, 3), rows)
            session._controller._plan.set_rows(rows)
            model["conv_in"](x)
            counts.append(len(made))
    assert counts == [2, 2, 2, 4, 4]
    assert made == [0, 0, 0, 0]  # of other strengths none is kept meanwhile
