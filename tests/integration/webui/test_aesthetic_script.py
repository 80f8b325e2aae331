"""`<aesthetic:...>` and the accordion in the double of the web UI: only the positive prompt, nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.conditioning.aesthetic_gradients import TextForward, blend, optimization_target, optimize_text
from lib_adapters.conditioning.clip_features import clip_feature
from lib_adapters.hosts.webui.aesthetic_encoder import ENCODE_METHOD
from lib_adapters.hosts.webui.aesthetic_script import INFOTEXT_FIELDS
from lib_adapters.hosts.webui.clip_projection import CLIP_L
from lib_adapters.prompt.aesthetic_tag import AestheticOptions
from tests.fake_webui import extra_networks
from tests.fake_webui.checkpoint import checkpoint, other_state
from tests.fake_webui.sample_files import put_text
from tests.fake_webui.webui import Job

TAG = "<aesthetic:glow:0.8:steps=3:lr=0.001>"
LED = AestheticOptions(weight=0.8, steps=3, lr=0.001)
VALUES = (0.8, 3, "0.001", False, "glow", "", 0.1, False)  # what the accordion gives for the same


@pytest.fixture
def glow(webui, monkeypatch, tmp_path):
    """An embedding, and the projection of a CLIP folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    torch.manual_seed(4)
    (webui.folder / "CLIP").mkdir()
    webui.projection = torch.randn(16, 24)
    save_file({"text_projection.weight": webui.projection}, webui.folder / "CLIP" / "model.safetensors")
    return put_embedding(webui, "glow")


def put_embedding(webui, name, width=16, seed=9):
    folder = webui.folder / "aesthetic_embeddings"
    folder.mkdir(exist_ok=True)
    vectors = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    torch.save(vectors, folder / f"{name}.pt")
    return vectors


def tokens_of(*words):
    return torch.tensor([[97, *words, *[98] * (7 - len(words))]])


@torch.no_grad()
def expected(webui, vectors, *words, options=LED, text=()):
    """One chunk by hand, before emphasis."""
    model, tokens = checkpoint(), tokens_of(*words)
    feature = lambda tokens: clip_feature(model.clip, webui.projection, tokens, 98)  # noqa: E731
    plain = model.cond_stage_model.encode_with_transformers(tokens)
    states = lambda: (model.cond_stage_model.encode_with_transformers(tokens),)  # noqa: E731
    target = optimization_target(vectors, feature(tokens_of(*text)) if text else None, options)
    led = optimize_text(model.clip, TextForward(lambda: feature(tokens), states, (plain,)), target, options)
    return blend(plain, led.hidden_states[0], options)


def cond(webui):
    return webui.conds[1]


def weights(model):
    return [(one, one.clone()) for one in [*model.parameters(), *model.buffers()]]


def assert_untouched(model, before):
    now = [*model.parameters(), *model.buffers()]
    assert all(one is own and torch.equal(own, values) for one, (own, values) in zip(now, before, strict=True))
    assert ENCODE_METHOD not in model.cond_stage_model.__dict__
    assert not model.cond_stage_model._forward_pre_hooks


def said(job):
    return [line for line in job.comments if "cosine" in line]


def test_a_tag_leads_the_positive_prompt_and_leaves_nothing(webui, glow):
    before = weights(webui.model)
    plain = webui.picture("5 6 7", negative="8 9").image
    uncond = webui.conds[2]
    job = webui.picture(f"5 6 7 {TAG}", negative="8 9")
    assert_untouched(webui.model, before)
    torch.testing.assert_close(cond(webui), expected(webui, glow, 5, 6, 7))
    assert torch.equal(webui.conds[2], uncond)
    (line,) = said(job)
    assert line.startswith("glow (aesthetic gradients): 3 steps, weight 0.8, cosine ")
    start, end = (float(number) for number in line.partition("cosine ")[2].split(" -> "))
    assert end > start + 0.05
    assert torch.equal(webui.picture("5 6 7", negative="8 9").image, plain)
    assert webui.reports == []


def test_chunks_and_emphasis_stay_the_hosts(webui, glow):
    webui.picture(f"1 2 3 4 5 6 7 8! {TAG}")
    first, second = expected(webui, glow, 1, 2, 3, 4, 5, 6), expected(webui, glow, 7, 8)
    loud = torch.ones(8, 1)
    loud[2] = 2
    second = second * loud * (second.mean() / (second * loud).mean())
    torch.testing.assert_close(cond(webui), torch.hstack([first, second]))


def test_clip_skip_is_the_hosts(webui, glow):
    webui.model.cond_stage_model.clip_skip = 2
    webui.picture(f"5 6 {TAG}")
    assert torch.isfinite(cond(webui)).all()
    assert not torch.allclose(cond(webui), expected(webui, glow, 5, 6))


