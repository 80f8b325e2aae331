"""Random block weights and the plot's axes in the double: what a picture's text says gives the same picture again."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_adapters.hosts.webui.xyz_grid import AXIS_CHANGES
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.processing import Drawing
from tests.fake_webui.sample_files import put_text
from tests.integration.webui.test_sampling_with_schedules import is_clean
from tests.support.reference_sampler import Plan, Use, close, drawn, part_of, picture
from tests.support.sample_adapters import adapter_for

RANDOM = ";".join("R" * 17)


@pytest.fixture(scope="module")
def untouched():
    return checkpoint()


def wide(webui):
    path = webui.folder / "LyCORIS" / "wide.safetensors"
    return adapter_for(webui.model.unet, path, only=("input_blocks.1.1.", "output_blocks.9.1."))


def with_text(webui):
    """The same file with layers of the text encoder."""
    unet, text = wide(webui), put_text(webui)
    save_file(load_file(unet.path) | load_file(text.path), unet.path)


def weights_in(prompt, key="lbw"):
    return re.search(rf":{key}=([^:>]*)", prompt)[1]


def test_chance_follows_the_seed_and_is_written_down(webui, untouched):
    adapter = wide(webui)
    prompt = f"3 <lyco:wide:1:lbw={RANDOM}>"
    first, again, other = (webui.draw(prompt, "5", seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first.image, again.image)
    assert first.all_prompts == again.all_prompts != other.all_prompts
    numbers = [float(number) for number in weights_in(first.all_prompts[0]).split(";")]
    assert len(numbers) == 17
    assert len(set(numbers)) > 10
    pasted = webui.draw(first.all_prompts[0], "5", seed=5)
    places = {"input": 1, "output": 14}
    uses = [Use(part_of(adapter, lambda key, n=n: n in key, n), numbers[place]) for n, place in places.items()]
    for job, seed in ((first, 4), (pasted, 5)):
        close(job.image, drawn(Plan([picture("3", uses, "5")], [untouched], seed=seed)))
    assert pasted.all_prompts == first.all_prompts


def test_each_batch_draws_its_own(webui):
    wide(webui)
    job = webui.draw(f"3 <lyco:wide:1:lbw={RANDOM}>", "5", n_iter=3, seed=4)
    assert len({weights_in(prompt) for prompt in job.all_prompts}) == 3
    for number, image in enumerate(job.images):
        close(webui.draw(job.all_prompts[number], "5", seed=4 + number).image[0], image)
        close(webui.draw(f"3 <lyco:wide:1:lbw={RANDOM}>", "5", seed=4 + number).image[0], image)


def test_both_passes_are_written_down(webui):
    wide(webui)
    prompt = f"3 <lyco:wide:1:lbw={RANDOM}:hrlbw={RANDOM.replace('R', 'U')}>"
    job = webui.draw(prompt, "5", enable_hr=True, seed=4)
    (text,), (hires,) = job.all_prompts, job.all_hr_prompts
    assert text == hires
    assert "R" not in weights_in(text)
    assert "U" not in weights_in(text, "hrlbw")
    assert weights_in(text) != weights_in(text, "hrlbw")
    close(webui.draw(text, "5", enable_hr=True, seed=4).image, job.image)


def test_a_second_pass_that_only_changes_x(webui):
    wide(webui)
    prompt = f"3 <lyco:wide:1:lbw={RANDOM[:-1]}X:x=0.2:hrx=0.9>"
    job = webui.draw(prompt, "5", enable_hr=True, seed=4)
    close(webui.draw(job.all_prompts[0], "5", enable_hr=True, seed=4).image, job.image)
    assert weights_in(job.all_prompts[0]).endswith(";0.2")
    assert weights_in(job.all_prompts[0], "hrlbw").endswith(";0.9")


def test_chance_in_parts_and_in_the_negative_prompt(webui):
    wide(webui)
    webui.shared.opts.lycoris_negative = True
    tag = f"<lyco:wide:1:lbw={RANDOM}>"
    job = webui.draw(f"3 {tag} AND 4", f"5 <lyco:wide:0.5:lbw={RANDOM}>", seed=4)
    assert "R" not in weights_in(job.all_prompts[0]) + weights_in(job.all_negative_prompts[0])
    again = webui.draw(job.all_prompts[0], job.all_negative_prompts[0], seed=4)
    close(again.image, job.image)


AXES = {  # value -> the tag that says the same, of <lyco:wide:0.8:0.6>
    "Weight": (0.3, "<lyco:wide:0.3>"),
    "TE weight": (0.3, "<lyco:wide:0.3:0.6>"),
    "UNet weight": (0.3, "<lyco:wide:0.8:0.3>"),
    "Hires weight": (0.3, "<lyco:wide:0.8:0.6:hr=0.3>"),
    "Rank": (1, "<lyco:wide:0.8:0.6:1>"),
    "Start": (0.5, "<lyco:wide:0.8:0.6:start=2>"),
    "Stop": (2.0, "<lyco:wide:0.8:0.6:stop=50%>"),
    "Schedule": ("1@0,0@1", "<lyco:wide:0.8:1@0%;0@100%>"),
    "Block preset": ("INS", None),
    "Blocks": ("IN00-MID", "<lyco:wide:0.8:0.6:lbw=IN00-MID:0>"),
    "Block weight": (0.3, "<lyco:wide:0.8:0.6:lbw=BASE-OUT11:0.3>"),
    "Random blocks": (7, None),
    "Mode": ("live", "<lyco:wide:0.8:0.6>"),
}


@pytest.mark.parametrize("label", AXIS_CHANGES)
def test_an_axis_gives_the_picture_of_the_tag_that_says_the_same(webui, label):
    with_text(webui)
    value, tag = AXES[label]
    axis = webui.grid.axis(f"[LyCORIS] {label}")
    assert isinstance(value, axis.type)
    if axis.confirm is not None:
        axis.confirm(None, [value])
    prompt, options = "3 4 <lyco:wide:0.8:0.6> AND 6", {"enable_hr": "Hires" in label, "steps": 4}
    job = Drawing(webui, prompt, "5", **options)
    axis.apply(job, value, [value])
    assert "".join(job.prompt.split("<lyco")[0]) == "3 4 "
    job.run()
    plain = webui.draw(prompt, "5", **options)
    if tag is not None:
        close(job.image, webui.draw(f"3 4 {tag} AND 6", "5", **options).image)
    if label == "Block preset":
        preset = webui.draw("3 4 <lyco:wide:0.8:0.6:lbw=1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0> AND 6", "5", **options)
        close(job.image, preset.image)
    if label == "Random blocks":
        close(webui.draw(job.prompt, "5", seed=1, **options).image, job.image)
        assert len(weights_in(job.prompt).split(";")) == 17
    assert torch.allclose(job.image, plain.image, atol=1e-2) == (label == "Mode")
    webui.draw("3")
    assert is_clean(webui)


def test_two_axes_one_after_the_other(webui):
    wide(webui)
    job = Drawing(webui, "3 <lyco:wide:0.8>", "5")
    for label, value in (("Blocks", "IN00-MID"), ("Block weight", 0.4), ("Schedule", "1@0,0@1"), ("Start", 1.0)):
        webui.grid.axis(f"[LyCORIS] {label}").apply(job, value, [value])
    job.run()
    same = webui.draw("3 <lyco:wide:0.8:1@0,0@1:lbw=IN00-MID:0.4:start=1>", "5")
    close(job.image, same.image)
