"""Whatever is raised, and wherever: the model is wholly old or wholly new, and the next job is right."""

from __future__ import annotations

import random

import pytest
from files import MAKERS, adapter_for
from models import ldm_unet

from lib_adapters import Request, Session
from lib_adapters.patching import live, merge, merged

SOME = ("middle_block.1.proj", "middle_block.1.transformer_blocks.0.attn", "time_embed")


class Fault(BaseException):
    """Raised at the n-th call of something."""


class Trap:
    """Passes calls on until the n-th, at which it raises; None never raises."""

    def __init__(self, function, at=None):
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            raise Fault
        return self.function(*args, **kwargs)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture(scope="module")
def unet():
    return ldm_unet()


@pytest.fixture(scope="module")
def adapters(unet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [adapter_for(unet, folder / f"{kind}.safetensors", MAKERS[kind], SOME) for kind in MAKERS]


POINTS = [
    (merged, "merged_weight"),  # a sum: out of memory
    (merged, "point"),  # a swap
    (merged, "samples"),
    (merge, "exact"),
    (live, "LiveLayer"),
]


@pytest.mark.parametrize(("owner", "name"), POINTS, ids=lambda part: part if isinstance(part, str) else "")
def test_every_call_of_every_point_may_fail(unet, adapters, monkeypatch, owner, name):
    before = state(unet)
    mode = "live" if owner is live else "merged"
    session = Session(unet=unet, mode=mode)
    old, new = [Request(adapters[0])], [Request(adapters[1]), Request(adapters[2], unet=0.5)]
    session.activate(old)
    first = state(unet)
    trap = Trap(getattr(owner, name))
    monkeypatch.setattr(owner, name, trap)
    session.activate(new)
    second, calls = state(unet), trap.calls
    session.activate(old)
    assert calls or owner is merge
    for at in range(1, calls + 1):
        monkeypatch.setattr(owner, name, Trap(trap.function, at))
        with pytest.raises(Fault):
            session.activate(new)
        assert same(state(unet), first), f"call {at} of {name} left the model half way"
        monkeypatch.setattr(owner, name, trap.function)
        session.activate(new)
        assert same(state(unet), second)
        session.activate(old)
        assert same(state(unet), first)
    session.deactivate()
    assert same(state(unet), before)
    assert session.verify()


def test_a_fault_while_restoring_leaves_the_adapters_on(unet, adapters, monkeypatch):
    session = Session(unet=unet)
    before = state(unet)
    session.activate([Request(adapters[0])])
    patched = state(unet)
    point = merged.point
    monkeypatch.setattr(merged, "point", Trap(point, 5))
    with pytest.raises(Fault):
        session.deactivate()
    monkeypatch.setattr(merged, "point", point)
    assert same(state(unet), patched)
    session.deactivate()
    assert same(state(unet), before)


@pytest.mark.parametrize("mode", ["merged", "live"])
def test_a_hundred_random_switches_with_faults(unet, adapters, monkeypatch, mode):
    chance = random.Random(11)
    before = state(unet)
    session = Session(unet=unet, mode=mode)
    weight, point = merged.merged_weight, merged.point
    failed = 0
    for _ in range(100):
        chosen = chance.sample(adapters, chance.randrange(len(adapters)))
        wanted = [Request(adapter, unet=chance.choice([1.0, 0.5, -1.0])) for adapter in chosen]
        monkeypatch.setattr(merged, "merged_weight", Trap(weight, chance.choice([None, 1, 7, 30])))
        monkeypatch.setattr(merged, "point", Trap(point, chance.choice([None, 2, 11, 40])))
        try:
            session.activate(wanted)
        except Fault:
            failed += 1
    monkeypatch.undo()
    assert session.verify()
    session.deactivate()
    assert same(state(unet), before)
    assert session.verify()
    assert failed > 20 or mode == "live"


def test_switching_a_hundred_times_grows_nothing(unet, adapters):
    session = Session(unet=unet)
    counts = []
    for n in range(100):
        session.activate([Request(adapters[n % 3])])
        counts.append((len(session._merged), sum(len(m._load_state_dict_pre_hooks) for m in unet.modules())))
    assert counts[:3] == counts[3:6] == counts[-4:-1]
    session.deactivate()
    assert len(session._merged) == 0
