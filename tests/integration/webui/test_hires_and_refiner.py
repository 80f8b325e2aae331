"""Two passes and refiners in the double of the web UI, against each pass and step by itself."""

from __future__ import annotations

import pytest
import torch

from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put, put_text
from tests.fake_webui.sd_models import FIRST, Info
from tests.integration.webui.test_sampling_with_schedules import is_clean
from tests.support.reference_sampler import Picture, Plan, Row, Use, close, drawn, part_of, picture
from tests.support.sample_adapters import adapter_for

OTHER = Info("other", seed=11)
ELSE = Info("else", config="v2", seed=12)


@pytest.fixture(scope="module")
def untouched():
    return checkpoint()


@pytest.fixture(scope="module")
def refiners():
    return {info: info.made() for info in (OTHER, ELSE)}


def two_passes(model, first, second, **options):
    plan = {"sampler": "Euler", **options}
    samples = drawn(Plan([first], [model], **plan))
    return drawn(Plan([second], [model], **plan), samples)


PASSES = {
    "hr=0.3": ((0.8, 0.8), (0.3, 0.3)),
    "hr=0": ((0.8, 0.8), (0.0, 0.0)),
    "hr=1@0,0@1": ((0.8, 0.8), ((1, 0.5, 0), 1.0)),
    "hrunet=0.1": ((0.8, 0.8), (0.1, 0.8)),
    "hrte=0.1": ((0.8, 0.8), (0.8, 0.1)),
    "unet=1@0,0@1": (((1, 0.5, 0), 0.8), ((1, 0.5, 0), 0.8)),
    "unet=1@0,0@1:hr=0.4": (((1, 0.5, 0), 0.8), (0.4, 0.4)),
    "stop=1:hrstart=1": (((0.8, 0, 0), 0.8), ((0, 0, 0), 0.8)),
    "stop=1:hrstart=1:hrstop=3": (((0.8, 0, 0), 0.8), ((0, 0.8, 0.8), 0.8)),
    "stop=1": (((0.8, 0, 0), 0.8), ((0.8, 0, 0), 0.8)),
    "hrstep=1-2": ((0.8, 0.8), ((0, 0.8, 0), 0.8)),
    "": ((0.8, 0.8), (0.8, 0.8)),
}


@pytest.mark.parametrize("written", PASSES)
def test_the_second_pass_has_its_own(webui, untouched, written):
    ink, words = put(webui), put_text(webui)
    tags = "".join(f"<lyco:{name}:0.8{':' if written else ''}{written}>" for name in ("ink", "words"))
    job = webui.draw(f"3 4 {tags}", "5", enable_hr=True)
    passes = []
    for unet, te in PASSES[written]:
        passes.append(picture("3 4", [Use(ink, unet, te), Use(words, unet, te)], "5"))
    close(job.image, two_passes(untouched, *passes))
    webui.draw("3")
    assert is_clean(webui)


@pytest.mark.parametrize("sampler", ["Heun", "DDIM"])
def test_on_other_samplers(webui, untouched, sampler):
    ink = put(webui)
    job = webui.draw("3 <lyco:ink:1:1@0,0@1:hr=0@0,1@1>", "5", enable_hr=True, sampler_name=sampler, steps=4)
    ramp = (1, 2 / 3, 1 / 3, 0)
    passes = [picture("3", [Use(ink, ramp, 1)], "5"), picture("3", [Use(ink, ramp[::-1], 0)], "5")]
    close(job.image, two_passes(untouched, *passes, sampler=sampler, steps=4))


@pytest.mark.slow
def test_it_has_its_own_steps(webui, untouched):
    ink = put(webui)
    job = webui.draw("3 <lyco:ink:1:1@0,0@2>", "5", enable_hr=True, steps=3, hr_second_pass_steps=5)
    samples = drawn(Plan([picture("3", [Use(ink, (1, 0.5, 0))], "5")], [untouched]))
    second = Plan([picture("3", [Use(ink, (1, 0.5, 0, 0, 0))], "5")], [untouched], steps=5)
    close(job.image, drawn(second, samples))


