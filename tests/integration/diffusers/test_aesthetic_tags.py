"""`<aesthetic:...>` in pipelines: the positive prompt only, by the pipeline's own encoder, and nothing stays."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from lib_adapters.conditioning.aesthetic_file import save_aesthetic
from lib_adapters.conditioning.aesthetic_gradients import TextForward, blend, optimization_target, optimize_text
from lib_adapters.conditioning.clip_features import clip_feature, text_projection
from lib_adapters.hosts.diffusers import aesthetic_encoder
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.prompt.aesthetic_tag import AestheticOptions
from tests.support.sample_adapters import adapter_file, layers
from tests.support.tiny_models import clip
from tests.support.tiny_pipelines import model_folder
from tests.unit.conditioning.test_aesthetic_gradients import weights_of

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
QUICK = Settings(steps=2, seed=3, size=(64, 64), negative="a dog")
HOW = "steps=3:lr=0.01"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sd1_folder):
    """Embeddings 16 and 20 wide, an adapter of the text encoder, and a CLIP model for each width."""
    folder = tmp_path_factory.mktemp("aesthetics")
    torch.manual_seed(8)
    save_aesthetic(torch.randn(1, 16), folder / "ink.pt")
    save_aesthetic(torch.randn(3, 16), folder / "oil.safetensors")
    save_aesthetic(torch.randn(1, 20), folder / "wide.pt")
    for width in (16, 20):
        clip(layers=2, projection=True, projection_dim=width).save_pretrained(folder / f"clip{width}")
    adapter_file(folder / "lora.safetensors", layers(clip()), prefix="lora_te_")
    return folder


@pytest.fixture(scope="module")
def studio(sd1_folder, folder):
    return Generator.open(sd1_folder, CPU, FolderResolver([folder]), clip_folder=folder / "clip16")


def pixels(studio, prompt, settings=QUICK):
    return np.asarray(studio.generate(prompt, settings).image, np.int16)


def test_a_tag_changes_the_picture_and_leaves_no_trace(studio):
    encoder = studio.pipe.text_encoder
    before = weights_of(encoder)
    plain = pixels(studio, "a cat")
    tagged = studio.generate(f"a cat <aesthetic:ink:{HOW}>", QUICK)
    assert (np.asarray(tagged.image) != plain).any()
    assert tagged.problems == ()
    (line,) = tagged.report.lines()
    assert line.startswith("ink (aesthetic gradient): 3 steps, weight 0.9, cosine ")
    start, end = (float(number) for number in line.split("cosine ")[1].split(" -> "))
    assert end > start + 0.1
    assert (pixels(studio, "a cat") == plain).all()
    now = dict([*encoder.named_parameters(), *encoder.named_buffers()])
    assert all(now[name] is own and torch.equal(own, values) for name, (own, values) in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_weight_zero_is_the_picture_of_the_plain_prompt(studio):
    assert (pixels(studio, f"a cat <aesthetic:ink:0:{HOW}>") == pixels(studio, "a cat")).all()
    without = Settings(steps=2, seed=3, size=(64, 64), guidance=1.0)
    assert (pixels(studio, f"a cat <aesthetic:ink:0:{HOW}>", without) == pixels(studio, "a cat", without)).all()


def truth(studio, options, vectors, encoder, projection):
    """The same by hand: [1, 77, w] of the unchanged and of the changed encoder."""
    ids = studio.pipe.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids

    def states():
        found = encoder.forward(ids, output_hidden_states=True)
        return found.last_hidden_state, found.hidden_states[-2]

    prompt = TextForward(lambda: clip_feature(encoder, projection, ids, 98), states, ())
    with torch.no_grad():
        plain = states()
    return plain, optimize_text(encoder, prompt, optimization_target(vectors, None, options), options).hidden_states


@pytest.mark.parametrize("slerp", [False, True])
def test_the_embeds_are_the_mixture_and_the_negative_prompts_are_its_own(studio, folder, slerp):
    options = AestheticOptions(weight=0.7, steps=3, lr=0.01, slerp=slerp)
    ink = studio.resolver.aesthetic("ink")[0]
    embeds, _ = studio.aesthetic_encoder.encode("a cat", "a dog", [aesthetic_encoder.AestheticRequest(ink, options)])
    projection = text_projection(clip(layers=2, projection=True, projection_dim=16))
    plain, changed = truth(studio, options, ink.vectors, studio.pipe.text_encoder, projection)
    torch.testing.assert_close(embeds["prompt_embeds"], blend(plain[0], changed[0], options), rtol=0, atol=1e-5)
    with torch.no_grad():
        dog = studio.pipe.encode_prompt("a dog", CPU, 1, False)[0]
    assert torch.equal(embeds["negative_prompt_embeds"], dog)


def test_an_answer_is_computed_once(studio, monkeypatch):
    runs = []
    real = aesthetic_encoder.optimization_target
    monkeypatch.setattr(aesthetic_encoder, "optimization_target", lambda *given: runs.append(1) or real(*given))
    studio.aesthetic_encoder._optimizer._cache.clear()
    steps = []
    for prompt in ("a x <aesthetic:ink:1>", "a x <aesthetic:ink:0.5:slerp>", "a x <lyco:lora:1><aesthetic:ink:1>"):
        ink = studio.resolver.aesthetic("ink")[0]
        studio.activate_prompt(prompt.split("<aesthetic")[0])
        studio.aesthetic_encoder.encode(
            "a x", "", [aesthetic_encoder.AestheticRequest(ink, AestheticOptions())], steps.append
        )
    assert len(runs) == 3
    assert steps == [1, 2, 3, 4, 5] * 2  # the adapter changes the encoder, so its answer is another


def test_with_adapters_on_the_same_encoder(studio):
    both = f"a cat <lyco:lora:1> <aesthetic:ink:{HOW}>"
    one = pixels(studio, both)
    lora, ink = pixels(studio, "a cat <lyco:lora:1>"), pixels(studio, f"a cat <aesthetic:ink:{HOW}>")
    assert (one != lora).any()
    assert (one != ink).any()
    assert (pixels(studio, both) == one).all()
    report = studio.generate(both, QUICK).report
    assert [report.adapters[0].matched > 0, report.adapters[1].name] == [True, "ink"]
    studio.activate_prompt("")
    assert studio.session.verify()


def test_a_text_turns_the_embedding_and_several_tags_follow_each_other(studio):
    pictures = [
        pixels(studio, f"a cat {tags}")
        for tags in (
            f"<aesthetic:ink:{HOW}>", f"<aesthetic:ink:{HOW}:text=a red sea:angle=0.5>",
            f"<aesthetic:ink:{HOW}:text=a red sea:angle=0.5:negative>", f"<aesthetic:oil:{HOW}><aesthetic:ink:{HOW}>",
        )
    ]  # fmt: skip
    assert all((a != b).any() for n, a in enumerate(pictures) for b in pictures[:n])


def test_a_stop_gives_the_encoder_back(studio):
    before = weights_of(studio.pipe.text_encoder)

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studio.generate("something new <aesthetic:ink>", QUICK, stop)
    encoder = studio.pipe.text_encoder
    now = dict([*encoder.named_parameters(), *encoder.named_buffers()])
    assert all(now[name] is own and torch.equal(own, values) for name, (own, values) in before.items())
    assert not encoder._forward_hooks


def test_short_of_memory_the_picture_is_drawn_without_it(studio):
    plain, before = pixels(studio, "a cat"), weights_of(studio.pipe.text_encoder)
    drawing = []

    def full(done):
        drawing.append(done)
        if len(drawing) == 2:
            raise torch.cuda.OutOfMemoryError

    picture = studio.generate("a cat <aesthetic:oil:steps=4>", QUICK, full)
    assert (np.asarray(picture.image) == plain).all()
    assert picture.report.lines() == ["oil: there is not enough GPU memory to lead the text encoder; it is left out."]
    now = dict([*studio.pipe.text_encoder.named_parameters(), *studio.pipe.text_encoder.named_buffers()])
    assert all(now[name] is own and torch.equal(own, values) for name, (own, values) in before.items())


def test_what_cannot_be_had_is_said_and_the_picture_is_drawn(sd1_folder, studio, folder, tmp_path):
    plain = pixels(studio, "a cat")
    picture = studio.generate(
        "a cat <aesthetic:nobody><aesthetic:lora><aesthetic:INK:0:steps=0><aesthetic:ink:x>", QUICK
    )
    assert (np.asarray(picture.image) == plain).all()
    wanted = ("'x' is not a number", "no aesthetic embedding is called 'nobody'", "lora.safetensors is no aesthetic",
              "'INK' was taken for 'ink'")  # fmt: skip
    assert all(words in problem for words, problem in zip(wanted, picture.problems, strict=True))
    (wrong,) = studio.generate("a cat <aesthetic:wide>", QUICK).report.lines()
    assert "wide.pt is 20 wide, but what this model's texts are compared in is 16 wide" in wrong
    bare = Generator.open(sd1_folder, CPU, studio.resolver)
    drawn = bare.generate("a cat <aesthetic:ink>", QUICK)
    assert (np.asarray(drawn.image) == plain).all()
    assert (
        "ink.pt needs CLIP's text projection, which this model's folder does not hold (nothing is fetched)"
        in (drawn.report.lines()[0])
    )
    clip(layers=2, width=16, projection=True).save_pretrained(tmp_path / "other")
    foreign = Generator.open(sd1_folder, CPU, studio.resolver, clip_folder=tmp_path / "other")
    assert "belongs to another text encoder" in foreign.generate("a <aesthetic:ink>", QUICK).report.lines()[0]
    missing = Generator.open(sd1_folder, CPU, studio.resolver, clip_folder=tmp_path / "gone")
    assert "this CLIP folder or file does not exist" in missing.generate("a <aesthetic:ink>", QUICK).report.lines()[0]


def test_a_clip_folder_in_the_models_own_is_found(sd1_folder, folder, tmp_path, studio):
    shutil.copytree(sd1_folder, tmp_path / "model")
    shutil.copytree(folder / "clip16", tmp_path / "model" / "clip")
    with Generator.open(tmp_path / "model", CPU, FolderResolver([folder])) as own:
        assert (pixels(own, f"a cat <aesthetic:ink:{HOW}>") == pixels(studio, f"a cat <aesthetic:ink:{HOW}>")).all()


def test_a_text_encoder_without_its_last_layer_is_led_and_that_is_said(folder, tmp_path):
    clip(layers=24, projection=True).save_pretrained(tmp_path / "clip")
    with Generator.open(model_folder(tmp_path / "sd2", "sd2"), CPU, FolderResolver([folder])) as studio:
        picture = studio.generate(f"a cat <aesthetic:ink:{HOW}>", QUICK)
        assert (np.asarray(picture.image) != pixels(studio, "a cat")).any()
        assert picture.report.lines()[1] == "ink: the text encoder has 23 of its CLIP's 24 layers, so it is led roughly"


def test_sdxl_takes_the_encoder_that_fits(sdxl_folder, folder):
    options = AestheticOptions(weight=0.8, steps=2, lr=0.01)
    with Generator.open(sdxl_folder, CPU, FolderResolver([folder]), clip_folder=folder / "clip20") as studio:
        plain, _ = studio.aesthetic_encoder.encode("a cat", "", [])
        for name, number in (("wide", 0), ("ink", 1)):
            found = studio.resolver.aesthetic(name)[0]
            embeds, (report,) = studio.aesthetic_encoder.encode(
                "a cat", "", [aesthetic_encoder.AestheticRequest(found, options)]
            )
            assert report.error is None
            before, now = (list(one["prompt_embeds"].split(24, dim=-1)) for one in (plain, embeds))
            assert torch.equal(before[1 - number], now[1 - number])
            encoder = (studio.pipe.text_encoder, studio.pipe.text_encoder_2)[number]
            own = text_projection(encoder)
            projection = text_projection(clip(layers=2, projection=True, projection_dim=20)) if own is None else own
            old, changed = truth(studio, options, found.vectors, encoder, projection)
            torch.testing.assert_close(now[number], blend(old[1], changed[1], options), rtol=0, atol=1e-5)
            assert torch.equal(plain["pooled_prompt_embeds"], embeds["pooled_prompt_embeds"]) == (number == 0)
        quiet = pixels(studio, "a cat")
        assert (pixels(studio, f"a cat <aesthetic:ink:0:{HOW}>") == quiet).all()
        assert (pixels(studio, f"a cat <aesthetic:wide:{HOW}>") != quiet).any()
