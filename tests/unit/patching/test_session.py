"""A session: what is active, and the model given back bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from lib_adapters import AdapterError, Request, Session, open_adapter
from tests.support.sample_adapters import MAKERS, adapter_file, adapter_for, full, layers, lora
from tests.support.tiny_models import clip, diffusers_unet, ldm_unet, open_clip

SOME = ("middle_block", "input_blocks.1.", "time_embed", "input_blocks.0")


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def hooks(model):
    """Everything that could run beside a module's own forward."""
    found = 0
    for module in model.modules():
        found += len(module._forward_pre_hooks) + len(module._forward_hooks)
        found += len(module._load_state_dict_pre_hooks) + ("forward" in module.__dict__)
    return found


@pytest.fixture
def unet():
    return ldm_unet()


@pytest.fixture
def adapter(unet, tmp_path):
    return adapter_for(unet, tmp_path / "ink.safetensors", only=SOME)


def test_each_touched_weight_is_base_plus_delta(unet, tmp_path):
    shapes = {name: shape for name, shape in layers(unet).items() if any(some in name for some in SOME)}
    generator = torch.Generator().manual_seed(7)
    expected = state(unet)
    for name, shape in shapes.items():
        leaves = lora(shape, generator)
        down, up = leaves["lora_down.weight"].flatten(1), leaves["lora_up.weight"].flatten(1)
        expected[f"{name}.weight"] = expected[f"{name}.weight"] + 0.5 * (up @ down).view(shape)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", shapes))
    report = Session(unet=unet).activate([Request(adapter, unet=0.5)])
    now = state(unet)
    assert {name for name in now if not torch.allclose(now[name], expected[name], atol=1e-6)} == set()
    assert report.adapters[0].matched == len(shapes) == report.adapters[0].total
    assert report.adapters[0].unmatched == []


def test_restored_bit_for_bit_and_nothing_left_behind(unet, adapter):
    before = state(unet)
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    assert not same(state(unet), before)
    assert hooks(unet) > 0
    session.deactivate()
    assert same(state(unet), before)
    assert hooks(unet) == 0
    assert session.verify()


def test_an_idle_session_puts_nothing_on_the_model(unet):
    session = Session(unet=unet)
    session.activate([])
    assert hooks(unet) == 0


def test_one_guard_for_each_root_while_active(unet, adapter):
    encoder = clip()
    session = Session(unet=unet, text_encoders=[encoder])
    session.activate([Request(adapter)])
    assert sum(len(module._forward_pre_hooks) for root in (unet, encoder) for module in root.modules()) == 2
    assert not any("forward" in module.__dict__ for module in unet.modules())


def test_context_manager_restores_when_the_body_raises(unet, adapter):
    before = state(unet)
    with pytest.raises(ZeroDivisionError):
        _raise_while_active(unet, adapter)
    assert same(state(unet), before)


def _raise_while_active(unet, adapter):
    with Session(unet=unet) as session:
        session.activate([Request(adapter)])
        raise ZeroDivisionError


def test_the_same_requests_touch_nothing(unet, adapter):
    session = Session(unet=unet)
    first = session.activate([Request(adapter)])
    pointers = [parameter.data_ptr() for parameter in unet.parameters()]
    assert session.activate([Request(adapter)]) is first
    assert [parameter.data_ptr() for parameter in unet.parameters()] == pointers


def test_only_what_changed_is_computed_again(unet, tmp_path):
    a = adapter_for(unet, tmp_path / "a.safetensors", only=("middle_block",))
    b = adapter_for(unet, tmp_path / "b.safetensors", only=("time_embed",))
    session = Session(unet=unet)
    session.activate([Request(a)])
    kept = unet.get_submodule("middle_block.0.in_layers.2").weight.data_ptr()
    session.activate([Request(a), Request(b)])
    assert unet.get_submodule("middle_block.0.in_layers.2").weight.data_ptr() == kept


def test_stacks_do_not_depend_on_their_order(unet, tmp_path):
    made = [adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS[n], SOME, seed=i) for i, n in enumerate(MAKERS)]
    stack = [Request(adapter, unet=0.3 + 0.1 * n) for n, adapter in enumerate(made)]
    session = Session(unet=unet)
    session.activate(stack)
    forward = state(unet)
    session.activate(stack[::-1])
    session.deactivate()
    session.activate(stack[::-1])
    assert same(state(unet), forward)