def test_a_batch_is_led_prompt_by_prompt(webui, glow):
    webui.picture([f"5 6 {TAG}", f"7 {TAG}"])
    torch.testing.assert_close(cond(webui)[:1], expected(webui, glow, 5, 6))
    torch.testing.assert_close(cond(webui)[1:], expected(webui, glow, 7))


def test_a_text_of_the_tag_turns_the_embedding(webui, glow):
    webui.picture(f"5 6 {TAG[:-1]}:text=11 12:negative:angle=0.5>")
    options = AestheticOptions(weight=0.8, steps=3, lr=0.001, negative=True, angle=0.5, text="11 12")
    torch.testing.assert_close(cond(webui), expected(webui, glow, 5, 6, options=options, text=(11, 12)))


def test_several_are_mixed_in_one_after_the_other(webui, glow):
    put_embedding(webui, "dusk", seed=2)
    job = webui.picture(f"5 {TAG}{TAG.replace('glow', 'dusk')}")
    assert len(said(job)) == 2
    both = cond(webui)
    webui.picture(f"5 {TAG}")
    assert not torch.allclose(cond(webui), both)


def test_the_hosts_cache_knows_every_parameter_and_the_file(webui, glow):
    webui.picture(f"5 {TAG}")
    first = cond(webui)
    again = webui.picture(f"5 {TAG}")
    assert cond(webui) is first
    assert said(again), "the line is said although the host asked for no conditioning"
    seen = [first]
    for change in ("weight=0.4", "steps=2", "lr=0.002", "slerp", "text=3:angle=0.4", "text=3:negative"):
        webui.picture(f"5 {TAG[:-1]}:{change}>")
        assert not any(torch.equal(cond(webui), one) for one in seen), change
        seen.append(cond(webui))
    put_embedding(webui, "glow", seed=77)
    webui.picture(f"5 {TAG}")
    assert not any(torch.equal(cond(webui), one) for one in seen)
    webui.picture("5")
    assert torch.equal(cond(webui), webui.model.text(["5"]))


def test_the_accordion_is_the_tag(webui, glow):
    tagged = webui.picture(f"5 6 {TAG}").image
    webui.conds.clear()
    job = webui.picture("5 6", VALUES)
    assert torch.equal(job.image, tagged)
    assert job.extra_generation_params == dict(zip(INFOTEXT_FIELDS, VALUES, strict=True))
    assert job.all_prompts == ["5 6"]
    other = webui.picture("5 6", (0.2, *VALUES[1:]))
    assert not torch.equal(other.image, tagged)
    put_embedding(webui, "dusk", seed=2)
    both = webui.picture(f"5 6 {TAG}", (*VALUES[:4], "dusk", *VALUES[5:]))
    assert torch.equal(both.image, tagged)
    assert not set(INFOTEXT_FIELDS) & set(both.extra_generation_params)
    off = webui.picture("5 6", (*VALUES[:4], "None", *VALUES[5:]))
    assert off.extra_generation_params == {}
    assert torch.equal(cond(webui), webui.model.text(["5 6"]))


def test_a_value_that_cannot_be_is_said(webui, glow):
    job = webui.picture("5", (*VALUES[:2], "fast", *VALUES[3:]))
    assert any("'fast' is not a learning rate" in line for line in job.comments)
    assert torch.equal(cond(webui), webui.model.text(["5"]))


def test_old_pictures_paste(webui, gradio):
    (script,) = webui.always_on
    components = script.ui(False)
    named = dict(zip(INFOTEXT_FIELDS, components, strict=True))
    assert [one.value for one in components] == [0.9, 5, "0.0001", False, "None", "", 0.1, False]
    keys = dict((key, component) for component, key in script.infotext_fields if isinstance(key, str))
    assert keys == {name: one for name, one in named.items() if name != "Aesthetic embedding"}
    (chosen,) = [key for component, key in script.infotext_fields if component is named["Aesthetic embedding"]]
    assert chosen({"Aesthetic embedding": "glow"}) == "glow"
    assert chosen({}) == "None"
    assert script.title() == "Aesthetic embeddings"
    assert script.show(True) is webui.scripts.AlwaysVisible


@pytest.fixture
def gradio(webui):
    """Components that remember what they begin with."""

    class Component:
        def __init__(self, *given, value=None, **_):
            self.value = given[-1] if given else value

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    for name in ("Accordion", "Row", "Dropdown", "Slider", "Textbox", "Checkbox"):
        setattr(__import__("gradio"), name, Component)


