"""Two writers of one weight: `<lora:` left to the built-in, `<lyco:` ours. Removing either leaves no trace."""

from __future__ import annotations

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.hosts.webui import webui_modules
from tests.fake_webui import builtin_lora, extra_networks
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put
from tests.support.sample_adapters import ia3


@pytest.fixture
def shared(webui):
    """The setting off, and one network in the built-in that touches a layer of ours."""
    webui.shared.opts.lycoris_handle_lora = False
    layer = dict(webui.model.unet.named_modules())["input_blocks.1.1.transformer_blocks.0.attn1.to_q"]
    torch.manual_seed(5)
    builtin_lora.deltas["theirs"] = {layer.network_layer_name: torch.randn_like(layer.weight) * 0.3}
    return webui


def summed(adapter, unet):
    """The picture of both deltas on a model of its own, with no extension in it."""
    builtin_lora.loaded_networks.clear()
    model = checkpoint()
    layer = dict(model.unet.named_modules())["input_blocks.1.1.transformer_blocks.0.attn1.to_q"]
    with torch.no_grad():
        layer.weight.add_(builtin_lora.deltas["theirs"][layer.network_layer_name])
        with Session(model.unet, [model.clip]) as session:
            session.activate([Request(adapter, unet=unet)])
            return model.denoise(model.text())


def test_both_in_one_prompt_give_the_sum(shared):
    adapter = put(shared)
    plain = shared.picture("x").image
    for prompt in ("x <lora:theirs:1><lyco:ink:0.7>", "x <lyco:ink:0.7><lora:theirs:1>"):
        torch.testing.assert_close(shared.picture(prompt).image, summed(adapter, 0.7), rtol=1e-4, atol=1e-4)
        assert torch.equal(shared.picture("x").image, plain)


def test_what_reads_the_weight_reads_it_without_the_builtins_delta(shared):
    """IA3 scales the weight: scaled by the trainer's factors is the checkpoint's, not the sum."""
    put(shared, "scale", maker=ia3)
    layer = dict(shared.model.unet.named_modules())["input_blocks.1.1.transformer_blocks.0.attn1.to_q"]
    base, delta = layer.weight.data.clone(), builtin_lora.deltas["theirs"][layer.network_layer_name]
    shared.picture("x <lyco:scale:1>")
    scaled = layer.weight.data.clone()
    shared.picture("x <lora:theirs:1><lyco:scale:1>")
    torch.testing.assert_close(layer.weight.data, base + delta)
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ (scaled + delta).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [("lora", "lyco"), ("lyco", "lora")])
def test_one_after_the_other_leaves_no_trace(shared, order):
    put(shared)
    tags = {"lora": "<lora:theirs:1>", "lyco": "<lyco:ink:1>"}
    plain = shared.picture("x").image
    alone = {kind: shared.picture(f"x {tags[kind]}").image for kind in order}
    both = shared.picture(f"x {tags['lora']}{tags['lyco']}").image
    assert all(not torch.equal(both, one) for one in alone.values())
    for kind in (*order, *order):
        assert torch.equal(shared.picture(f"x {tags[kind]}").image, alone[kind])
    assert torch.equal(shared.picture("x").image, plain)
    fresh = checkpoint().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in shared.model.state_dict().items())


def test_its_lazy_delta_is_out_before_ours_goes_in(shared):
    """Its delta stays in the weights after its last picture: what we keep as pristine must not have it."""
    adapter = put(shared)
    shared.picture("x <lora:theirs:1>")
    image = shared.picture("x <lyco:ink:1>").image
    model = checkpoint()
    with Session(model.unet, [model.clip]) as session, torch.no_grad():
        session.activate([Request(adapter)])
        torch.testing.assert_close(image, model.denoise(model.text()))


def test_hooks_are_gone_afterwards(shared):
    put(shared)
    shared.picture("x <lora:theirs:1><lyco:ink:1>")
    shared.picture("x")
    assert sum(len(module._forward_pre_hooks) for module in shared.model.modules()) == 0
    assert not any("forward" in vars(module) for module in shared.model.modules())


def test_the_setting_counts_at_once(shared):
    put(shared, "theirs")
    left = shared.picture("x <lora:theirs:1>").image
    shared.shared.opts.lycoris_handle_lora = True
    ours = shared.picture("x <lora:theirs:1>").image
    assert not torch.equal(left, ours)
    assert builtin_lora.loaded_networks == []
    plain = shared.picture("x").image
    shared.shared.opts.lycoris_handle_lora = False
    assert torch.equal(shared.picture("x <lora:theirs:1>").image, left)
    shared.shared.opts.lycoris_handle_lora = True
    assert torch.equal(shared.picture("x").image, plain)


def test_the_alias_of_the_builtin_does_not_get_our_tag(shared):
    put(shared, "theirs")
    shared.picture("x <lyco:theirs:1>")
    assert builtin_lora.loaded_networks == []
    assert extra_networks.displayed == []


def test_the_default_of_the_builtin_is_its_own_while_it_has_the_tag(shared):
    shared.shared.opts.sd_lora = "theirs"
    job = shared.picture("x")
    assert job.all_prompts == ["x"]
    assert webui_modules.builtin_networks() is builtin_lora
