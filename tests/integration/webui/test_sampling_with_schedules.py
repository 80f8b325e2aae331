"""Strengths that change while the double of the web UI draws, against each step by itself on an untouched model."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.hosts.webui import settings
from tests.fake_webui.cfg_denoiser import Noise
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put, put_text
from tests.fake_webui.webui import WebUI
from tests.support.reference_sampler import Picture, Plan, Row, Use, close, drawn, part_of, picture
from tests.support.sample_adapters import adapter_for

STEPS = 4
RAMP = (0.0, 1 / 3, 2 / 3, 1.0)


@pytest.fixture(scope="module")
def untouched():
    return checkpoint()


def plan(model, uses, **options):
    return Plan([picture("3 4", uses, "5")], [model], **{"steps": STEPS, **options})


def is_clean(webui):
    """Neither a hook nor an attribute of ours on any module, and the weights are the checkpoint's, bit for bit."""
    fresh = webui.model.sd_checkpoint_info.state()
    assert all(torch.equal(value, fresh[name]) for name, value in webui.model.state_dict().items())
    for module in webui.model.modules():
        assert not module._forward_pre_hooks
        assert not module._load_state_dict_pre_hooks
        assert not {"forward", "get_learned_conditioning"} & vars(module).keys()
    return True


@pytest.mark.parametrize("mode", ["auto", "merged", "live"])
@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM"])
def test_a_schedule_on_each_sampler(webui, untouched, sampler, mode):
    adapter = put(webui)
    plain = webui.draw("3 4", "5", sampler_name=sampler, steps=STEPS)
    job = webui.draw(f"3 4 <lyco:ink:1:0@0,1@1:mode={mode}>", "5", sampler_name=sampler, steps=STEPS)
    close(job.image, drawn(plan(untouched, [Use(adapter, RAMP, 1.0)], sampler=sampler)))
    again = webui.draw("3 4", "5", sampler_name=sampler, steps=STEPS)
    assert torch.equal(again.image, plain.image)
    assert not torch.allclose(job.image, plain.image, atol=0.1)
    assert is_clean(webui)


@pytest.mark.parametrize("release", ["1.6.1", "1.7.0", "1.8.0"])
@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM"])
def test_a_release_whose_callback_has_no_denoiser(tmp_path, monkeypatch, untouched, sampler, release):
    webui = WebUI(tmp_path / "models", monkeypatch, release=release)
    adapter = put(webui)
    job = webui.draw("3 4 <lyco:ink:1:0@0,1@1>", "5", sampler_name=sampler, steps=STEPS)
    close(job.image, drawn(plan(untouched, [Use(adapter, RAMP, 1.0)], sampler=sampler)))


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("start=2", (0, 0, 1, 1)),
        ("stop=2", (1, 1, 0, 0)),
        ("step=1-3", (0, 1, 1, 0)),
        ("start=0.5", (0, 0, 1, 1)),
        ("stop=25%", (1, 0, 0, 0)),
        ("step=-1", (1, 0, 0, 0)),
        ("start=9", (0, 0, 0, 0)),
        ("unet=0.2@0,1@2:stop=3", (0.2, 0.6, 1.0, 0)),
        ("unet=1@50%,0@100%", (1, 1, 2 / 3, 0)),
        ("unet=0@14sigma,1@1sigma", None),
        ("stop=3sigma", None),
        ("unet=0.5@1", (0.5, 0.5, 0.5, 0.5)),
    ],
)
def test_windows_and_curves(webui, untouched, written, values):
    adapter = put(webui)
    job = webui.draw(f"3 4 <lyco:ink:1:{written}>", "5", steps=STEPS)
    close(job.image, drawn(plan(untouched, [Use(adapter, values or by_noise(untouched, written), 1.0)])))


def by_noise(model, written):
    """The same curves over the noise of each step, by hand."""
    sigmas = [float(sigma) for sigma in Noise(model).get_sigmas(STEPS)[:-1]]
    if written.startswith("stop"):
        return [float(sigma > 3) for sigma in sigmas]
    return [min(1.0, max(0.0, (14 - sigma) / 13)) for sigma in sigmas]


def test_ranks_that_follow_the_steps(webui):
    put(webui)
    found = webui.draw("3 4 <lyco:ink:0:1:2@0,1@1>", "5", steps=STEPS)
    one, two = "<lyco:ink:0:1:2:stop=1>", "<lyco:ink:0:1:1:start=1>"
    close(found.image, webui.draw(f"3 4 {one}{two}", "5", steps=STEPS).image)
    for half in (one, two):
        assert not torch.allclose(found.image, webui.draw(f"3 4 {half}", "5", steps=STEPS).image, atol=0.01)