def test_blocks_of_the_second_pass(webui, untouched):
    path = webui.folder / "LyCORIS" / "wide.safetensors"
    wide = adapter_for(webui.model.unet, path, only=("input_blocks.1.1.", "output_blocks.9.1."))
    inside, outside = (part_of(wide, lambda key, n=n: n in key, n) for n in ("input_blocks", "output_blocks"))
    job = webui.draw("3 <lyco:wide:0.8:lbw=IN01:hrlbw=OUT09:0.5:hr=1@0,0@1>", "5", enable_hr=True)
    second = [Use(inside, (1, 0.5, 0)), Use(outside, (0.5, 0.25, 0))]
    passes = [picture("3", [Use(inside, 0.8)], "5"), picture("3", second, "5")]
    close(job.image, two_passes(untouched, *passes))


def test_it_has_its_own_prompts_parts_and_negative_side(webui, untouched):
    ink, words = put(webui), put_text(webui)
    webui.shared.opts.lycoris_negative = True
    hires, negative = "6 <lyco:ink:0.4:hr=1@0,0@1> AND 6 <lyco:words:0.8>", "9 <lyco:ink:-0.3>"
    options = {"enable_hr": True, "hr_prompt": hires, "hr_negative_prompt": negative}
    job = webui.draw("3 4 <lyco:ink:0.8:hr=0.2>", "5 <lyco:words:0.5>", **options)
    first = Picture((Row("3 4", (Use(ink, 0.8, 0.8),)),), Row("5", (Use(ink, 0.8, 0.8), Use(words, 0.5, 0.5))))
    parts = (Row("6", (Use(ink, (1, 0.5, 0), 1),)), Row("6", (Use(words, 0.8, 0.8),)))
    second = Picture(parts, Row("9", (Use(ink, -0.3, -0.3),)))
    close(job.image, two_passes(untouched, first, second))
    assert job.all_hr_negative_prompts == ["9 <lyco:ink:-0.3>"]


@pytest.mark.slow
def test_the_next_batch_is_a_first_pass_again(webui, untouched):
    ink = put(webui)
    job = webui.draw("3 <lyco:ink:0.8:hr=0.2>", "5", enable_hr=True, n_iter=2)
    for number, image in enumerate(job.images):
        passes = [picture("3", [Use(ink, s, s)], "5") for s in (0.8, 0.2)]
        close(image[None], two_passes(untouched, *passes, seed=1 + number))


@pytest.mark.parametrize("kind", ["lyco", "lora"])
@pytest.mark.parametrize("hires", ["<{}:words:0.4>", "", "<{}:ink:1> AND 6 <{}:words:0.4>"])
def test_both_conditionings_made_at_once_where_memory_is_short(webui, untouched, kind, hires):
    ink, words = put(webui), put_text(webui)
    options = {"enable_hr": True, "lowvram": True, "hr_prompt": f"6 {hires.replace('{}', kind)}"}
    job = webui.draw(f"3 <{kind}:words:0.9><{kind}:ink:0.8:1@0,0@1>", "5", **options)
    first = picture("3", [Use(words, 0, 0.9), Use(ink, (1, 0.5, 0), 0)], "5")
    second = picture("6", [Use(words, 0, 0.4)] if hires else [], "5")
    if "AND" in hires:
        second = Picture((Row("6", (Use(ink),)), Row("6", (Use(words, 0, 0.4),))), Row("5"))
    close(job.image, two_passes(untouched, first, second))


WAYS = ("the same object", "a new object", "a new object beside it", "one in memory")


def refined(webui, way):
    """How the refiner comes, and what is asked of the host for it."""
    info = OTHER if way == "the same object" else ELSE
    if way == "one in memory":
        webui.loader.keep(info)
    if way == "a new object beside it":
        webui.loader.limit = 2
    return info, {"refiner_checkpoint_info": info, "refiner_switch_at": 0.5}


TAGS = {
    "a schedule": "<lyco:ink:0.9:1@0,0@1>",
    "a window": "<lyco:ink:0.9:start=3>",
    "one strength": "<lyco:ink:0.9>",
    "live": "<lyco:ink:0.9:1@0,0@1:mode=live>",
    "text alone": "<lyco:words:0.7>",
}
STRENGTHS = {"a schedule": (1, 2 / 3, 1 / 3, 0), "a window": (0, 0, 0, 0.9), "one strength": 0.9, "text alone": 0.7}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("way", WAYS)
def test_through_a_refiner(webui, untouched, refiners, way, tag):
    ink, words = put(webui), put_text(webui)
    info, options = refined(webui, way)
    job = webui.draw(f"3 4 {TAGS[tag]}", "5", steps=4, **options)
    adapter = words if "text" in tag else ink
    use = Use(adapter, STRENGTHS.get(tag, STRENGTHS["a schedule"]), 0.7 if "text" in tag else 0.9)
    models = [untouched, untouched, refiners[info], refiners[info]]
    close(job.image, drawn(Plan([picture("3 4", [use], "5")], models, steps=4)))
    assert webui.model.sd_checkpoint_info == info
    assert not any("no adapter was applied" in line for line in job.comments)
    after = webui.draw("3 4", "5")
    assert webui.model.sd_checkpoint_info == FIRST
    close(after.image, drawn(Plan([picture("3 4", [], "5")], [untouched])))
    assert is_clean(webui)


