"""Tags of the negative prompt in pipelines, row by row; what chance chose; pictures that are broken off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_adapters import Request
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.hosts.diffusers.load_pipeline import components_of, create_session, open_pipeline
from tests.integration.diffusers.test_pipeline_schedules import same
from tests.support.sample_adapters import MAKERS, adapter_file, layers

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
QUICK = Settings(steps=3, seed=3, guidance=5.0, size=(64, 64), negative_tags=True)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def place(request, sd1_folder, sdxl_folder, tmp_path_factory):
    """A model and a folder with an adapter of each kind that changes all of its parts."""
    model, folder = {"sd1": sd1_folder, "sdxl": sdxl_folder}[request.param], tmp_path_factory.mktemp("sides")
    one = "lora_te_" if request.param == "sd1" else "lora_te1_"
    starts = {"unet": "lora_unet_", "text_encoder": one, "text_encoder_2": "lora_te2_"}
    roots = components_of(open_pipeline(model, CPU))
    shapes = {f"{starts[part]}{_full(path)}": s for part, root in roots.items() for path, s in layers(root).items()}
    for name, maker in MAKERS.items():
        adapter_file(folder / f"{name}.safetensors", shapes, maker, prefix="")
    return model, folder


def _full(path):
    """As trainers write them: with the level that transformers 5 dropped."""
    return f"text_model.{path}" if path.startswith("encoder.layers") else path


@pytest.fixture(scope="module")
def studio(place):
    with Generator.open(place[0], CPU, FolderResolver([place[1]])) as studio:
        yield studio


@pytest.fixture(scope="module")
def untouched(place):
    pipe = open_pipeline(place[0], CPU)
    return pipe, create_session(pipe)


def recorded(studio, prompt, settings=QUICK, progress=None):
    """The picture, and for each run of the UNet what it was given and what it gave."""
    runs = []
    keep = lambda unet, given, named, answer: runs.append((given, named, answer[0].clone()))  # noqa: E731
    handle = studio.pipe.unet.register_forward_hook(keep, with_kwargs=True)
    try:
        return studio.generate(prompt, settings, progress), runs
    finally:
        handle.remove()


@torch.no_grad()
def encoded(pipe, text):
    """States, and what Stable Diffusion XL has beside them."""
    found = pipe.encode_prompt(text, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False)
    return [one for one in found if one is not None]


@torch.no_grad()
def check_rows(studio, untouched, runs, sides, texts):
    """Each row by itself with plain numbers. `sides`: step -> what acts on the negative row, and on the other."""
    pipe, session = untouched
    for step, (given, named, answer) in enumerate(runs):
        for row, asked in enumerate(sides(step)):
            requests = [Request(studio.resolver.adapter(name).adapter, unet=u, te=t) for name, u, t in asked]
            session.activate(requests)
            same([answer[row]], [pipe.unet(*given, **named)[0][row]])
            states = [named["encoder_hidden_states"], (named["added_cond_kwargs"] or {}).get("text_embeds")]
            rows = [one[row] for one in states if one is not None]
            same(rows, [one[0] for one in encoded(pipe, texts[row])])
        session.deactivate()


SIDES = {
    "both sides": ("<lyco:LoKr:0.3>", "<lyco:LoRA:0.6>", lambda n: ([("LoKr", 0.3, 0.3), ("LoRA", 0.6, 0.6)], 1)),
    "one adapter twice": ("<lora:OFT:0.3>", "<lyco:OFT:-0.6>", lambda n: ([("OFT", 0.3, 0.3), ("OFT", -0.6, -0.6)], 1)),
    "negative only": ("", "<lyco:Full:0.5><lyco:IA3:0.5>", lambda n: ([("Full", 0.5, 0.5), ("IA3", 0.5, 0.5)], 0)),
    "text only": ("<lyco:OFT:0.4>", "<lyco:LoRA:0.7:0>", lambda n: ([("OFT", 0.4, 0.4), ("LoRA", 0, 0.7)], 1)),
    "UNet only": ("", "<lyco:LoKr:0:0.7>", lambda n: ([("LoKr", 0.7, 0)], 0)),
    "schedules": (
        "<lyco:LoRA:0.1@0,0.5@1>",
        "<lyco:LoRA:1:start=1><lyco:LoKr:0.5:off>",
        lambda n: ([("LoRA", 0.1 + 0.2 * n, 0.1), ("LoRA", float(n >= 1), 1)], 1),
    ),
}


@pytest.mark.parametrize("case", SIDES)
def test_each_side_is_as_if_it_were_drawn_alone(studio, untouched, case):
    positive, negative, acting = SIDES[case]

    def sides(step):
        found, shared = acting(step)
        return found, found[:shared]

    settings = Settings(f"a dog {negative}", 3, 3, 5.0, (64, 64), negative_tags=True)
    picture, runs = recorded(studio, f"a cat {positive}", settings)
    assert len(runs) == 3
    assert picture.problems == () or "before sampling" in picture.problems[0]
    assert len(picture.report.adapters) == len(sides(0)[0])
    check_rows(studio, untouched, runs, sides, ("a dog ", "a cat "))
    assert studio.session.verify()


def test_without_the_switch_tags_are_words(studio):
    words = Settings("a dog <lyco:LoRA:0.5>", 1, 3, 5.0, (64, 64))
    picture, _ = recorded(studio, "a cat", words)
    assert picture.report.adapters == []
    assert picture.problems == ("<lyco:LoRA:0.5> stands in the negative prompt, where such tags are plain words.",)
    assert (pixels(picture) != pixels(studio.generate("a cat", Settings("a dog ", 1, 3, 5.0, (64, 64))))).any()


def pixels(picture):
    return np.asarray(picture.image, dtype=np.int16)


def test_without_guidance_there_is_no_negative_side(studio):
    settings = Settings("a dog <lyco:LoRA:0.5>", 1, 3, 1.0, (64, 64), negative_tags=True)
    picture, runs = recorded(studio, "a cat <lyco:LoKr:0.5>", settings)
    assert [line.name for line in picture.report.adapters] == ["LoKr"]
    (sentence,) = picture.problems
    assert sentence.startswith("without guidance")
    assert len(runs[0][2]) == 1
    plain = Settings("", 1, 3, 1.0, (64, 64))
    assert (pixels(picture) == pixels(studio.generate("a cat <lyco:LoKr:0.5>", plain))).all()


def test_what_cannot_act_on_one_side_is_said(studio):
    settings = Settings("a dog <hypernet:x:1><aesthetic:y><lyco:nobody><lyco:LoRA:much>", 1, 3, 5.0, (64, 64), True)
    problems = " ".join(studio.generate("a cat", settings).problems)
    for part in ("<hypernet:x:1> stands in", "<aesthetic:y> stands in", "called 'nobody'", "'much' is not a"):
        assert part in problems


@pytest.mark.slow
def test_a_picture_broken_off_leaves_nothing_to_the_next_one(studio):
    class Enough(Exception):
        pass

    def stop_at(last):
        def progress(done):
            if done == last:
                raise Enough

        return progress

    plain = studio.generate("a cat", QUICK)
    settings = Settings("a dog <lyco:OFT:0.5@0,0@1>", 3, 3, 5.0, (64, 64), negative_tags=True)
    prompt = "a cat <lyco:LoRA:0@0,0.8@1><lyco:LoKr:0.4:start=1>"
    whole = studio.generate(prompt, settings)
    for last in (1, 2):
        with pytest.raises(Enough):
            studio.generate(prompt, settings, stop_at(last))
        assert (np.abs(pixels(studio.generate(prompt, settings)) - pixels(whole)) <= 1).all()
        with pytest.raises(Enough):
            studio.generate(prompt, settings, stop_at(last))
        assert (pixels(studio.generate("a cat", QUICK)) == pixels(plain)).all()
    assert studio.session.verify()
    assert not any("forward" in m.__dict__ or m._forward_pre_hooks for m in studio.pipe.unet.modules())