def test_a_stack_of_what_moves_and_what_stays(webui, untouched):
    one, two, still = put(webui), put(webui, "blur", seed=2), put(webui, "still", seed=3)
    tags = "<lyco:ink:0.4:0@0,1@1><lora:blur:1:0.6:start=2><lyco:still:-0.3>"
    job = webui.draw(f"3 4 {tags}", "5", steps=STEPS)
    uses = [Use(one, RAMP, 0.4), Use(two, (0, 0, 0.6, 0.6), 1.0), Use(still, -0.3, -0.3)]
    close(job.image, drawn(plan(untouched, uses)))


def test_the_text_encoder_takes_the_first_value(webui, untouched):
    adapter, unet = put_text(webui), put(webui)
    job = webui.draw("3 4 <lyco:words:0.7@0,0@1><lyco:ink:0:0@0,1@1>", "5", steps=STEPS)
    close(job.image, drawn(plan(untouched, [Use(adapter, 0.0, 0.7), Use(unet, RAMP, 0.0)])))
    assert any("takes the first value, 0.7" in line for line in job.comments)


CUTS = {
    "whole": {},
    "in halves": {"batch_cond_uncond": False},
    "a longer text": {},
    "a longer text, in halves": {"batch_cond_uncond": False},
    "without the negative side at first": {"skip_early_cond": 0.3},
    "without it between": {"s_min_uncond": 5.0},
}


@pytest.mark.parametrize("cut", CUTS)
def test_however_the_batch_is_cut(webui, untouched, cut):
    first, second = put(webui), put(webui, "blur", seed=5)
    options = dict(CUTS[cut])
    least = options.pop("s_min_uncond", 0.0)
    webui.shared.opts.data |= options
    text = "3 4 5 6 7 8 9 10" if "longer" in cut else "3 4"
    prompts = [f"{text} <lyco:ink:0:0@0,1@1> AND 6", f"{text} <lyco:blur:0.5:0.8>"]
    job = webui.draw(prompts, "5", batch_size=2, steps=STEPS, s_min_uncond=least)
    parts = Picture((Row(text, (Use(first, RAMP),)), Row("6")), Row("5"))
    pictures = [parts, picture(text, [Use(second, 0.8, 0.5)], "5")]
    skipped = frozenset({0, 1} if "first" in cut else {1, 3} if "between" in cut else ())
    close(job.image, drawn(Plan(pictures, [untouched], steps=STEPS, skipped=skipped)))


def test_how_it_is_followed_is_said_once(webui):
    put(webui)
    for strength, steps in ((1, 3), (0.9, 3), (0.8, 5)):
        one = webui.draw(f"3 <lyco:ink:{strength}:0@0,1@1>", steps=steps)
        assert sum("change while drawing" in line for line in one.comments) == 1


def test_the_user_may_want_to_hear_nothing(webui):
    put(webui)
    webui.shared.opts.lycoris_report = settings.REPORT_LEVELS[1]
    assert not webui.draw("3 <lyco:ink:1:0@0,1@1>").comments


BLOCKS = {
    "IN01": lambda key: "input_blocks_1_" in key,
    "IN01-MID:0.5": None,
    "1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0": lambda key: False,
    "0,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0": lambda key: "input_blocks_1_" in key,
}


@pytest.mark.parametrize("place", ["lbw={}", "{}"])
@pytest.mark.parametrize("written", BLOCKS)
def test_block_weights(webui, untouched, written, place):
    path = webui.folder / "LyCORIS" / "wide.safetensors"
    adapter = adapter_for(webui.model.unet, path, only=("input_blocks.1.1.", "output_blocks.9.1."))
    if place == "{}" and ":" in written:
        pytest.skip("only values of a key have colons")
    job = webui.draw(f"3 4 <lyco:wide:1:0.8:{place.format(written)}>", "5", steps=STEPS)
    if written == "IN01-MID:0.5":
        first, last = (part_of(adapter, lambda key, n=n: n in key, n) for n in ("input_blocks", "output_blocks"))
        uses = [Use(first, 0.4), Use(last, 0.8)]
    else:
        wanted = BLOCKS[written]
        uses = [Use(part_of(adapter, wanted, "a"), 0.8)] if "IN01" in written or written.startswith("0,1") else []
    close(job.image, drawn(plan(untouched, uses)))


def test_blocks_and_a_schedule(webui, untouched):
    path = webui.folder / "LyCORIS" / "wide.safetensors"
    adapter = adapter_for(webui.model.unet, path, only=("input_blocks.1.1.", "output_blocks.9.1."))
    job = webui.draw("3 4 <lyco:wide:1:0@0,1@1:lbw=OUT09:0.5:lbwe=:attn1:0>", "5", steps=STEPS)
    names = "input_blocks", "output_blocks"
    first, last = (part_of(adapter, lambda key, n=n: n in key and "attn1" not in key, n) for n in names)
    uses = [Use(first, RAMP), Use(last, [value / 2 for value in RAMP])]
    close(job.image, drawn(plan(untouched, uses)))
