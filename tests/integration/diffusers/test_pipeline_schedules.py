"""Schedules in pipelines, against a loop of our own: an untouched pipeline, and plain numbers in each step.

Every run of the UNet is compared, not the picture alone.
"""

from __future__ import annotations

from importlib.util import find_spec

import diffusers
import numpy as np
import pytest
import torch

from lib_adapters import Request
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.hosts.diffusers.load_pipeline import create_session, open_pipeline
from tests.support.sample_adapters import MAKERS, adapter_file, layers

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
STEPS = 4
QUICK = Settings("a dog", STEPS, 3, 5.0, (64, 64))
DDIM = {"num_train_timesteps": 1000, "clip_sample": False}
SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "LMS": ("LMSDiscreteScheduler", {"timestep_spacing": "linspace"}),
}


NEEDS = {"LMS": pytest.mark.skipif(find_spec("scipy") is None, reason="diffusers' LMS needs scipy")}


def between(x, low, high):
    return min(1.0, max(0.0, (x - low) / (high - low)))


TAGS = {  # strength at (step, sigma) of STEPS
    "0@0,1@1": lambda step, sigma: step / (STEPS - 1),
    "0.2@0,1@50%,-0.4@100%": lambda step, sigma: (
        0.2 + 0.8 * between(step / 3, 0, 0.5) if step < 2 else 1 - 1.4 * between(step / 3, 0.5, 1)
    ),
    "1@1,0@3": lambda step, sigma: 1 - between(step, 1, 3),
    "0@3sigma,1@0.5sigma": lambda step, sigma: 1 - between(sigma, 0.5, 3),
    "0.8:start=2": lambda step, sigma: 0.8 * (step >= 2),
    "0.8:step=1-3": lambda step, sigma: 0.8 * (1 <= step < 3),
    "0.8:start=25%:stop=0.75": lambda step, sigma: 0.8 * (0.25 <= step / STEPS < 0.75),
    "0.8:start=1.5sigma": lambda step, sigma: 0.8 * (sigma <= 1.5),
    "1@0,0@1:stop=3": lambda step, sigma: (1 - step / 3) * (step < 3),
}


def scheduled(pipe, name):
    kind, changes = SCHEDULERS[name]
    pipe.scheduler = getattr(diffusers, kind).from_config(DDIM, **changes)


def recorded(unet, run):
    """What `run` gives, and each answer of the UNet."""
    answers = []
    handle = unet.register_forward_hook(lambda module, given, answer: answers.append(answer[0].clone()))
    try:
        return run(), answers
    finally:
        handle.remove()


def sigma_of(scheduler, place, timestep):
    if hasattr(scheduler, "sigmas"):
        return float(scheduler.sigmas[place])
    kept = float(scheduler.alphas_cumprod[int(timestep)])
    return ((1 - kept) / kept) ** 0.5


def step_of(scheduler, place):
    """Heun looks twice in each step but the last one, PLMS twice in the first."""
    known = {"HeunDiscreteScheduler": place // 2, "PNDMScheduler": max(0, place - 1)}
    return known.get(type(scheduler).__name__, place)


@torch.no_grad()
def by_hand(pipe, session, requests_at, settings, text="a cat "):
    """The picture, and each answer of the UNet. `requests_at`: (step, sigma) -> what is active in this run."""
    scheduler = pipe.scheduler
    scheduler.set_timesteps(settings.steps)
    session.activate(requests_at(0, sigma_of(scheduler, 0, scheduler.timesteps[0])))
    positive, negative = pipe.encode_prompt(text, CPU, 1, True, settings.negative)
    answers, seed = [], torch.Generator("cpu").manual_seed(settings.seed)
    latents = torch.randn(1, 4, 8, 8, generator=seed) * scheduler.init_noise_sigma
    for place, timestep in enumerate(scheduler.timesteps):
        session.activate(requests_at(step_of(scheduler, place), sigma_of(scheduler, place, timestep)))
        given = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        answers.append(pipe.unet(given, timestep, torch.cat([negative, positive])).sample)
        against, along = answers[-1].chunk(2)
        latents = scheduler.step(against + settings.guidance * (along - against), timestep, latents).prev_sample
    session.deactivate()
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return pipe.image_processor.postprocess(image, output_type="pil")[0], answers


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def alike(picture, other):
    assert np.abs(np.asarray(picture, np.int16) - np.asarray(other, np.int16)).max() <= 1


@pytest.fixture(scope="module")
def shelf(sd1_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    unet = open_pipeline(sd1_folder, CPU).unet
    for name in ("LoRA", "LoKr", "OFT"):
        adapter_file(folder / f"{name}.safetensors", layers(unet), MAKERS[name])
    return FolderResolver([folder])


@pytest.fixture(scope="module")
def studio(sd1_folder, shelf):
    with Generator.open(sd1_folder, CPU, shelf) as studio:
        yield studio


@pytest.fixture(scope="module")
def untouched(sd1_folder):
    """A pipeline, and a session of its own."""
    pipe = open_pipeline(sd1_folder, CPU)
    return pipe, create_session(pipe)


def compared(studio, untouched, kind, name, tag):
    """Drawn with the tag, and by hand; both pictures are the same."""
    return followed(studio, untouched, kind, f"a cat <lyco:{name}:{tag}>", {name: TAGS[tag]})


def followed(studio, untouched, kind, prompt, strengths):
    """`strengths`: by adapter, at (step, sigma)."""
    pipe, session = untouched
    seen = []

    def requests_at(step, sigma):
        seen.append([strength(step, sigma) for strength in strengths.values()])
        adapters = [studio.resolver.adapter(name).adapter for name in strengths]
        return [Request(adapter, unet=one) for adapter, one in zip(adapters, seen[-1], strict=True)]

    for one in (studio.pipe, pipe):
        scheduled(one, kind)
    wanted, answers = by_hand(pipe, session, requests_at, QUICK)
    drawn, found = recorded(studio.pipe.unet, lambda: studio.generate(prompt, QUICK))
    assert any(one != seen[0] for one in seen)  # else this would say nothing of schedules
    assert drawn.problems == () or "text encoder works before sampling" in drawn.problems[0]
    same(found, answers)
    alike(drawn.image, wanted)
    return drawn


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=NEEDS.get(kind, ())) for kind in SCHEDULERS])
@pytest.mark.parametrize("tag", ["0@0,1@1", "0@3sigma,1@0.5sigma", "0.8:step=1-3"])
def test_every_scheduler(studio, untouched, kind, tag):
    compared(studio, untouched, kind, "LoKr", tag)
    assert studio.session.verify()


