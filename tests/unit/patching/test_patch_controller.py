"""Runs of a UNet as hosts make them, whole batches and parts of them: which rows they take, and what is told of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching import apply_mode
from lib_adapters.patching.report import ROWS_UNRESOLVED
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for

NOW = SamplingStep(0, 4)
RAMP = parse_curve("1@0,0@1")
MINE = frozenset({1})


class Net(nn.Module):
    """One layer of a UNet, which takes its picture by place or by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_in = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, step=None, x=None):
        return self.conv_in(x)


@pytest.fixture
def net():
    return Net().requires_grad_(False)


@pytest.fixture
def asked(net, tmp_path):
    made = {kind: adapter_for(net, tmp_path / f"{kind}.safetensors", MAKERS[kind]) for kind in ("LoRA", "OFT")}
    return lambda kind="LoRA", **more: Request(made[kind], **more)


def picture(rows):
    return torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(5)).repeat(rows, 1, 1, 1)


def acts(net, plain, count, **named):
    """In which rows of a run of so many the adapter is seen."""
    found = net(**named, x=picture(count)) if named else net(None, picture(count))
    return [int(not torch.allclose(row, plain, atol=1e-4)) for row in found]


@pytest.fixture
def plain(net):
    return net(None, picture(1))[0]


@pytest.mark.parametrize("kind", ["LoRA", "OFT"])  # beside the layer, in groups of rows
def test_runs_take_the_rows_in_their_order_and_begin_anew(net, asked, plain, kind):
    with Session(unet=net) as session:
        session.activate([asked(kind, rows=MINE)], NOW)
        session.set_step(NOW, [0, 1, 1, 0])
        assert [acts(net, plain, n) for n in (1, 2, 1)] == [[0], [1, 1], [0]]
        assert acts(net, plain, 4) == [0, 1, 1, 0]
        assert [acts(net, plain, n) for n in (3, 2, 2)] == [[0, 1, 1], [0, 1], [1, 0]]
        assert not session.report.rows_unresolved
        session.set_step(NOW, [1, 0])  # a step begins with its first row
        assert acts(net, plain, 1) == [1]
        session.set_step(NOW, [1, 0])
        assert acts(net, plain, 2, step=picture(1)[0]) == [1, 0]
        assert acts(net, plain, 2, step=None) == [1, 0]
        session.set_step(NOW)  # a host that tells nothing
        assert acts(net, plain, 3) == [1, 1, 1]


def test_a_run_of_more_rows_than_there_are_goes_without_and_it_is_told(net, asked, plain):
    with Session(unet=net) as session:
        session.activate([asked(rows=MINE)], NOW)
        session.set_step(NOW, [1, 0])
        assert acts(net, plain, 3) == [0, 0, 0]
        assert session.report.rows_unresolved
        assert session.report.lines()[-1] == ROWS_UNRESOLVED
        session.set_step(NOW, [1, 0])
        assert acts(net, plain, 2) == [1, 0]
        assert session.report.rows_unresolved  # in this picture
        session.set_step(NOW)
        assert not session.report.rows_unresolved
        session.set_step(NOW, [1, 0])
        acts(net, plain, 2)
        assert not session.report.rows_unresolved


@pytest.mark.parametrize("kind", ["LoRA", "OFT"])
def test_a_layer_that_lost_its_rows_is_told_with_the_next_run(net, asked, plain, kind):
    with Session(unet=net) as session:
        session.activate([asked(kind, rows=MINE)], NOW)
        session.set_step(NOW, [1, 0])
        acts(net, plain, 2)
        assert torch.allclose(net.conv_in(picture(3)), plain.expand(3, -1, -1, -1), atol=1e-5)
        assert not session.report.rows_unresolved
        acts(net, plain, 2)
        assert session.report.rows_unresolved
        session.set_step(NOW)
        session.set_step(NOW, [1, 0])
        acts(net, plain, 2)
        assert not session.report.rows_unresolved


@pytest.fixture
def clock(monkeypatch):
    seconds = {"merge": 2.0, "beside": 1.0}
    monkeypatch.setattr(apply_mode, "merge_seconds", lambda *_: seconds["merge"])
    monkeypatch.setattr(apply_mode, "bypass_seconds", lambda *_: seconds["beside"])
    monkeypatch.setattr(apply_mode, "OBVIOUS_RATIO", 1e9)  # whatever the work, it is measured
    return seconds


@pytest.mark.parametrize(
    ("merge", "beside", "mode", "way"),
    [
        (0.0625, 9.0, "merged at each change", "1 merged anew at each change (0.062 s)"),
        (9.0, 0.125, "live", "1 beside their layers (0.125 s a run)"),
    ],
)
def test_how_it_is_followed_is_told_once_it_is_known(net, asked, clock, merge, beside, mode, way):  # noqa: PLR0917
    clock.update(merge=merge, beside=beside)
    with Session(unet=net) as session:
        assert session.activate([asked(unet=RAMP)], NOW).schedule_note == ""
        session.set_step(NOW)
        net(None, picture(1))
        assert session.report.schedule_note == f"of the weights that change while drawing, {way}"
        assert session.report.adapters[0].mode == mode
        assert session.bypassed_modules() == ([net.conv_in] if mode == "live" else [])
        session.activate([asked(unet=0.5)], NOW)
        assert session.report.schedule_note == ""
        assert session.report.adapters[0].mode == "merged"


