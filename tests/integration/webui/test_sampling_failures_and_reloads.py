"""What else goes on around pictures whose strengths change: modes, the built-in, what goes wrong, reloads."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lib_adapters import Session
from tests.fake_webui import builtin_lora, extra_networks
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put, put_text
from tests.integration.webui.test_sampling_with_schedules import is_clean
from tests.support.reference_sampler import Picture, Plan, Row, Use, close, drawn, picture

RAMP = (1.0, 0.5, 0.0)
LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def untouched():
    return checkpoint()


@pytest.mark.parametrize("mode", ["auto", "merged", "live"])
def test_a_mode_says_how_and_not_what(webui, untouched, mode):
    ink = put(webui)
    job = webui.draw(f"3 <lyco:ink:0.7:1@0,0@1:mode={mode}>", "5")
    close(job.image, drawn(Plan([picture("3", [Use(ink, RAMP, 0.7)], "5")], [untouched])))
    (said,) = [line for line in job.comments if "change while drawing" in line]
    assert {"auto": " s", "merged": "15 merged anew", "live": "15 beside"}[mode] in said


@pytest.mark.parametrize("mode", ["auto", "live"])
def test_the_builtin_writes_the_same_layers(webui, mode):
    """Their sum, at each step and for each part; and afterwards the weights are the checkpoint's."""
    ink = put(webui)
    webui.shared.opts.lycoris_handle_lora = False
    layer = webui.model.unet.get_submodule(LAYER)
    torch.manual_seed(5)
    builtin_lora.deltas["theirs"] = {layer.network_layer_name: torch.randn_like(layer.weight) * 0.3}
    plain = webui.draw("3 AND 4", "5")
    tags = f"<lora:theirs:1><lyco:ink:0.7:1@0,0@1:mode={mode}>"
    whole, parts = webui.draw(f"3 {tags}", "5"), webui.draw(f"3 {tags} AND 4", "5")
    again = webui.draw(f"3 {tags}", "5")
    assert torch.equal(again.image, whole.image)
    after = webui.draw("3 AND 4", "5")
    assert torch.equal(after.image, plain.image)
    builtin_lora.loaded_networks.clear()
    model = checkpoint()
    with torch.no_grad():
        model.unet.get_submodule(LAYER).weight.add_(builtin_lora.deltas["theirs"][layer.network_layer_name])
    for part in (model, webui.model):
        for module in part.modules():
            module.__dict__.pop("network_layer_name", None)
    use = Use(ink, RAMP, 0.7)
    close(whole.image, drawn(Plan([picture("3", [use], "5")], [model])))
    close(parts.image, drawn(Plan([Picture((Row("3", (use,)), Row("4")), Row("5"))], [model])))
    assert is_clean(webui)


def test_the_same_job_twice_makes_nothing_anew(webui, monkeypatch):
    put(webui), put_text(webui)
    prompt = "3 <lyco:ink:0.7:1@0,0@1:mode=merged> AND 4 <lyco:words:1>"
    first, made = webui.draw(prompt, "5"), webui.encoded
    monkeypatch.setattr(Session, "_build_plan", lambda *_: pytest.fail("nothing has changed"))
    again = webui.draw(prompt, "5")
    assert torch.equal(again.image, first.image)
    assert webui.encoded == made


@pytest.mark.parametrize("step", [0, 1])
def test_an_interrupted_picture(webui, untouched, step):
    ink = put(webui)
    webui.interrupt_after = step
    webui.draw("3 <lyco:ink:1:1@0,0@1> AND 4", "5", n_iter=2)
    webui.interrupt_after = None
    job = webui.draw("3 <lyco:ink:1:1@0,0@1>", "5")
    close(job.image, drawn(Plan([picture("3", [Use(ink, RAMP)], "5")], [untouched])))
    webui.draw("3")
    assert is_clean(webui)


