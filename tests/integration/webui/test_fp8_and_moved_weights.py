"""What the engine offers a host that keeps exact weights beside fp8 ones, moves its models and throws them away."""

from __future__ import annotations

import torch

from lib_adapters import Request, Session
from lib_adapters.hosts.webui.model_sessions import fp16_weight
from tests.support import tiny_models
from tests.support.sample_adapters import adapter_for

ONLY = ("input_blocks.1.1.transformer_blocks.0.attn1.to_q",)


def fp8_unet(*, kept):
    """As the host stores it: fp8 weights, the halves beside them (on the CPU) or nowhere."""
    unet = tiny_models.ldm_unet()
    layer = unet.get_submodule(ONLY[0])
    half = layer.weight.data.half()
    layer.weight.data = half.to(torch.float8_e4m3fn)
    if kept:
        layer.fp16_weight = half
    return unet, layer, half


def test_deltas_are_added_to_the_exact_weight(tmp_path):
    for kept in (True, False):
        unet, layer, half = fp8_unet(kept=kept)
        stored = layer.weight.data
        adapter = adapter_for(unet, tmp_path / "ink.safetensors", only=ONLY)
        (algorithm,) = adapter.load().algorithms.values()
        base = half.float() if kept else stored.float()
        with Session(unet, base_of=fp16_weight) as session:
            session.activate([Request(adapter)])
            assert same_bytes(layer.weight.data, (base + algorithm.delta(base)).to(torch.float8_e4m3fn))
            session.activate([Request(adapter, unet=0.5)])
            assert same_bytes(layer.weight.data, (base + algorithm.delta(base) * 0.5).to(torch.float8_e4m3fn))
        assert same_bytes(layer.weight.data, stored)


def same_bytes(one, other):
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_a_model_sent_to_meta_asks_for_nothing(tmp_path):
    unet = tiny_models.ldm_unet()
    session = Session(unet)
    session.activate([Request(adapter_for(unet, tmp_path / "ink.safetensors", only=ONLY))])
    unet.to("meta")
    session.deactivate()
    assert session.verify()


def test_weights_that_only_moved_are_not_computed_again(tmp_path, monkeypatch):
    """A host short of memory moves its model before every run, and the guard sees other pointers each time."""
    unet = tiny_models.ldm_unet()
    with Session(unet) as session:
        session.activate([Request(adapter_for(unet, tmp_path / "ink.safetensors", only=ONLY))])
        for parameter in unet.parameters():
            parameter.data = parameter.data.clone()
        table = "lib_adapters.patching.components.ModelComponents.layer_table"
        monkeypatch.setattr(table, lambda _: (_ for _ in ()).throw(AssertionError("computed again")))
        with torch.no_grad():
            unet(torch.zeros(1, 4, 8, 8), torch.tensor([1]), context=torch.zeros(1, 8, tiny_models.CONTEXT))
        monkeypatch.undo()


def test_live_layers_are_named(tmp_path):
    unet = tiny_models.ldm_unet()
    with Session(unet, mode="live") as session:
        session.activate([Request(adapter_for(unet, tmp_path / "ink.safetensors", only=ONLY))])
        assert session.bypassed_modules() == [unet.get_submodule(ONLY[0])]
    assert session.bypassed_modules() == []
