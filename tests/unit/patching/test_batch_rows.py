"""Adapters for some rows of a batch, against each row drawn by itself with just its own adapters."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lib_adapters import Request, Session, open_adapter
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.patching.batch_rows import row_strengths_of
from lib_adapters.patching.layers import WeightView
from lib_adapters.patching.patch import Patch, ScheduledStrength
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_file, adapter_for, layers, lora
from tests.support.tiny_models import clip, ldm_unet
from tests.unit.patching.test_algorithms_in_session import EXAMPLES, PLACE, inputs, model_of, opened
from tests.unit.patching.test_scheduled_strength import close, run_unet

FIRST, SECOND, NEGATIVE = 0, 1, 2
NOW = SamplingStep(0, 4)


@pytest.fixture(scope="module")
def unet():
    return ldm_unet()


def each_by_itself(model, requests, rows):
    """Row by row: the picture of a batch of as many rows, all with that row's adapters."""
    drawn = []
    for number, row in enumerate(rows):
        with Session(unet=model) as session:
            session.activate([Request(r.adapter, unet=r.unet) for r in requests if r.rows is None or row in r.rows])
            drawn.append(run_unet(model, len(rows))[number])
    return torch.stack(drawn)


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("mode", ["auto", "live"])
def test_rows_are_as_if_drawn_by_themselves(unet, tmp_path, kind, mode):
    made = [adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS[kind], seed=n) for n in range(3)]
    requests = [
        Request(made[0], unet=0.5, rows=frozenset({FIRST}), mode=mode),
        Request(made[1], unet=-0.4, rows=frozenset({SECOND, NEGATIVE}), mode=mode),
        Request(made[2], unet=0.3),
    ]
    rows = [FIRST, SECOND, NEGATIVE, FIRST]
    plain = run_unet(unet, 4)
    wanted = each_by_itself(copy.deepcopy(unet), requests, rows)
    with Session(unet=unet) as session:
        session.activate(requests, NOW)
        session.set_step(NOW, rows)
        close(run_unet(unet, 4), wanted)
        session.set_step(NOW, rows)
        close(run_unet(unet, 4), wanted)
    assert torch.equal(run_unet(unet, 4), plain)


def test_a_mixed_stack_of_all_kinds(unet, tmp_path):
    some = ("middle_block", "input_blocks.4", "out.2")
    scopes = [{FIRST}, {SECOND}, {FIRST, NEGATIVE}, {NEGATIVE}, {FIRST, SECOND}]
    requests = [
        Request(adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS[kind], some), unet=0.3, rows=frozenset(scope))
        for n, (kind, scope) in enumerate(zip(MAKERS, scopes, strict=True))
    ]
    rows = [FIRST, SECOND, NEGATIVE]
    with Session(unet=unet) as session:
        session.activate(requests, NOW)
        session.set_step(NOW, rows)
        found = run_unet(unet, 3)
    close(found, each_by_itself(unet, requests, rows))