@pytest.mark.parametrize("name", ["LoRA", "OFT"])
@pytest.mark.parametrize("tag", TAGS)
def test_every_way_of_counting(studio, untouched, name, tag):
    drawn = compared(studio, untouched, "Euler", name, tag)
    assert "of the weights that change while drawing" in drawn.report.lines()[-1]


EDITED = {  # strengths of LoRA and OFT at (step, sigma) of STEPS
    "[<lyco:LoRA:0.8>:2]": [lambda step, _: 0.8 * (step >= 2)],
    "[<lyco:LoRA:0.8>|<lyco:OFT:0.5>]": [lambda step, _: 0.8 * (step % 2 == 0), lambda step, _: 0.5 * (step % 2)],
    "[[ <lyco:LoRA:1@0,0@1> ::3]:0.25]": [lambda step, _: (1 - step / 3) * (1 <= step < 3)],
}


@pytest.mark.parametrize("kind", ["Euler", "Heun"])
@pytest.mark.parametrize("written", EDITED)
def test_prompt_editing_around_tags(studio, untouched, kind, written):
    """The brackets are gone with their tags: the text is `a cat `."""
    strengths = dict(zip(("LoRA", "OFT"), EDITED[written], strict=False))
    followed(studio, untouched, kind, f"a cat {written}", strengths)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("[a cat <lyco:LoRA:0.8>:a dog:2]", "[a cat :a dog:2]: prompt editing of words is not supported here"),
        ("a cat [<lyco:LoRA:0.8>:a dog", "as prompt editing"),
        ("a cat [<lyco:LoRA:0.8>:9]", "acts in none of 4 steps"),
        ("a [<aesthetic:none:1>:2]", "an aesthetic embedding has one strength in all steps"),
        ("a [<hypernet:none:1>:2]", "a hypernetwork has one strength in all steps"),
    ],
)
def test_what_a_pipeline_cannot_follow_is_reported(studio, prompt, told):
    problems = studio.generate(prompt, QUICK).problems
    assert any(told in line for line in problems), problems


@pytest.mark.parametrize("mode", ["merged", "live"])
def test_the_way_that_a_user_has_chosen(studio, untouched, mode):
    TAGS[f"0@0,1@1:mode={mode}"] = TAGS["0@0,1@1"]
    drawn = compared(studio, untouched, "DDIM", "LoRA", f"0@0,1@1:mode={mode}")
    assert ("beside their layers" in drawn.report.schedule_note) == (mode == "live")


def test_constant_curves_and_switched_off_tags_are_what_they_look_like_to_the_bit(studio):
    def drawn(tags):
        picture, answers = recorded(studio.pipe.unet, lambda: studio.generate(f"a cat {tags}", QUICK))
        assert picture.problems == ()
        return np.asarray(picture.image), torch.stack(answers)

    scheduled(studio.pipe, "DDIM")
    groups = [
        ["<lyco:LoRA:0.7>", "<lyco:LoRA:0.7@0,0.7@1>", "<lyco:LoRA:0.7:lbw=ALL,NOT MID:1,MID:1>"],
        [
            "",
            "<lyco:LoRA:0.7:off>",
            "<lyco:LoRA:0@0,0@1>",
            "<lyco:LoRA:0.7:start=99>",
            "<lyco:LoRA:lbwe=:NOT nothing:0>",
        ],
        ["<lyco:OFT:0.5>", "<lyco:LoRA:0.7:off><lyco:OFT:0.5>"],
    ]
    firsts = []
    for group in groups:
        first, *others = [drawn(tags) for tags in group]
        for number, other in enumerate(others, 1):
            assert (first[0] == other[0]).all(), group[number]
            assert torch.equal(first[1], other[1]), group[number]
        firsts.append(first[1])
    assert not torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[1], firsts[2])
