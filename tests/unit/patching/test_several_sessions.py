"""Several Sessions on one model: the last one that activates has it, and the model comes back to the bit."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.patching.report import DISPLACED, TAKEN_OVER
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for
from tests.support.tiny_model_pair import traces
from tests.support.tiny_models import clip, diffusers_unet

SOME = ("mid_block", "down_blocks.0")
MODES = ("merged", "live")
RAMP = parse_curve("0@0,1@1")


@pytest.fixture
def unet():
    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    return diffusers_unet(**blocks, **kinds, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))


@pytest.fixture
def requests(unet, tmp_path):
    kinds = ("LoRA", "Full", "LoKr")
    return [Request(adapter_for(unet, tmp_path / f"{k}.safetensors", MAKERS[k], SOME)) for k in kinds]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def drawn(unet):
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        return unet(x, 7, text).sample


def alone(unet, request, mode="merged"):
    """What one Session by itself makes of the model."""
    with Session(unet=unet, mode=mode) as session:
        session.activate([request])
        return state(unet), drawn(unet)


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("kept", [True, False])
def test_a_cell_that_is_run_three_times_gives_the_model_back(unet, requests, first, second, kept):
    before, plain = state(unet), drawn(unet)
    wanted = alone(unet, requests[1], second)
    sessions = []
    for mode, request in ((first, requests[0]), (second, requests[2]), (second, requests[1])):
        session = Session(unet=unet, mode=mode)
        session.activate([request])
        if kept:
            sessions.append(session)
    assert same(state(unet), wanted[0])
    assert drawn(unet).equal(wanted[1])
    assert session.verify()
    assert all(one.verify() for one in sessions)
    session.deactivate()
    assert same(state(unet), before)
    assert drawn(unet).equal(plain)
    assert session.verify()
    assert all(one.verify() for one in sessions)
    assert traces(unet) == 0


@pytest.mark.parametrize("mode", MODES)
def test_who_was_taken_over_from_is_inactive_and_says_so(unet, requests, mode):
    before = state(unet)
    one, two = Session(unet=unet, mode=mode), Session(unet=unet, mode=mode)
    one.activate(requests[:1])
    report = two.activate(requests[1:2])
    assert TAKEN_OVER in str(report)
    assert (one.active, one.report.lines()) == ((), [DISPLACED])
    held, picture = state(unet), drawn(unet)
    one.deactivate()
    one.set_step(SamplingStep(1, 2))
    one.deactivate()
    assert same(state(unet), held)
    assert drawn(unet).equal(picture)
    assert one.verify()
    assert two.verify()
    assert two.active
    assert TAKEN_OVER in str(one.activate(requests[:1]))
    assert not two.active
    assert same(state(unet), alone(unet, requests[0], mode)[0])
    one.deactivate()
    assert same(state(unet), before)
    assert traces(unet) == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_was_dropped_while_active_stays_until_any_session_deactivates(unet, requests, mode):
    before, plain = state(unet), drawn(unet)
    wanted = alone(unet, requests[0], mode)[1]
    Session(unet=unet, mode=mode).activate(requests[:1])
    gc.collect()
    assert drawn(unet).equal(wanted)
    Session(unet=unet).deactivate()
    assert same(state(unet), before)
    assert drawn(unet).equal(plain)
    assert traces(unet) == 0


def test_what_was_dropped_while_active_is_still_guarded_when_the_model_is_loaded_over(unet, requests):
    other = {name: tensor + 1 for name, tensor in state(unet).items()}
    Session(unet=unet).activate(requests[:1])
    unet.load_state_dict(other)
    Session(unet=unet).deactivate()
    assert same(state(unet), other)
    assert traces(unet) == 0


@pytest.mark.parametrize("whole_first", [True, False])
def test_a_session_on_a_part_of_the_model_takes_over_too(unet, requests, whole_first):
    before = state(unet)
    whole, part = Session(unet=unet), Session(unet=unet.mid_block)
    first, second = (whole, part) if whole_first else (part, whole)
    for session in (first, second):
        session.activate(requests[:1] if session is whole else requests[1:2])
    assert whole.verify()
    assert part.verify()
    second.deactivate()
    first.deactivate()
    assert same(state(unet), before)
    assert traces(unet) == 0


def test_sessions_on_different_models_leave_each_other_alone(unet, requests, tmp_path):
    encoder = clip(layers=2)
    words = Request(adapter_for(encoder, tmp_path / "te.safetensors", prefix="lora_te_"))
    own = state(unet), state(encoder)
    one, two = Session(unet=unet), Session(text_encoders=[encoder])
    one.activate(requests[:1])
    assert not two.activate([words]).notes
    assert one.active
    one.deactivate()
    assert not same(state(encoder), own[1])
    two.deactivate()
    assert (same(state(unet), own[0]), same(state(encoder), own[1])) == (True, True)


def test_one_inside_another_gives_back_once(unet, requests):
    before = state(unet)
    with Session(unet=unet) as outer:
        outer.activate([Request(requests[0].adapter, unet=RAMP)], SamplingStep(0, 4))
        with Session(unet=unet) as inner:
            inner.activate(requests[1:2])
            outer.set_step(SamplingStep(3, 4))  # it is not active any more: nothing moves
            drawn(unet)
            assert same(state(unet), alone_of(unet, requests[1], inner))
        assert same(state(unet), before)
    assert same(state(unet), before)
    assert outer.verify()
    assert traces(unet) == 0


def alone_of(unet, request, session):
    held = state(unet)
    session.deactivate()
    found = alone(unet, request)[0]
    session.activate([request])
    assert same(state(unet), held)
    return found


def test_a_takeover_that_fails_leaves_the_model_its_own(unet, requests, monkeypatch):
    before = state(unet)
    one, two = Session(unet=unet), Session(unet=unet)
    one.activate(requests[:1])

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(two._weight_patcher, "apply", stop)
    with pytest.raises(KeyboardInterrupt):
        two.activate(requests[1:2])
    assert same(state(unet), before)
    assert traces(unet) == 0
    assert one.report.lines() == [DISPLACED]
    one.activate(requests[:1])
    assert same(state(unet), alone(unet, requests[0])[0])


def test_two_threads_leave_no_mixture(unet, requests):
    before = state(unet)
    allowed = [before, *(alone(unet, request)[0] for request in requests[:2])]
    ends, failed = [], []
    start = threading.Barrier(2)

    def work(request):
        session = Session(unet=unet)
        ends.append(session)
        try:
            for _ in range(8):
                start.wait(30)
                session.activate([request])
                start.wait(30)
                if not any(same(state(unet), one) for one in allowed):
                    failed.append("a mixture")
                start.wait(30)
                session.deactivate()
                start.wait(30)
                if not same(state(unet), before):
                    failed.append("not given back")
        except BaseException as error:  # noqa: BLE001 - told by the test itself
            failed.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(request,)) for request in requests[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert all(session.verify() for session in ends)
    assert traces(unet) == 0


@pytest.mark.parametrize("session_first", [True, False])
def test_original_weights_live_no_longer_than_the_model(tmp_path, session_first):
    """Not even until the collector comes."""
    model = torch.nn.ModuleDict({"mid_block": torch.nn.Linear(4, 4)})
    request = Request(adapter_for(model, tmp_path / "a.safetensors"))
    gc.disable()
    try:
        session = Session(unet=model)
        session.activate([request])
        originals = [weakref.ref(tensor) for tensor in session._weight_patcher.originals().values()]
        if session_first:
            del session
        assert all(one() is not None for one in originals)
        del model
        assert [one() for one in originals] == [None]
    finally:
        gc.enable()


def test_weights_that_the_host_loads_are_not_held_against_the_session_that_was_active_before(unet, requests):
    first, second, own = Session(unet=unet), Session(unet=unet), state(unet)
    first.activate(requests)
    unet.load_state_dict({name: tensor + 0.5 for name, tensor in own.items()})
    loaded = state(unet)
    second.activate(requests)
    assert first.verify()
    second.deactivate()
    assert first.verify()
    assert same(state(unet), loaded)