@pytest.mark.parametrize("place", ["Session.set_step", "Session.set_text_row"])
@pytest.mark.parametrize("run", [0, 1])
def test_what_fails_in_the_middle_leaves_the_model_plain_and_says_so(webui, untouched, monkeypatch, run, place):
    ink, words = put(webui), put_text(webui)
    prompt = "3 <lyco:ink:0.7:1@0,0@1><lyco:words:0.8> AND 4"
    calls = []
    original = getattr(Session, place[8:])

    def broken(self, *given):
        calls.append(given)
        if len(calls) > run + (place == "Session.set_step"):  # the first one is the second of the host's two calls
            raise MemoryError("no room")
        return original(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(f"lib_adapters.session.{place}", broken)
        job = webui.draw(prompt, "5")
    assert any("from some step on no adapter was applied (MemoryError: no room)" in line for line in job.comments)
    assert len(webui.reports) == 1
    assert is_clean(webui)
    parts = (Row("3", (Use(ink, RAMP, 0.7), Use(words, 0, 0.8))), Row("4"))
    if place == "Session.set_step":
        uses = (Use(ink, (*RAMP[:run], 0.0), 0.7), Use(words, 0, 0.8))
        close(job.image, drawn(Plan([Picture((Row("3", uses), Row("4")), Row("5"))], [untouched])))
    again = webui.draw(prompt, "5")
    close(again.image, drawn(Plan([Picture(parts, Row("5"))], [untouched])))


def test_a_merge_that_fails_in_the_middle(webui, untouched, monkeypatch):
    ink = put(webui)
    from lib_adapters.patching import weight_patcher

    calls, original = [], weight_patcher.merged_weight

    def broken(*given):
        calls.append(1)
        if len(calls) == 22:  # in the second step
            raise MemoryError("no room")
        return original(*given)

    monkeypatch.setattr(weight_patcher, "merged_weight", broken)
    job = webui.draw("3 <lyco:ink:0.7:1@0,0.5@1:mode=merged>", "5")
    close(job.image, drawn(Plan([picture("3", [Use(ink, (1, 0, 0), 0.7)], "5")], [untouched])))
    assert any("MemoryError" in line for line in job.comments)
    assert is_clean(webui)


def test_other_extensions_errors_are_theirs(webui, untouched):
    ink = put(webui)
    webui.script_callbacks.on_cfg_denoiser(lambda _: 1 / 0)
    job = webui.draw("3 <lyco:ink:1:1@0,0@1>", "5")
    close(job.image, drawn(Plan([picture("3", [Use(ink, RAMP)], "5")], [untouched])))
    assert len(webui.reports) == 3


def test_a_sampler_that_raises_leaves_the_next_picture_right(webui, untouched):
    ink = put(webui)
    stop = []
    webui.script_callbacks.on_cfg_denoiser(lambda params: stop.append(params) or setattr(params, "x", None))
    with pytest.raises((TypeError, AttributeError)):
        webui.draw("3 <lyco:ink:1:1@0,0@1> AND 4", "5")
    webui.reload_ui()
    assert is_clean(webui)
    job = webui.draw("3 <lyco:ink:1:1@0,0@1>", "5")
    close(job.image, drawn(Plan([picture("3", [Use(ink, RAMP)], "5")], [untouched])))


@pytest.mark.parametrize("how", ["unload", "reload"])
def test_scripts_unloaded_between_pictures(webui, untouched, how):
    ink = put(webui)
    prompt = "3 <lyco:ink:1:1@0,0@1> AND 4"
    webui.draw(prompt, "5")
    webui.call("script_unloaded", backwards=True)
    assert is_clean(webui)
    if how == "reload":
        webui.load_scripts()
        job = webui.draw(prompt, "5")
        parts = (Row("3", (Use(ink, RAMP),)), Row("4"))
        close(job.image, drawn(Plan([Picture(parts, Row("5"))], [untouched])))
        assert len(webui._callbacks["cfg_denoiser"]) == 1
    else:
        assert "lyco" not in extra_networks.extra_network_registry


def test_scripts_unloaded_in_the_middle_of_a_picture(webui, untouched):
    """As when the model is given away at any time: what runs on is the plain model."""
    put(webui)
    runs = []
    webui.script_callbacks.on_cfg_denoiser(
        lambda _: runs.append(1) or (len(runs) == 2 and webui.call("script_unloaded", backwards=True))
    )
    webui.draw("3 <lyco:ink:1:1@0,0@1> AND 4", "5")
    assert webui.reports == []
    assert is_clean(webui)


def test_a_model_replaced_between_pictures_is_freed(webui):
    put(webui), put_text(webui)
    webui.draw("3 <lyco:ink:1:1@0,0@1> AND 4 <lyco:words:1>", "5")
    gone = weakref.ref(webui.model)
    webui.sd_models.model_data.loaded_sd_models.clear()
    webui.model.to("meta")
    webui.model = webui.loader.chosen.made()
    webui.sd_models.model_data.set_sd_model(webui.model)
    webui.draw("3 <lyco:ink:1:1@0,0@1>", "5")
    gc.collect()
    assert gone() is None


def test_a_unet_of_another_engine(webui, untouched):
    put(webui), put_text(webui)
    webui.sd_unet.current_unet = object()
    job = webui.draw("3 <lyco:ink:0.4:1@0,0@1:lbw=IN01><lyco:words:0.8>", "5")
    words = Use(put_text(webui), 0.0, 0.8)
    close(job.image, drawn(Plan([picture("3", [words], "5")], [untouched])))
    assert any("SD Unet" in line for line in job.comments)


def test_twice_the_same_tag_counts_twice(webui, untouched):
    ink = put(webui)
    tags = "<lyco:ink:0.3:1@0,0@1>" * 2
    job = webui.draw([f"3 {tags}", f"3 {tags} AND 4"], "5", batch_size=2)
    twice = (Use(ink, [2 * value for value in RAMP], 0),)
    pictures = [picture("3", twice, "5"), Picture((Row("3", twice), Row("4")), Row("5"))]
    close(job.image, drawn(Plan(pictures, [untouched])))


def test_rows_that_cannot_be_told_apart_go_without_and_it_is_said(webui, untouched):
    """As where another extension adds rows of its own to the batch."""
    put(webui)
    run = webui.model.apply_model

    def longer(x, timesteps, cond):
        return run(*(torch.cat([one, one[:1]]) for one in (x, timesteps, cond)))[:-1]

    webui.model.apply_model = longer
    job = webui.draw("3 <lyco:ink:0:1@0,0@1> AND 4", "5")
    del webui.model.apply_model
    close(job.image, drawn(Plan([Picture((Row("3"), Row("4")), Row("5"))], [untouched])))
    assert sum("could not be told apart" in line for line in job.comments) == 1
    again = webui.draw("3 <lyco:ink:0:1@0,0@1> AND 4", "5")
    assert not any("could not be told apart" in line for line in again.comments)