@pytest.mark.parametrize(
    ("tag", "line"),
    [
        ("<aesthetic:glou>", "no aesthetic embedding is called 'glou'; did you mean 'glow'"),
        ("<aesthetic:glow:much>", "'much' is not a number"),
        ("<aesthetic:wide>", "wide.pt is 48 wide, but what this model's texts are compared in is 16 wide"),
        ("<aesthetic:broken>", "broken.pt "),
        ("<aesthetic:glow:1:lr=1:steps=60>", "the prompt was left as it is (the text left all bounds"),
    ],
)
def test_what_cannot_be_used_is_said_under_the_picture(webui, glow, tag, line):
    put_embedding(webui, "wide", width=48)
    (webui.folder / "aesthetic_embeddings" / "broken.pt").write_bytes(b"nothing")
    if "lr=1:" in tag:
        webui.model.clip.get_input_embeddings().weight.data[5] = float("nan")
    job = webui.picture(f"5 {tag}")
    assert any(line in one for one in job.comments), job.comments
    assert torch.equal(cond(webui).nan_to_num(), webui.model.text(["5"]).nan_to_num())


def test_without_a_clip_folder(webui, glow, tmp_path, monkeypatch):
    wanted = f"Put model.safetensors of {CLIP_L} (on Hugging Face, 1.7 GB) into {webui.folder / 'CLIP'},"
    (webui.folder / "CLIP" / "model.safetensors").rename(tmp_path / "model.safetensors")
    job = webui.picture(f"5 {TAG}")
    assert any(wanted in line for line in job.comments)
    assert torch.equal(cond(webui), webui.model.text(["5"]))
    webui.shared.opts.lycoris_clip_folder = str(tmp_path)
    webui.picture(f"5 {TAG}")
    torch.testing.assert_close(cond(webui), expected(webui, glow, 5))
    webui.shared.opts.lycoris_clip_folder = str(tmp_path / "elsewhere")
    job = webui.picture(f"5 {TAG}")
    assert any("folder or file does not exist" in line for line in job.comments), job.comments
    cache = tmp_path / "cache" / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "1"
    cache.mkdir(parents=True)
    (tmp_path / "model.safetensors").rename(cache / "model.safetensors")
    webui.shared.opts.lycoris_clip_folder = ""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    webui.picture(f"5 {TAG}")
    torch.testing.assert_close(cond(webui), expected(webui, glow, 5))


@pytest.mark.parametrize("sign", ["interrupted", "skipped"])
def test_an_interrupt_leaves_the_text_plain_and_the_cache_honest(webui, glow, sign):
    before, state = weights(webui.model), webui.shared.state
    setattr(state, sign, True)
    state.textinfo = "as it was"
    job = webui.picture(f"5 {TAG}")
    assert not said(job)
    assert torch.equal(cond(webui), webui.model.text(["5"]))
    setattr(state, sign, False)
    job = webui.picture(f"5 {TAG}")
    assert said(job)
    torch.testing.assert_close(cond(webui), expected(webui, glow, 5))
    assert state.textinfo == "as it was"
    assert_untouched(webui.model, before)


def test_with_an_adapter_of_the_text_encoder(webui, glow):
    put_text(webui)
    plain = webui.picture("5 6").image
    led = webui.picture(f"5 6 <lyco:words:1> {TAG}")
    both = cond(webui)
    assert any(line.startswith("words: ") for line in led.comments)
    webui.picture("5 6 <lyco:words:1>")
    assert not torch.allclose(cond(webui), both)
    webui.picture(f"5 6 {TAG}")
    assert not torch.allclose(cond(webui), both)
    webui.picture(f"5 6 <lyco:words:1> {TAG}")
    assert torch.equal(cond(webui), both)
    assert torch.equal(webui.picture("5 6").image, plain)


def test_another_checkpoint_a_new_hijack_and_the_end(webui, glow):
    webui.picture(f"5 {TAG}")
    first = cond(webui)
    own = copy.deepcopy(webui.model.state_dict())
    webui.model.load_in_place(other_state(webui.model), "second")
    webui.picture(f"5 {TAG}")
    assert not torch.allclose(cond(webui), first)
    webui.model.load_in_place(own, "first")
    webui.picture(f"5 {TAG}")
    assert torch.equal(cond(webui), first)
    old, webui.model = webui.model, checkpoint()
    webui.sd_models.model_data.sd_model = webui.model
    Job(webui, [f"6 {TAG}"]).activate()
    assert ENCODE_METHOD in webui.model.cond_stage_model.__dict__
    assert ENCODE_METHOD not in old.cond_stage_model.__dict__
    webui.reload_ui()
    assert ENCODE_METHOD not in webui.model.cond_stage_model.__dict__
    webui.conds.clear()
    webui.picture(f"5 {TAG}")
    assert torch.equal(cond(webui), first)
    webui.call("script_unloaded", backwards=True)
    assert_untouched(webui.model, weights(webui.model))
    assert "aesthetic" not in extra_networks.extra_network_registry
