"""Jobs inside a host's inference mode, without gradients and inside autocast, in any order on one session.

A tensor that is made in inference mode can never be written outside of it: whatever a session keeps must be ordinary.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.ops.torch_modes import float32_math
from lib_adapters.prompt.schedule import Position, SamplingStep, Window, parse_curve
from tests.robustness.test_faults_in_session import Small, same
from tests.support.sample_adapters import MAKERS, adapter_for

STEPS = 3
RAMP, UNTIL = parse_curve("0@0,1@1"), Window(None, Position(2, "step"))
MODES = {
    "plain": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
ORDERS = (("inference", "plain", "inference"), ("plain", "inference", "no_grad"), ("autocast", "inference", "plain"))
ROWS = frozenset({1})
JOBS = {
    "merged": lambda r: [r("LoRA", 0.7), r("IA3", -0.5)],
    "window": lambda r: [r("Full", 0.8, window=UNTIL), r("OFT", 0.5)],
    "measured": lambda r: [r("LoRA", RAMP), r("LoKr", RAMP)],
    "merged again": lambda r: [r("OFT", RAMP, mode="merged"), r("Full", RAMP, mode="merged")],
    "live": lambda r: [r("LoRA", RAMP, mode="live"), r("LoKr", RAMP, mode="live"), r("Full", RAMP, mode="live")],
    "rows": lambda r: [r("LoRA", 0.6, rows=ROWS), r("LoKr", RAMP), r("OFT", 0.5, rows=frozenset({0}))],
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    return {kind: adapter_for(Small(), folder / f"{kind}.safetensors", MAKERS[kind]) for kind in MAKERS}


def latent(rows=2):
    return torch.randn(rows, 4, 4, 4, generator=torch.Generator().manual_seed(3))


def draw(session, model, requests, grad=False):
    """What each step gives, and the weights of its beginning."""
    session.activate(requests, SamplingStep(0, STEPS))
    found = []
    for step in range(STEPS):
        session.set_step(SamplingStep(step, STEPS), [0, 1])
        x = latent().requires_grad_(grad)
        y = model(x)
        if grad:
            y.float().square().sum().backward()
            assert float(x.grad.abs().sum())
        found.append(y.detach().clone())
    with float32_math():
        return found, [value.clone() for value in model.state_dict().values()]


def made(kind):
    with MODES[kind]():
        return Small()


@pytest.mark.parametrize("born", ["plain", "inference"])
@pytest.mark.parametrize("job", JOBS)
def test_a_session_works_in_any_mode_after_any_other(adapters, job, born):
    """Weights are the same to the bit, and outputs too where the host computes in float32."""
    requests = JOBS[job](lambda kind, unet, **options: Request(adapters[kind], unet, **options))
    with torch.no_grad():
        wanted, weights = draw(Session(unet=(other := Small())), other, requests)
    for order in ORDERS:
        model = made(born)
        own = copy.deepcopy(model.state_dict())
        session = Session(unet=model)
        for mode in order:
            with MODES[mode]():
                found, now = draw(session, model, requests, grad=mode == "plain" and born == "plain")
            if job != "measured":  # by time: each run of the tests may choose another way
                assert same(now, weights), (order, mode)
            for step, right in zip(found, wanted, strict=True):
                rough = 0.05 if mode == "autocast" else 1e-4
                torch.testing.assert_close(step.float(), right, rtol=rough, atol=rough * float(right.abs().max()))
        session.deactivate()
        assert same(list(model.state_dict().values()), list(own.values()))
        assert session.verify()


@pytest.mark.parametrize("mode", ["no_grad", "inference"])
def test_a_file_that_was_read_in_inference_mode_is_like_any_other(adapters, mode):
    session = Session(unet=(model := Small()))
    with MODES[mode]():
        session.activate([Request(adapter) for adapter in adapters.values()])
    for adapter in adapters.values():
        algorithms = session._cache.get(adapter, torch.device("cpu")).algorithms.values()
        tensors = [part for one in algorithms for part in vars(one).values() if isinstance(part, torch.Tensor)]
        assert tensors
        assert not any(tensor.is_inference() for tensor in tensors)
    assert not any(parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize("how", ["step", "strength", "other file"])
def test_weights_that_the_host_moved_in_inference_mode_are_not_written_into(adapters, how):
    """Such a copy is an inference tensor: writing into it outside of that mode raises."""
    model, other, ramp = Small(), Small(), Request(adapters["LoRA"], parse_curve("0.5@0,1@1"), mode="merged")
    before = [value.clone() for value in model.state_dict().values()]
    first, second = (ramp, ramp) if how == "step" else (Request(adapters["LoRA"]), Request(adapters["LoRA"], 0.5))
    second = Request(adapters["OFT"]) if how == "other file" else second
    session, at = Session(unet=model), SamplingStep(2 if how == "step" else 0, STEPS)
    session.activate([first], SamplingStep(0, STEPS))
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    if how == "step":
        session.set_step(at)
    else:
        session.activate([second])
    Session(unet=other).activate([second], at)
    assert same([*model.state_dict().values()], [*other.state_dict().values()])
    session.deactivate()
    assert same([*model.state_dict().values()], before)
