"""Strengths that change while drawing, against the plainest definition: at each step, merged anew from nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.algorithms import tlora
from lib_adapters.patching import apply_mode
from lib_adapters.prompt.schedule import SamplingStep, parse_curve, parse_window, strength_at
from tests.support.algorithm_examples import examples
from tests.support.sample_adapters import MAKERS, adapter_for, lora
from tests.support.tiny_models import diffusers_unet, ldm_unet
from tests.unit.patching.test_algorithms_in_session import EXAMPLES, PLACE, inputs, model_of, opened

STEPS = 5
SHAPES = {
    "ramp": ("0@0,1@1", None),
    "bump": ("0.2@0,1@50%,-0.4@1", None),
    "steps": ("0@1,1@3", None),
    "window": (None, ("1", "3", None)),
    "late": ("0.5@0,1@1", (None, None, "2-")),
    "noise": ("0@14sigma,1@1sigma", None),
}
MODES = ("auto", "merged", "live")


def request(adapter, shape, **more):
    curve, window = SHAPES[shape]
    unet = 0.7 if curve is None else parse_curve(curve)
    return Request(adapter, unet=unet, window=parse_window(*window) if window else None, **more)


def moments():
    return [
        SamplingStep(step, STEPS, 14.0 * (1 - step / STEPS) ** 2, 999 * (1 - step / STEPS)) for step in range(STEPS)
    ]


def run_unet(unet, rows=2):
    generator = torch.Generator().manual_seed(3)
    x, context = torch.randn(rows, 4, 8, 8, generator=generator), torch.randn(rows, 5, 24, generator=generator)
    return unet(x, torch.full((rows,), 5), context)


def plainly(model, run, requests):
    """Each step by itself, on a model that nothing was ever done to."""
    seen = []
    for moment in moments():
        now = [Request(r.adapter, unet=strength_at(r.unet, r.window, moment), te=r.te, dyn=r.dyn) for r in requests]
        with Session(unet=model) as session:
            session.activate(now)
            seen.append(run(model))
    return seen


def close(found, wanted):
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1.0, scale))


@pytest.fixture(scope="module")
def unet():
    return ldm_unet()


@pytest.fixture(scope="module")
def untouched(unet):
    return copy.deepcopy(unet)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("shape", ["ramp", "window"])
def test_a_schedule_is_a_merge_at_each_step(unet, untouched, tmp_path, kind, mode, shape):  # noqa: PLR0917
    some = ("middle_block", "input_blocks.1", "input_blocks.4", "output_blocks.9", "out.2")
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS[kind], some)
    asked = [request(adapter, shape, mode=mode)]
    wanted = plainly(untouched, run_unet, [request(adapter, shape)])
    before = {name: p.data_ptr() for name, p in unet.named_parameters()}
    plain = run_unet(unet)
    with Session(unet=unet) as session:
        session.activate(asked, SamplingStep(0, STEPS))
        for moment, expected in zip(moments(), wanted, strict=True):
            session.set_step(moment)
            close(run_unet(unet), expected)
        assert session.verify()
    assert torch.equal(run_unet(unet), plain)
    assert {name: p.data_ptr() for name, p in unet.named_parameters()} == before


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_every_shape_of_schedule_in_a_stack_with_what_stays(unet, untouched, tmp_path, shape, mode):
    some = ("middle_block", "input_blocks.4")
    makers = [MAKERS[kind] for kind in ("LoRA", "LoKr", "OFT")]
    adapters = [adapter_for(unet, tmp_path / f"{n}.safetensors", m, some, seed=n) for n, m in enumerate(makers)]
    still = Request(adapter_for(unet, tmp_path / "s.safetensors", lora, some, seed=9), unet=0.3)
    other = Request(adapters[1], unet=parse_curve("1@0,0@1"), mode=mode)
    asked = [request(adapters[0], shape, mode=mode), other, request(adapters[2], shape, mode=mode), still]
    wanted = plainly(untouched, run_unet, asked)
    with Session(unet=unet) as session:
        session.activate(asked, SamplingStep(0, STEPS))
        for moment, expected in zip(moments(), wanted, strict=True):
            session.set_step(moment)
            close(run_unet(unet), expected)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("mode", MODES)
def test_every_algorithm_and_kind_of_layer(tmp_path, name, mode):
    model, adapter = model_of(EXAMPLES[name].shape), opened(name, tmp_path)
    layer, twin = model[PLACE], copy.deepcopy(model)
    x = inputs(layer)
    asked = request(adapter, "bump", mode=mode)
    wanted = plainly(twin, lambda m: m[PLACE](x), [asked])
    plain = layer(x)
    with Session(unet=model) as session:
        session.activate([asked], SamplingStep(0, STEPS))
        for moment, expected in zip(moments(), wanted, strict=True):
            session.set_step(moment)
            close(layer(x), expected)
    assert torch.equal(layer(x), plain)


def test_a_constant_schedule_is_the_plain_strength_to_the_bit(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    images = []
    for strength in (0.7, parse_curve("0.7@0,0.7@1")):
        with Session(unet=unet) as session:
            session.activate([Request(adapter, unet=strength)], SamplingStep(0, STEPS))
            assert not session.is_dynamic
            images.append(run_unet(unet))
    assert torch.equal(*images)


def test_outside_its_window_an_adapter_is_absent_to_the_bit(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS["LoKr"])
    plain = run_unet(unet)
    for mode in MODES:
        with Session(unet=unet) as session:
            session.activate([Request(adapter, window=parse_window("2", "4", None), mode=mode)], SamplingStep(0, STEPS))
            same = []
            for moment in moments():
                session.set_step(moment)
                same.append(torch.equal(run_unet(unet), plain))
            assert same == [True, True, False, False, True]


@pytest.mark.parametrize("dyn", ["1@0,3@1", "timestep"])
def test_ranks_that_follow_the_steps(tmp_path, dyn):
    unet = diffusers_unet()
    adapter = adapter_for(unet, tmp_path / "a.safetensors", lambda s, g: lora(s, g, rank=4), ("mid_block",))
    twin = copy.deepcopy(unet)

    def run(model):
        generator = torch.Generator().manual_seed(3)
        x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
        return model(x, torch.tensor([5]), text).sample

    session = Session(unet=unet)
    ranks = parse_curve(dyn) if "@" in dyn else dyn
    session.activate([Request(adapter, dyn=ranks)], SamplingStep(0, STEPS))
    for moment in moments():
        session.set_step(moment)
        rank = int(ranks.value_at(moment)) if "@" in dyn else int((1000 - moment.timestep) / 1000 * 3) + 1
        with Session(unet=twin) as plain:
            plain.activate([Request(adapter, dyn=rank)])
            close(run(unet), run(twin))
    session.deactivate()


def test_a_new_picture_begins_at_its_first_step(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    session = Session(unet=unet)
    asked = [request(adapter, "ramp")]
    drawn = []
    for _ in range(3):
        session.activate(asked, SamplingStep(0, STEPS))
        drawn.append(run_unet(unet))
        session.set_step(moments()[-1])
        run_unet(unet)
    assert torch.equal(drawn[1], drawn[2])
    session.deactivate()


def test_another_checkpoint_in_the_same_tensors_in_the_middle(unet, tmp_path, monkeypatch):
    """As a host does for a refiner of the same kind; and back for the next picture. Some layers run beside."""
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    beside = lambda _, target, *rest: "beside" if "attn" in target.ref.path else "merged"  # noqa: E731
    monkeypatch.setattr(apply_mode.ModeSelector, "_guess", beside)
    first = copy.deepcopy(unet.state_dict())
    second = {key: value + 0.02 * torch.randn_like(value) for key, value in first.items()}
    twin, wanted = copy.deepcopy(unet), []
    for moment in moments():
        twin.load_state_dict(first if moment.step < 3 else second)
        with Session(unet=twin) as plain:
            plain.activate([Request(adapter, unet=moment.progress)])
            wanted.append(run_unet(twin))
    session = Session(unet=unet)
    for _ in range(3):
        unet.load_state_dict(first)
        session.activate([request(adapter, "ramp")], SamplingStep(0, STEPS))
        for moment, expected in zip(moments(), wanted, strict=True):
            if moment.step == 3:
                unet.load_state_dict(second)
            session.set_step(moment)
            close(run_unet(unet), expected)
    assert session.bypassed_modules()
    session.deactivate()
    assert all(torch.equal(value, second[key]) for key, value in unet.state_dict().items())
    unet.load_state_dict(first)


def test_no_file_is_read_again_and_no_memory_is_taken(unet, tmp_path, monkeypatch):
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    session = Session(unet=unet)
    session.activate([request(adapter, "ramp", mode="merged")], SamplingStep(0, STEPS))
    session.set_step(moments()[1])
    places = {name: p.data_ptr() for name, p in unet.named_parameters()}
    monkeypatch.setattr(type(adapter), "load", lambda *_: pytest.fail("the file is read again"))
    for moment in moments()[2:]:
        session.set_step(moment)
        run_unet(unet)
        assert {name: p.data_ptr() for name, p in unet.named_parameters()} == places
    session.deactivate()


def test_singular_triples_are_taken_once_for_all_steps(tmp_path, monkeypatch):
    name = next(n for n in EXAMPLES if n.startswith("tlora"))
    model, adapter, calls = model_of(EXAMPLES[name].shape), opened(name, tmp_path), []
    original = tlora.top_singular_factors
    monkeypatch.setattr(tlora, "top_singular_factors", lambda *given: calls.append(1) or original(*given))
    with Session(unet=model) as session:
        session.activate([request(adapter, "ramp", mode="merged")], SamplingStep(0, STEPS))
        for moment in moments():
            session.set_step(moment)
    assert len(calls) <= 1


def test_a_failure_in_the_middle_gives_the_model_back(unet, tmp_path, monkeypatch):
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS["OFT"])
    plain = run_unet(unet)
    session = Session(unet=unet)
    session.activate([request(adapter, "ramp")], SamplingStep(0, STEPS))
    session.set_step(moments()[1])
    calls = []

    def broken(*arguments):
        calls.append(1)
        if len(calls) > 7:
            raise MemoryError("no room")
        return original(*arguments)

    from lib_adapters.patching import weight_patcher

    original = weight_patcher.merged_weight
    monkeypatch.setattr(weight_patcher, "merged_weight", broken)
    with pytest.raises(MemoryError):
        session.set_step(moments()[2])
    assert torch.equal(run_unet(unet), plain)
    assert session.active == ()
    monkeypatch.undo()
    session.activate([Request(adapter, unet=0.5)])
    assert not torch.equal(run_unet(unet), plain)
    session.deactivate()
    assert torch.equal(run_unet(unet), plain)


def test_idle_means_no_hook(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    with Session(unet=unet) as session:
        session.activate([request(adapter, "ramp", mode="live")], SamplingStep(0, STEPS))
        session.set_step(moments()[1])
        run_unet(unet)
    assert not any(m._forward_pre_hooks or "forward" in m.__dict__ for m in unet.modules())
    assert examples()