def test_a_b_a(unet, tmp_path):
    a = adapter_for(unet, tmp_path / "a.safetensors", MAKERS["OFT"], SOME)
    b = adapter_for(unet, tmp_path / "b.safetensors", MAKERS["IA3"], SOME)
    session = Session(unet=unet)
    session.activate([Request(a)])
    first = state(unet)
    session.activate([Request(b)])
    session.activate([Request(a)])
    assert same(state(unet), first)
    session.deactivate()
    assert session.verify()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_storage_types_are_summed_in_float32_and_cast_once(unet, tmp_path, dtype):
    a, b = (adapter_for(unet, tmp_path / f"{n}.safetensors", only=("middle_block",), seed=n) for n in (1, 2))
    exact = copy.deepcopy(unet)
    unet.to(dtype)
    for mine, theirs in zip(unet.parameters(), exact.parameters(), strict=True):
        theirs.data = mine.data.float()
    before = {name: tensor.view(torch.uint8).clone() for name, tensor in unet.state_dict().items()}
    stack = [Request(a, unet=0.1), Request(b, unet=-0.2)]
    session = Session(unet=unet)
    session.activate(stack)
    Session(unet=exact).activate(stack)
    for mine, theirs in zip(unet.parameters(), exact.parameters(), strict=True):
        assert mine.dtype == dtype
        assert torch.equal(mine.data.float(), theirs.data.to(dtype).float())
    session.deactivate()
    assert all(tensor.view(torch.uint8).equal(before[name]) for name, tensor in unet.state_dict().items())


def test_text_encoders_have_a_strength_of_their_own(unet, tmp_path):
    encoder = clip()
    shapes = {name: s for name, s in layers(encoder).items() if "layers.0." in name}
    adapter = open_adapter(adapter_file(tmp_path / "te.safetensors", shapes, prefix="lora_te_"))
    before = state(encoder)
    session = Session(unet=unet, text_encoders=[encoder])
    assert session.activate([Request(adapter, te=0.0)]).adapters[0].matched == 0
    assert same(state(encoder), before)
    assert session.activate([Request(adapter, unet=0.0)]).adapters[0].matched == len(shapes)
    assert not same(state(encoder), before)


def test_any_subset_of_fused_rows(tmp_path):
    tower = open_clip()
    before = state(tower)
    shapes = {f"text_model.encoder.layers.2.self_attn.{n}_proj": (24, 24) for n in "kv"}
    adapter = open_adapter(adapter_file(tmp_path / "te.safetensors", shapes, full, prefix="lora_te_"))
    session = Session(text_encoders=[tower])
    assert session.activate([Request(adapter)]).adapters[0].matched == 2
    for kind in ("weight", "bias"):
        name = f"transformer.resblocks.2.attn.in_proj_{kind}"
        changed = (tower.state_dict()[name] != before[name]).reshape(3, 24, -1).any(-1).any(-1)
        assert changed.tolist() == [False, True, True]
    session.deactivate()
    assert same(state(tower), before)


def test_a_bias_for_a_layer_that_has_none(unet, tmp_path):
    adapter = adapter_for(unet, tmp_path / "f.safetensors", full, ("middle_block.1.transformer_blocks.0.attn1.to_q",))
    layer = unet.get_submodule("middle_block.1.transformer_blocks.0.attn1.to_q")
    x = torch.randn(2, layer.in_features)
    plain = layer(x)
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    assert layer.bias is not None
    assert not torch.allclose(layer(x), plain)
    session.deactivate()
    assert layer.bias is None
    assert torch.equal(layer(x), plain)


@pytest.mark.parametrize("channels", [8, 9])
def test_conv_in_of_an_inpainting_model_takes_its_first_four_channels(tmp_path, channels):
    unet = ldm_unet(in_channels=channels)
    adapter = open_adapter(adapter_file(tmp_path / "a.safetensors", {"conv_in": (32, 4, 3, 3)}))
    before = unet.state_dict()["input_blocks.0.0.weight"].clone()
    assert Session(unet=unet).activate([Request(adapter)]).adapters[0].matched == 1
    after = unet.state_dict()["input_blocks.0.0.weight"]
    assert torch.equal(after[:, 4:], before[:, 4:])
    assert not torch.equal(after[:, :4], before[:, :4])


def test_an_inpainting_conv_in_does_not_go_into_a_plain_model(unet, tmp_path):
    shapes = {"conv_in": (32, 9, 3, 3), "conv_out": (4, 32, 3, 3)}
    report = Session(unet=unet).activate([Request(open_adapter(adapter_file(tmp_path / "a.safetensors", shapes)))])
    (reason,) = [reason for key, reason in report.adapters[0].unmatched if "conv_in" in key]
    assert "[32, 9, 3, 3]" in reason
    assert "[32, 4, 3, 3]" in reason
    assert report.adapters[0].matched == 1


def test_another_familys_file_is_refused_with_both_names(unet, tmp_path):
    adapter = adapter_for(diffusers_unet(family="sdxl"), tmp_path / "xl.safetensors")
    before = state(unet)
    (one,) = Session(unet=unet).activate([Request(adapter)]).adapters
    assert "SDXL" in (one.error or "")
    assert "Stable Diffusion 1" in (one.error or "")
    assert one.matched == 0
    assert same(state(unet), before)


def test_a_bad_adapter_does_not_stop_the_good_one(unet, adapter, tmp_path):
    bad = open_adapter(adapter_file(tmp_path / "bad.safetensors", {"conv_in": (8, 8, 3, 3)}))
    report = Session(unet=unet).activate([Request(bad), Request(adapter)])
    assert [one.error is None for one in report.adapters] == [False, True]
    assert "bad" in report.lines()[0]


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_is_a_number(adapter, strength):
    with pytest.raises(AdapterError, match="finite"):
        Request(adapter, unet=strength)
