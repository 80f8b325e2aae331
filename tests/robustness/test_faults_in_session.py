"""Raise an exception at every point of a change: the model is entirely old, new or original, and the next job is right.

Every point of every way of changing a model gets one fault (`tests/support/fault_injection.py` defines a point). With
FAULTS=all in the environment every point meets every kind of fault, in every round of a loop that may differ.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching.owner import MODEL_LOCK
from lib_adapters.prompt.schedule import Position, SamplingStep, Window, parse_curve
from tests.support.fault_injection import faults
from tests.support.sample_adapters import MAKERS, adapter_for

# what is raised while Python clears something away, it prints and goes on
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
STEPS = 4
RAMP, UNTIL = parse_curve("0@0,1@1"), Window(None, Position(2, "step"))


class Small(nn.Module):
    """A UNet's names on four layers of each kind: with and without bias, a convolution, a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 8, 3, padding=1)])])
        attention = nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in ("to_k", "to_v")})
        self.middle_block = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(8, 8), "attn1": attention})])
        self.out = nn.ModuleList([nn.GroupNorm(2, 8), nn.Identity(), nn.Conv2d(8, 4, 1)])
        self.eval().requires_grad_(False)

    def forward(self, x):
        middle = self.middle_block[0]
        y = middle["proj"](self.input_blocks[0][0](x).movedim(1, -1))
        y = y + middle["attn1"]["to_k"](y) * middle["attn1"]["to_v"](y)
        return self.out[2](self.out[0](y.movedim(-1, 1)))


class Bench:
    """One model, and what it is and draws in each state that is allowed."""

    def __init__(self, folder, mode="merged"):
        self.model, self.mode = Small(), mode
        self.session = Session(unet=self.model, mode=mode)
        self.adapters = {kind: adapter_for(self.model, folder / f"{kind}.safetensors", MAKERS[kind]) for kind in MAKERS}
        self.latent = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))

    def request(self, kind, **options):
        return Request(self.adapters[kind], **options)

    def state(self):
        """Weights, and what comes out of them."""
        with torch.no_grad():
            tensors = [value.clone() for value in self.model.state_dict().values()]
            return [*tensors, self.model(self.latent)]

    def without(self, names):
        """What the rest of what is asked for makes of a model of its own."""
        other = Bench.__new__(Bench)
        other.model, other.latent = Small(), self.latent
        rest = [request for request in self.session.active if request.adapter.name not in names]
        session = Session(unet=other.model, mode=self.mode)
        session.activate(rest)
        return other.state()

    def anew(self):
        """After a failure, so that the next point is not blamed for it."""
        self.model = Small()
        self.session = Session(unet=self.model, mode=self.mode)

    def hooks(self):
        """How much of ours, or of anybody, is on the model."""
        modules = list(self.model.modules())
        own = sum("forward" in module.__dict__ for module in modules)
        return own + sum(len(m._forward_pre_hooks) + len(m._load_state_dict_pre_hooks) for m in modules)


def same(a, b):
    return len(a) == len(b) and all(one.equal(other) for one, other in zip(a, b, strict=True))


@pytest.fixture
def bench(tmp_path):
    return lambda mode="merged": Bench(tmp_path, mode)


def prove(bench, tried, prepare, work, allowed):
    """After each fault of `work`: one of the allowed states, the work done again, and the model given back."""
    bench.session.deactivate()
    pristine, points = bench.state(), tried("faults", "points")
    prepare()
    bench.was_active = bool(bench.hooks())
    assert not any(same(one, other) for one, other in itertools.combinations(allowed, 2))
    raised, wrong = 0, []
    for name, happen in faults(prepare, work):
        error = happen()
        raised += error is not None
        # merged weights that were overwritten cannot come back: then nothing is active
        possible = allowed if bench.session.active else [pristine, *allowed]
        problem = after(bench, error, possible) or healed(bench, pristine, work, allowed[-1])
        points.add()
        if problem:
            points.fail()
            wrong.append(f"{name}: {problem}")
            bench.anew()
    assert not wrong, f"{len(wrong)} points\n" + "\n".join(wrong[:40])
    assert raised > 100


def after(bench, error, allowed):
    """What is wrong right after the fault; "" where all is well."""
    told = [one for one in bench.session.report.adapters if one.error] if error is None else []
    if error is not None and "a fault of the test" not in str(error):
        return f"another error came out: {error!r}"
    if told:
        return "" if same(bench.state(), bench.without({one.name for one in told})) else "not what the report tells"
    if not bench.session.active and not bench.was_active and bench.hooks():
        return "a hook on a model that nothing was put on"
    states = allowed if error is not None else allowed[-1:]
    return "" if any(same(bench.state(), state) for state in states) else f"half way ({error!r})"


