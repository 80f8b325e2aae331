"""`<hypernet:...>` in the double of the web UI, by our hands or by the host's, and never by both."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.conditioning.hypernetwork_patcher import (
    HypernetworkPatcher,
    HypernetworkRequest,
    attention_projections,
)
from tests.fake_webui import extra_networks
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put
from tests.unit.conditioning.test_hypernetworks import module, save


def put_net(webui, name="glow", widths=None, seed=5):
    torch.manual_seed(seed)
    folder = webui.folder / "hypernetworks"
    folder.mkdir(exist_ok=True)
    widths = widths or {one.width for one in attention_projections(webui.model.unet)}
    nets = {width: tuple(module(width, [1, 2, 1], "relu") for _ in "kv") for width in widths}
    (folder / name).parent.mkdir(exist_ok=True)
    return save(folder / f"{name}.pt", nets, activation_func="relu", name="another name inside")


def expected(*steerings):
    model = checkpoint()
    with torch.no_grad():
        HypernetworkPatcher(model.unet).activate(list(steerings))
        return model.denoise(model.text())


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._load_state_dict_pre_hooks) for m in model.modules())


def test_a_tag_is_active_for_its_picture_only(webui):
    net = put_net(webui)
    plain = webui.picture("a cat").image
    job = webui.picture("a cat <hypernet:glow:0.7>")
    torch.testing.assert_close(job.image, expected(HypernetworkRequest(net, 0.7)))
    assert any(line.startswith("glow: ") and "attentions" in line for line in job.comments), job.comments
    assert torch.equal(webui.picture("a cat").image, plain)
    assert hooks(webui.model) == 0
    assert webui.shared.loaded_hypernetworks == []


def test_together_with_adapters_and_in_the_prompts_order(webui):
    put(webui)
    first, second = put_net(webui), put_net(webui, "dusk", seed=6)
    both = webui.picture("<hypernet:glow:0.5> x <hypernet:dusk:-1>").image
    torch.testing.assert_close(both, expected(HypernetworkRequest(first, 0.5), HypernetworkRequest(second, -1)))
    mixed = webui.picture("<hypernet:glow:0.5><lyco:ink:0.8>")
    assert {line.partition(":")[0] for line in mixed.comments} == {"glow", "ink"}
    assert not torch.equal(mixed.image, webui.picture("<hypernet:glow:0.5>").image)
    webui.picture("x")
    assert hooks(webui.model) == 0


def test_the_settings_default_is_written_into_the_prompt_once(webui):
    net = put_net(webui)
    webui.shared.opts.sd_hypernetwork = "glow"
    for _ in range(2):
        job = webui.picture("a cat")
        assert job.all_prompts == ["a cat<hypernet:glow:0.5>"]
        torch.testing.assert_close(job.image, expected(HypernetworkRequest(net, 0.5)))
    assert webui.picture("a cat <hypernet:glow:0.1>").all_prompts == ["a cat <hypernet:glow:0.1>"]


def test_the_hosts_own_has_the_tag_while_the_user_leaves_it_there(webui):
    put_net(webui)
    webui.picture("<hypernet:glow>")
    webui.shared.opts.lycoris_handle_hypernet = False
    webui.picture("<hypernet:glow:0.3>")
    assert webui.own_hypernet.calls == [[["glow", "0.3"]]]
    assert hooks(webui.model) == 0
    webui.shared.opts.lycoris_handle_hypernet = True
    assert webui.shared.loaded_hypernetworks == ["glow"]
    webui.picture("<hypernet:glow:0.3>")
    assert webui.shared.loaded_hypernetworks == []  # else it would be applied twice
    assert hooks(webui.model) > 0


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("<hypernet:gloww>", "no hypernetwork is called 'gloww'; did you mean 'glow'"),
        ("<hypernet:glow:much>", "'much' is not a finite number"),
        ("<hypernet:broken>", "broken.pt "),
        ("<hypernet:strange>", "strange has nets for widths 7; this model's attention has"),
    ],
)
def test_what_cannot_be_used_is_said_under_the_picture(webui, tag, said):
    put_net(webui)
    put_net(webui, "strange", widths=[7])
    (webui.folder / "hypernetworks" / "broken.pt").write_bytes(b"nothing")
    plain = webui.picture("x").image
    job = webui.picture(f"x {tag}")
    assert any(said in line for line in job.comments), job.comments
    assert torch.equal(job.image, plain)


def test_another_model_and_the_end(webui):
    net = put_net(webui)
    webui.picture("<hypernet:glow>")
    old, webui.model = webui.model, checkpoint()
    webui.sd_models.model_data.sd_model = webui.model
    torch.testing.assert_close(webui.picture("<hypernet:glow>").image, expected(HypernetworkRequest(net, 1.0)))
    assert hooks(old) == 0
    webui.call("script_unloaded", backwards=True)
    assert hooks(webui.model) == 0
    assert extra_networks.extra_network_registry["hypernet"] is webui.own_hypernet


def test_a_batch_that_names_several_and_a_negative_prompt_are_said(webui):
    put_net(webui), put_net(webui, "dusk", seed=6)
    job = webui.picture(["x <hypernet:glow>", "x <hypernet:dusk>"])
    assert any("name different hypernetworks" in line for line in job.comments), job.comments
    job = webui.picture("x", negative="<hypernet:glow>")
    assert any("stands in the negative prompt" in line for line in job.comments), job.comments


def test_what_was_used_is_told_to_the_cards_and_refresh_finds_new_files(webui, monkeypatch):
    put_net(webui)
    told = []
    runtime = extra_networks.extra_network_registry["hypernet"].runtime
    monkeypatch.setattr(runtime.library_backend.library, "record_use", told.append)
    webui.picture("<hypernet:glow><hypernet:nobody>")
    assert [path.name for path in told] == ["glow.pt"]
    put_net(webui, "deep/glow", seed=6)
    runtime.library_backend.tab.rescan()
    assert any("<hypernet:deep/glow:1>" in line for line in webui.picture("<hypernet:glow>").comments)