@pytest.mark.parametrize("cut", [(1, 1, 1, 1), (2, 2), (3, 1), (4,), (3,)])
def test_a_host_may_cut_its_batch(unet, tmp_path, cut):
    """And may leave the last rows out, as where the negative side is skipped."""
    adapter = adapter_for(unet, tmp_path / "a.safetensors", lora, ("middle_block",))
    requests, rows = [Request(adapter, rows=frozenset({SECOND}))], [FIRST, SECOND, FIRST, SECOND]
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 5, 24, generator=generator)
    with Session(unet=unet) as session:
        session.activate(requests, NOW)
        session.set_step(NOW, rows)
        whole = unet(x, torch.full((4,), 5), text)
        session.set_step(NOW, rows)
        parts, start = [], 0
        for size in cut:
            some = slice(start, start + size)
            parts.append(unet(x[some], torch.full((size,), 5), text[some]))
            start += size
    close(torch.cat(parts), whole[: sum(cut)])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_algorithm_and_kind_of_layer(tmp_path, name):
    model, adapter = model_of(EXAMPLES[name].shape), opened(name, tmp_path)
    layer, x = model[PLACE], inputs(model[PLACE])
    plain = layer(x)
    with Session(unet=model) as session:
        session.activate([Request(adapter, unet=0.6)])
        full = layer(x)
    with Session(unet=model) as session:
        session.activate([Request(adapter, unet=0.6, rows=frozenset({SECOND}))], NOW)
        session.set_step(NOW, [FIRST, SECOND])
        session._controller._plan.set_rows([FIRST, SECOND])  # a layer alone has no UNet around it that says how many
        found = layer(x)
    close(found[1], full[1])
    assert torch.allclose(found[0], plain[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_rows_of_a_layer_that_are_repeated(unet, tmp_path, kind):
    """Attention cut into tiles sees each row several times, one after the other."""
    path = "middle_block.1.transformer_blocks.0.attn1.to_q"
    layer = unet.get_submodule(path)
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS[kind], (path,))
    x = torch.randn(6, 3, layer.in_features, generator=torch.Generator().manual_seed(1))
    with Session(unet=unet) as session:
        session.activate([Request(adapter)])
        full = layer(x)
    with Session(unet=unet) as session:
        session.activate([Request(adapter, rows=frozenset({SECOND}))], NOW)
        session.set_step(NOW, [FIRST, SECOND])
        session._controller._plan.set_rows([FIRST, SECOND])
        found = layer(x)
        odd = layer(x[:5])
    close(found, torch.cat([layer(x[:3]), full[3:]]))
    assert torch.equal(odd, layer(x[:5]))  # five rows of two cannot be told apart: they go without


def test_rows_and_schedules_together(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    ramp = Request(adapter, unet=parse_curve("0@0,1@1"), rows=frozenset({SECOND}))
    with Session(unet=unet) as session:
        session.activate([ramp], NOW)
        for step in range(4):
            session.set_step(SamplingStep(step, 4), [FIRST, SECOND])
            found = run_unet(unet)
            there = Request(adapter, unet=step / 3, rows=frozenset({SECOND}))
            close(found, each_by_itself(copy_of(unet, session), [there], [FIRST, SECOND]))


def copy_of(unet, session):
    """The model without what is active."""
    twin = ldm_unet()
    assert session.active
    twin.load_state_dict(ldm_unet().state_dict())
    assert len(list(twin.parameters())) == len(list(unet.parameters()))
    return twin


def test_a_scope_that_no_row_has_is_absence(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS["OFT"])
    plain = run_unet(unet)
    with Session(unet=unet) as session:
        session.activate([Request(adapter, rows=frozenset({7}))], NOW)
        session.set_step(NOW, [FIRST, SECOND])
        assert torch.equal(run_unet(unet), plain)


def test_a_text_is_encoded_with_its_own_adapters(tmp_path):
    encoder = clip(layers=2)
    shapes = layers(encoder)
    files = [adapter_file(tmp_path / f"{n}.safetensors", shapes, prefix="lora_te_", seed=n) for n in (1, 2)]
    made = [open_adapter(file) for file in files]
    ids = torch.tensor([[97, 5, 6, 98]])

    def run():
        return encoder(ids).last_hidden_state

    plain, alone = run(), []
    for adapter in made:
        with Session(text_encoders=[encoder]) as session:
            session.activate([Request(adapter)])
            alone.append(run())
    requests = [Request(adapter, rows=frozenset({number})) for number, adapter in enumerate(made)]
    with Session(text_encoders=[encoder]) as session:
        session.activate(requests, NOW)
        for voice, wanted in ((0, alone[0]), (1, alone[1]), (None, plain), (5, plain), (0, alone[0])):
            session.set_text_row(voice)
            assert torch.equal(run(), wanted)
    assert torch.equal(run(), plain)


def patch_for(adapter, strength, rows=None):
    dial = None if rows is None else ScheduledStrength(Request(adapter), "unet", 0.5, row_strengths=rows)
    return Patch(
        ("x", LayerKey("unet", "x"), strength, 0, "weight"),
        WeightView(),
        EXAMPLES["lora"].read(),
        strength,
        scheduled=dial,
    )


def test_what_is_told_of_a_batch_of_rows(tmp_path):
    """Eight rows, of which a layer sees each twice."""
    adapter, cpu = opened("lora", tmp_path), torch.device("cpu")
    still, some = patch_for(adapter, 2.0), patch_for(adapter, 1.0, (1, 1, 0, 1, 1, 1, 0, 1))
    one = patch_for(adapter, 4.0, (0, 0, 0, 1, 1, 1, 0, 0))
    alike = replace(still, scheduled=ScheduledStrength(Request(adapter), "unet", 0.25))
    rows = row_strengths_of([still, some, one, alike])
    assert row_strengths_of([still, alike]) is None
    assert rows.strengths([still, some, one, alike], 16)[1::2].tolist() == [
        [2.0, a, b, 0.5] for a, b in ((0.5, 0), (0.5, 0), (0, 0), (0.5, 2), (0.5, 2), (0.5, 2), (0, 0), (0.5, 0))
    ]
    found = [(row, where if isinstance(where, slice) else where.tolist()) for row, where in rows.groups(16, cpu)]
    assert found == [(0, [0, 1, 2, 3, 14, 15]), (2, [4, 5, 12, 13]), (3, slice(6, 12))]
    spread = rows.layout([some, one], 16, cpu)
    assert spread.runs == [slice(0, 4), slice(6, 12), slice(14, 16)]
    assert (spread.acting, spread.distinct) == (12, 2)
    assert [rows.strengths([some], 15), rows.groups(15, cpu), rows.layout([some], 15, cpu)] == [None, None, None]