def healed(bench, pristine, work, new):
    """What is wrong with the job after it, which is first the same again."""
    work()
    if not same(bench.state(), new):
        return "the same again is not right"
    bench.session.activate([])
    if not same(bench.state(), pristine):
        return "the model is not given back"
    if bench.hooks():
        return "something stays on the model"
    return "" if bench.session.verify() else "the pristine weights are not what they were"


def states(bench, *works):
    found = []
    for work in works:
        work()
        found.append(bench.state())
    return found


@pytest.mark.slow
def test_putting_on(bench, tried):
    bench = bench()
    new = [bench.request("LoRA"), bench.request("Full", unet=0.5)]

    def prepare():
        bench.session.deactivate()
        bench.session._cache.clear()

    def work():
        bench.session.activate(new)

    allowed = states(bench, prepare, work)
    prove(bench, tried, prepare, work, allowed)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kinds"), [("merged", ("Full", "LoKr", "IA3")), ("live", ("LoRA", "LoRA", "Full"))])
def test_putting_others_on(bench, tried, mode, kinds):
    """Full gives two layers a bias, which goes when IA3's change of it is zero."""
    bench = bench(mode)
    first, second, third = kinds
    old, new = [bench.request(first)], [bench.request(second, unet=0.5), bench.request(third)]

    def prepare():
        bench.session.activate(old)

    def work():
        bench.session.activate(new)

    allowed = states(bench, prepare, work)
    prove(bench, tried, prepare, work, allowed)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["merged", "live"])
def test_taking_off(bench, tried, mode):
    bench = bench(mode)

    def prepare():
        bench.session.activate([bench.request("LoRA"), bench.request("Full")])

    allowed = states(bench, prepare, bench.session.deactivate)
    prove(bench, tried, prepare, lambda: bench.session.deactivate(), allowed)


@pytest.mark.slow
def test_taking_over_from_another_session(bench, tried):
    """What it had put on is wholly there, or wholly gone."""
    bench = bench()
    own, new = bench.state(), [bench.request("LoRA", unet=0.5)]

    def prepare():
        bench.session.deactivate()
        bench.other = Session(unet=bench.model)
        bench.other.activate([bench.request("Full")])

    def work():
        bench.session.activate(new)

    allowed = [own, *states(bench, prepare, work)]
    prove(bench, tried, prepare, work, allowed)


def moving(bench):
    """Merged anew, beside the layer, and by rows, on the same layers and on others."""
    return [
        bench.request("LoRA", unet=RAMP, mode="merged"),
        bench.request("LoKr", unet=RAMP, mode="live"),
        bench.request("Full", unet=0.5, rows=frozenset({1})),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("LoRA", "merged"), ("LoKr", "live"), ("Full", "window")])
def test_a_step(bench, tried, kinds):
    """What fails there gives the model its own back: nothing is better than half."""
    bench = bench()
    own = bench.state()
    kind, mode = kinds
    moving = {"window": UNTIL, "mode": "merged"} if mode == "window" else {"unet": RAMP, "mode": mode}
    around = torch.inference_mode if mode == "window" else contextlib.nullcontext
    ramp = [bench.request(kind, **moving), bench.request("IA3", unet=0.5)]

    def prepare():
        bench.session.activate(ramp, SamplingStep(0, STEPS))
        bench.session.set_step(SamplingStep(1, STEPS))

    def work():
        with around():
            bench.session.activate(ramp, SamplingStep(1, STEPS))
            bench.session.set_step(SamplingStep(2, STEPS))

    allowed = [own, *states(bench, prepare, work)]
    prove(bench, tried, prepare, work, allowed)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["merged", "live"])
def test_a_run_with_rows_and_curves(bench, tried, mode):
    """What fails inside a layer's call leaves the weights to their owner."""
    bench = bench(mode)
    requests = moving(bench)

    def prepare():
        bench.session.activate(requests, SamplingStep(1, STEPS))
        bench.session.set_step(SamplingStep(1, STEPS), [0, 1])

    def work():
        prepare()
        with torch.no_grad():
            bench.model(bench.latent)

    own = bench.state()
    # between the two calls rows are not known yet
    allowed = [own, *states(bench, lambda: bench.session.activate(requests, SamplingStep(1, STEPS)), work)]
    prove(bench, tried, prepare, work, allowed)


@pytest.mark.slow
def test_no_fault_leaves_the_model_locked(bench):
    """Another thread can still change a model after faults in all that takes the lock."""
    bench, done = bench(), []
    new = [bench.request("LoRA")]
    for _, happen in faults(bench.session.deactivate, lambda: bench.session.activate(new)):
        happen()
        thread = threading.Thread(target=lambda: done.append(MODEL_LOCK.acquire(timeout=5) and MODEL_LOCK.release()))
        thread.start()
        thread.join()
        assert done.pop() is None
