"""Models that change behind the session's back: loaded over, copied, saved, cast, replaced, dropped."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from tests.support.sample_adapters import adapter_for
from tests.support.tiny_models import ldm_unet

SOME = ("middle_block", "input_blocks.1.", "time_embed", "input_blocks.0")


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture
def unet():
    return ldm_unet()


@pytest.fixture
def adapter(unet, tmp_path):
    return adapter_for(unet, tmp_path / "ink.safetensors", only=SOME)


def test_new_weights_loaded_over_a_patched_model_stay(unet, adapter):
    other = state(diffusers_like(unet))
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    unet.load_state_dict(other)
    session.deactivate()
    assert same(state(unet), other)
    assert session.verify()


def diffusers_like(unet):
    """Another checkpoint of the same architecture."""
    fresh = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(1.5)
    return fresh


@pytest.mark.parametrize("assign", [False, True])
def test_the_guard_puts_adapters_on_weights_loaded_behind_our_back(unet, adapter, assign):
    other = diffusers_like(unet)
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    unet.load_state_dict(state(other), assign=assign)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 24)
    result = unet(*inputs)
    Session(unet=other).activate([Request(adapter)])
    assert torch.equal(result, other(*inputs))


def test_a_copy_of_a_patched_model_is_independent(unet, adapter):
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    patched = state(unet)
    twin = copy.deepcopy(unet)
    session.deactivate()
    assert same(state(twin), patched)
    twin(torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 24))
    assert same(state(twin), patched)


def test_a_patched_model_can_be_saved(unet, adapter):
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    buffer = io.BytesIO()
    torch.save(unet, buffer)
    buffer.seek(0)
    assert same(state(torch.load(buffer, weights_only=False)), state(unet))


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.double, lambda m: m.to(torch.bfloat16)])
def test_a_model_cast_while_patched_comes_back_in_its_new_type(unet, adapter, move):
    expected = state(move(copy.deepcopy(unet)))
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    move(unet)
    session.deactivate()
    assert same(state(unet), expected)
    assert session.verify()


def test_weights_replaced_without_a_word_are_the_new_pristine_ones(unet, adapter):
    layer = unet.get_submodule("time_embed.0")
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    new = torch.randn_like(layer.weight)
    layer.weight = nn.Parameter(new.clone())
    session.deactivate()
    assert torch.equal(layer.weight, new)


def test_an_old_model_is_freed(tmp_path):
    unet = ldm_unet()
    adapter = adapter_for(unet, tmp_path / "a.safetensors")
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    root, pristine = weakref.ref(unet), [weakref.ref(t) for t in session._weight_patcher.originals().values()]
    del unet
    gc.collect()
    assert root() is None
    assert not any(ref() is not None for ref in pristine)
    session.deactivate()


def test_verify_notices_a_byte(unet, adapter):
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    next(iter(session._weight_patcher.originals().values())).view(-1)[0] += 1e-3
    assert not session.verify()