@pytest.mark.parametrize(
    ("kind", "more", "way"),
    [
        ("OFT", {"mode": "live"}, "1 computed in each run"),
        ("OFT", {}, "1 merged anew at each change"),
        ("LoRA", {"mode": "merged"}, "1 merged anew at each change"),
    ],
)
def test_where_there_is_no_choice_it_is_told_at_once(net, asked, kind, more, way):
    with Session(unet=net) as session:
        report = session.activate([asked(kind, unet=RAMP, **more)], NOW)
        assert report.schedule_note == f"of the weights that change while drawing, {way}"


def test_what_must_run_beside_is_timed_to_be_told(net, asked, clock):
    with Session(unet=net) as session:
        assert session.activate([asked(unet=RAMP, mode="live")], NOW).schedule_note == ""
        net(None, picture(1))
        assert session.report.schedule_note.endswith("1 beside their layers (1.000 s a run)")


@pytest.mark.parametrize("kind", ["LoRA", "OFT"])
def test_a_picture_goes_on_over_other_weights(net, asked, kind):
    """With its rows, where it is among them, and the strength of its step."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    after, wanted = {name: 0.5 * tensor for name, tensor in before.items()}, []
    net.load_state_dict(after)
    for strength in (0.25, 0.0):
        with Session(unet=net) as session:
            session.activate([asked(kind, unet=strength)], NOW)
            wanted.append(net(None, picture(1))[0])
    net.load_state_dict(before)
    with Session(unet=net) as session:
        session.activate([asked(kind, unet=RAMP, rows=MINE)], NOW)
        session.set_step(SamplingStep(3, 5), [0, 1, 1, 0])
        net(None, picture(2))
        net.load_state_dict(after)
        torch.testing.assert_close(net(None, picture(2)), torch.stack(wanted), rtol=1e-4, atol=1e-5)


def test_another_picture_begins_with_its_own_step_and_all_rows(net, asked, plain):
    with Session(unet=net) as session:
        session.activate([asked(unet=0.5)], NOW)
        half = net(None, picture(1))
    with Session(unet=net) as session:
        session.activate([asked(unet=RAMP, mode="merged")], SamplingStep(2, 5))
        torch.testing.assert_close(net(None, picture(1)), half, rtol=1e-4, atol=1e-5)
        session.activate([asked(rows=MINE)], NOW)
        session.set_step(NOW, [0, 1])
        assert acts(net, plain, 3) == [0, 0, 0]
        assert session.report.rows_unresolved
        session.activate([asked(rows=MINE, unet=0.5)], NOW)
        assert not session.report.rows_unresolved
        assert acts(net, plain, 3) == [1, 1, 1]


def test_where_an_activation_fails_the_picture_goes_on_as_it_was(net, asked, monkeypatch):
    with Session(unet=net) as session:
        session.activate([asked(unet=0.5)], NOW)
        half = net(None, picture(1))
        session.activate([asked(unet=RAMP, mode="live")], NOW)

        def broken(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(session, "_update_report", broken)
        with pytest.raises(KeyboardInterrupt):
            session.activate([asked(unet=1.0)], NOW)
        monkeypatch.undo()
        assert session.is_dynamic
        session.set_step(SamplingStep(2, 5))
        torch.testing.assert_close(net(None, picture(1)), half, rtol=1e-4, atol=1e-5)


def test_a_text_is_nobodys_until_it_is_said_whose_it_is(net, tmp_path):
    encoder = nn.ModuleDict({"final_layer_norm": nn.Linear(4, 4)}).requires_grad_(False)
    layer, x = encoder["final_layer_norm"], torch.ones(1, 4)
    adapter = adapter_for(encoder, tmp_path / "te.safetensors", prefix="lora_te_")
    before, first, second = layer(x), Request(adapter, rows=MINE), Request(adapter, te=0.5, rows=MINE)
    with Session(unet=net, text_encoders=[encoder]) as session:
        session.activate([first], NOW)
        assert torch.equal(layer(x), before)
        seen = []
        for voice in (1, 0, None, 1):
            session.set_text_row(voice)
            seen.append(not torch.equal(layer(x), before))
        session.activate([second], NOW)
        seen.append(not torch.equal(layer(x), before))
    assert seen == [True, False, False, True, True]


def test_the_size_of_the_picture_is_taken_from_the_first_run_that_has_one(net, asked, clock, monkeypatch):
    seen, original = [], apply_mode.ModeSelector.select
    monkeypatch.setattr(apply_mode.ModeSelector, "select", lambda *given: seen.append(given[3]) or original(*given))
    with Session(unet=net) as session:
        session.activate([asked(unet=RAMP)], NOW)
        for x in (torch.ones(4, 6, 6), torch.ones(3, 4, 6, 8), torch.ones(2, 4, 6, 10)):
            net(torch.ones(3, 5), x)
        assert seen == [apply_mode.LatentShape(3, 6, 8)]  # three axes are no picture
        session.activate([asked(unet=RAMP, mode="merged")], NOW)
        net(None, picture(1))
        assert len(seen) == 1


def test_whatever_fails_between_two_steps_the_model_has_its_own_weights(net, asked, plain, monkeypatch):
    session = Session(unet=net)
    session.activate([asked(unet=RAMP, mode="merged")], NOW)
    assert acts(net, plain, 1) == [1]

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(session._weight_patcher, "apply", broken)
    with pytest.raises(MemoryError):
        session.set_step(SamplingStep(3, 4))  # the first in which nothing is added: one parameter less
    assert acts(net, plain, 1) == [0]
    assert session.active == ()
