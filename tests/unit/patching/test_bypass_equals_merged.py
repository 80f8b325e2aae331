"""Live and merged are two ways to the same output, for every kind of delta and layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session, open_adapter
from tests.support.sample_adapters import MAKERS, adapter_file, adapter_for, full, layers
from tests.support.tiny_models import clip, ldm_unet, open_clip


def run_unet(unet):
    generator = torch.Generator().manual_seed(3)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    return unet(x, torch.tensor([5, 7]), context)


def assert_same_output(model, run, requests, encoders=False):
    made = {}
    plain = run(model)
    for mode in ("merged", "live"):
        kwargs = {"text_encoders": [model]} if encoders else {"unet": model}
        with Session(mode=mode, **kwargs) as session:
            report = session.activate(requests)
            assert all(one.error is None for one in report.adapters)
            made[mode] = run(model)
        assert torch.equal(run(model), plain)
    torch.testing.assert_close(made["live"], made["merged"], rtol=1e-4, atol=2e-5)
    assert not torch.allclose(made["live"], plain, atol=1e-3)


@pytest.fixture(scope="module")
def unet():
    return ldm_unet()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_unet_gives_the_same_both_ways(unet, tmp_path, kind):
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS[kind])
    assert_same_output(unet, run_unet, [Request(adapter, unet=0.4)])


def test_a_mixed_stack_gives_the_same_both_ways(unet, tmp_path):
    some = ("middle_block", "input_blocks.4", "out.2")
    made = [adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS[n], some) for n in MAKERS]
    assert_same_output(unet, run_unet, [Request(adapter, unet=0.3) for adapter in made])


def run_open_clip(tower):
    return tower(torch.tensor([[97, 5, 6, 98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]))


@pytest.mark.parametrize("kind", ["LoRA", "Full"])
def test_an_attention_that_reads_its_weights_itself(tmp_path, kind):
    """nn.MultiheadAttention calls neither q, k, v nor out_proj as layers."""
    tower = open_clip(layers=2)
    width = 24
    shapes = {f"text_model.encoder.layers.1.self_attn.{n}_proj": (width, width) for n in ("q", "v", "out")}
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", shapes, MAKERS[kind], prefix="lora_te_"))
    assert_same_output(tower, run_open_clip, [Request(adapter)], encoders=True)


def test_bare_parameters_and_embeddings(tmp_path):
    tower = open_clip(layers=2)
    shapes = {"text_projection": (16, 24), "text_model.embeddings.token_embedding": (99, 24)}
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", shapes, _weight_only, prefix="lora_te_"))
    assert_same_output(tower, run_open_clip, [Request(adapter)], encoders=True)


def _weight_only(shape, generator):
    return {"diff": full(shape, generator)["diff"]}


def test_a_hugging_face_encoder(tmp_path):
    encoder = clip(layers=2)
    shapes = layers(encoder)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", shapes, prefix="lora_te_"))
    ids = torch.tensor([[97, 5, 6, 98]])
    assert_same_output(encoder, lambda m: m(ids).last_hidden_state, [Request(adapter)], encoders=True)


def test_live_leaves_the_weights_alone(unet, tmp_path):
    before = {name: tensor.data_ptr() for name, tensor in unet.named_parameters()}
    session = Session(unet=unet, mode="live")
    session.activate([Request(adapter_for(unet, tmp_path / "a.safetensors", MAKERS["OFT"]))])
    run_unet(unet)
    assert {name: tensor.data_ptr() for name, tensor in unet.named_parameters()} == before
    assert [module for module in unet.modules() if module._forward_pre_hooks] == [unet]
    session.deactivate()
    assert not any("forward" in module.__dict__ for module in unet.modules())


def test_a_copy_of_a_live_model_runs_on_its_own_weights(unet, tmp_path):
    session = Session(unet=unet, mode="live")
    session.activate([Request(adapter_for(unet, tmp_path / "a.safetensors", MAKERS["OFT"]))])
    twin = copy.deepcopy(unet)
    expected = run_unet(unet)
    with torch.no_grad():
        unet.get_submodule("middle_block.0.in_layers.2").weight.mul_(0)
    assert torch.equal(run_unet(twin), expected)
    session.deactivate()
    with torch.no_grad():
        unet.get_submodule("middle_block.0.in_layers.2").weight.copy_(
            twin.get_submodule("middle_block.0.in_layers.2").weight
        )


def test_a_class_patched_later_is_not_bypassed(tmp_path, monkeypatch):
    layer = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3)})
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", {"conv_in": (8, 4, 3, 3)}))
    session = Session(unet=layer, mode="live")
    session.activate([Request(adapter)])
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: torch.full((1, 8, 2, 2), 7.0))
    x = torch.zeros(1, 4, 4, 4)
    assert torch.equal(layer["conv_in"](x), torch.full((1, 8, 2, 2), 7.0))


def test_a_forward_somebody_else_put_on_the_layer_is_kept(tmp_path):
    layer = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3)})
    calls = []

    def theirs(x):
        calls.append(1)
        return nn.Conv2d.forward(layer["conv_in"], x)

    layer["conv_in"].forward = theirs
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", {"conv_in": (8, 4, 3, 3)}))
    session = Session(unet=layer, mode="live")
    session.activate([Request(adapter)])
    layer["conv_in"](torch.randn(1, 4, 4, 4))
    session.deactivate()
    assert calls
    assert layer["conv_in"].__dict__["forward"] is theirs


def test_wrapped_by_somebody_later_we_only_pass_on(tmp_path):
    layer = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3)})
    x = torch.randn(1, 4, 4, 4)
    plain = layer["conv_in"](x)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", {"conv_in": (8, 4, 3, 3)}))
    session = Session(unet=layer, mode="live")
    session.activate([Request(adapter)])
    ours = layer["conv_in"].forward
    layer["conv_in"].forward = lambda x: ours(x)
    session.deactivate()
    assert torch.equal(layer["conv_in"](x), plain)


def test_live_in_half_precision(tmp_path):
    dtype = torch.bfloat16  # older releases of torch run no float16 convolution on the CPU
    layer = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3)}).to(dtype)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", {"conv_in": (8, 4, 3, 3)}))
    x = torch.randn(1, 4, 4, 4, dtype=dtype)
    outputs = []
    for mode in ("merged", "live"):
        with Session(unet=layer, mode=mode) as session:
            session.activate([Request(adapter)])
            outputs.append(layer["conv_in"](x))
    assert outputs[1].dtype == dtype
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("maker", [full, MAKERS["IA3"]], ids=["full", "ia3"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_layer_without_a_bias_has_none_while_it_runs(tmp_path, monkeypatch, kind, maker):
    """A second writer of the same layer takes a parameter that was not there for damage, and refuses to run."""
    module = nn.Conv2d(4, 8, 3, bias=False) if kind == "conv" else nn.Linear(4, 8, bias=False)
    layer, x = nn.ModuleDict({"conv_in": module}), torch.randn(2, 4, 4, 4)
    adapter = adapter_for(layer, tmp_path / "a.safetensors", maker)
    with Session(unet=layer) as session:
        session.activate([Request(adapter)])
        merged = module(x)
    seen, forward = [], type(module).forward
    monkeypatch.setattr(type(module), "forward", lambda self, x: seen.append(self.bias) or forward(self, x))
    with Session(unet=layer, mode="live") as session:
        session.activate([Request(adapter)])
        torch.testing.assert_close(module(x), merged)
    assert seen == [None]