@pytest.mark.parametrize("way", WAYS)
def test_what_runs_live_is_turned_by_the_hand_that_came_with_the_refiner(webui, untouched, refiners, way):
    """The text encoder's weights are merged, so all is fitted anew; layers that run live stay as they are."""
    ink, words = put(webui), put_text(webui)
    info, options = refined(webui, way)
    tags = "<lyco:ink:0:1@0,-1@1:mode=live><lyco:words:0.7>"
    job = webui.draw(f"3 4 {tags}", "5", steps=4, **{**options, "refiner_switch_at": 0.25})
    uses = [Use(ink, (1, 1 / 3, -1 / 3, -1), 0), Use(words, 0, 0.7)]
    models = [untouched, *[refiners[info]] * 3]
    close(job.image, drawn(Plan([picture("3 4", uses, "5")], models, steps=4)))


@pytest.mark.parametrize("way", WAYS)
def test_parts_through_a_refiner_and_a_second_batch(webui, untouched, refiners, way):
    ink, words = put(webui), put_text(webui)
    info, options = refined(webui, way)
    job = webui.draw("3 <lyco:ink:1:1@0,0@1> AND 3 <lyco:words:0.8>", "3", steps=4, n_iter=2, **options)
    parts = (Row("3", (Use(ink, (1, 2 / 3, 1 / 3, 0), 1),)), Row("3", (Use(words, 0.8, 0.8),)))
    models = [untouched, untouched, refiners[info], refiners[info]]
    for number, image in enumerate(job.images):
        close(image[None], drawn(Plan([Picture(parts, Row("3"))], models, steps=4, seed=1 + number)))


@pytest.mark.parametrize("way", WAYS[1:3])
def test_the_hosts_own_empty_text_is_made_without_adapters(webui, refiners, way):
    put_text(webui)
    info, options = refined(webui, way)
    webui.draw("3 <lyco:words:1> AND 4", "5", steps=4, **options)
    with torch.no_grad():
        plain = refiners[info].get_learned_conditioning([""])
    assert torch.equal(webui.model.cond_stage_model_empty_prompt, plain)


def test_a_job_that_failed_does_not_go_on_in_the_next_ones_load(webui, untouched, monkeypatch):
    """Its end was never told; the next job begins with another checkpoint, and its empty text."""
    put_text(webui)
    with monkeypatch.context() as broken:
        broken.setattr("tests.fake_webui.processing.Drawing.sample", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            webui.draw("3 <lyco:words:1>")
    webui.loader.chosen = ELSE
    job = webui.draw("3 4", "5", disable_extra_networks=True)
    close(job.image, drawn(Plan([picture("3 4", [], "5")], [ELSE.made()])))
    webui.draw("3 4", "5")
    assert torch.equal(webui.model.cond_stage_model_empty_prompt, ELSE.made().get_learned_conditioning([""]).detach())
    assert is_clean(webui)


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_of_the_second_pass(webui, untouched, refiners, way):
    ink, words = put(webui), put_text(webui)
    info, _ = refined(webui, way)
    prompt = "3 <lyco:ink:0.8:hr=1@0,0@1> AND 4 <lyco:words:0.8>"
    job = webui.draw(prompt, "5", enable_hr=True, hr_checkpoint_info=info)
    parts = [(Row("3", (Use(ink, *unet),)), Row("4", (Use(words, 0, 0.8),))) for unet in ((0.8, 0.8), ((1, 0.5, 0), 1))]
    samples = drawn(Plan([Picture(parts[0], Row("5"))], [untouched]))
    close(job.image, drawn(Plan([Picture(parts[1], Row("5"))], [refiners[info]]), samples))
