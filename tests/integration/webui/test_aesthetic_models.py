"""Aesthetic gradients on the web UI's other models: two encoders, OpenCLIP, low precision, copies, second passes."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.hosts.webui.aesthetic_encoder import ENCODE_METHOD
from lib_adapters.hosts.webui.clip_projection import ProjectionLoader
from tests.fake_webui import extra_networks
from tests.fake_webui.checkpoint import Holder
from tests.fake_webui.sd_hijack_clip import Embedder, SdConditioning
from tests.fake_webui.webui import Job
from tests.integration.webui import test_aesthetic_script
from tests.integration.webui.test_aesthetic_script import (
    INFOTEXT_FIELDS,
    TAG,
    VALUES,
    expected,
    put_embedding,
    said,
    tokens_of,
)
from tests.support.tiny_models import open_clip

glow = test_aesthetic_script.glow


class OpenEmbedder(Embedder):
    """OpenCLIP in the host's wrapper: the state before the last layer, and the pooled text beside it."""

    id_end, id_pad = 98, 0

    def encode_with_transformers(self, tokens):
        self.hijack.fixes = None
        tower = self.wrapped.model
        states = []
        hook = tower.transformer.resblocks[-1].register_forward_pre_hook(lambda _, given: states.append(given[0]))
        try:
            found = tower.forward(tokens)
        finally:
            hook.remove()
        z = states[0] if len(states[0]) == len(tokens) else states[0].permute(1, 0, 2)
        z.pooled = found[0] if isinstance(found, tuple) else found
        return z

    def process_tokens(self, tokens, multipliers):
        z = self.encode_with_transformers(torch.asarray(tokens).repeat(1, 2))  # its texts are 16 long
        self.pooled = z.pooled
        return z


@pytest.fixture
def wide(webui, glow):
    """An SDXL: CLIP-L, which needs the folder, and OpenCLIP, which has a projection of its own, of other widths."""
    model = webui.model
    tower = open_clip(width=32, layers=3)
    tower.text_projection = torch.nn.Parameter(torch.randn(32, 40, generator=torch.Generator().manual_seed(1)))
    model.conditioner = Holder(
        embedders=torch.nn.ModuleList([model.cond_stage_model, OpenEmbedder(Holder(model=tower))])
    )
    put_embedding(webui, "wide", width=40)
    return model.conditioner.embedders


def encoded(embedders, prompt, **options):
    with torch.no_grad():
        return [embedder(SdConditioning([prompt], **options)) for embedder in embedders]


def test_each_embedding_leads_the_encoder_that_it_fits(webui, wide):
    plain = encoded(wide, "5 6")
    pooled = wide[1].pooled
    for tag, led in ((TAG, 0), (TAG.replace("glow", "wide"), 1)):
        job = Job(webui, [f"5 6 {tag}"])
        job.activate()
        found = encoded(wide, "5 6")
        assert torch.equal(found[1 - led], plain[1 - led])
        assert not torch.allclose(found[led], plain[led])
        assert len(said(job)) == 1
        assert torch.equal(wide[1].pooled, pooled) is (led == 0)
        for one, old in zip(encoded(wide, "5 6", is_negative_prompt=True), plain, strict=True):
            assert torch.equal(one, old)
    Job(webui, ["5 6"]).activate()
    assert all(ENCODE_METHOD not in one.__dict__ and not one._forward_pre_hooks for one in wide)
    for one, old in zip(encoded(wide, "5 6"), plain, strict=True):
        assert torch.equal(one, old)


def test_an_encoder_of_low_precision_keeps_its_type(webui, glow):
    webui.model.bfloat16()
    encode = lambda: webui.model.cond_stage_model.encode_with_transformers(tokens_of(5))  # noqa: E731
    job = Job(webui, [f"5 {TAG}"])
    with torch.no_grad():
        plain = encode()
        job.activate()
        led = encode()
    assert led.dtype == plain.dtype == torch.bfloat16
    assert not torch.equal(led, plain)
    assert all(one.dtype == torch.bfloat16 for one in webui.model.parameters())
    assert len(said(job)) == 1


def test_a_copy_is_led_by_itself_and_a_model_is_not_kept(webui, glow):
    Job(webui, [f"5 {TAG}"]).activate()
    twin = copy.deepcopy(webui.model)
    assert twin.cond_stage_model.__dict__[ENCODE_METHOD].__self__ is twin.cond_stage_model
    old = weakref.ref(webui.model.cond_stage_model)
    webui.model.rehijack()
    gc.collect()
    assert old() is None
    Job(webui, ["5"]).activate()


def test_the_second_pass_has_its_own(webui, glow):
    job = Job(webui, ["5"])
    job.hr_prompts, job.hr_extra_network_data = extra_networks.parse_prompts([f"5 {TAG}"])
    job.activate()
    keys = [copy.deepcopy(data) for data in (job.extra_network_data, job.hr_extra_network_data)]
    assert keys[0] != keys[1]
    job.is_hr_pass = True
    extra_networks.activate(job, job.hr_extra_network_data)
    assert [job.extra_network_data, job.hr_extra_network_data] == keys, "the host keeps the data itself as its key"
    with torch.no_grad():
        torch.testing.assert_close(webui.model.text(["5"]), expected(webui, glow, 5))


def test_an_accordion_is_for_both_passes_and_for_its_own_picture(webui, glow):
    job, (script,) = Job(webui, ["5"]), webui.always_on
    script.process(job, *VALUES)
    job.hr_prompts, job.hr_extra_network_data = extra_networks.parse_prompts(["5"])
    job.activate()
    assert job.extra_network_data == job.hr_extra_network_data != {}
    job.is_hr_pass = True
    extra_networks.activate(job, job.hr_extra_network_data)
    assert ENCODE_METHOD in webui.model.cond_stage_model.__dict__
    other = Job(webui, ["5"])
    other.activate()
    assert other.extra_network_data == {}
    assert ENCODE_METHOD not in webui.model.cond_stage_model.__dict__
    assert set(INFOTEXT_FIELDS) <= set(job.extra_generation_params)


def test_where_a_tag_does_nothing_it_is_said(webui, glow):
    job = webui.picture([f"5 {TAG}", "6"], negative=TAG)
    assert any("name different aesthetic embeddings" in line for line in job.comments)
    assert f"{TAG} stands in the negative prompt, where tags are plain words." in job.comments
    webui.sd_models.model_data.sd_model = webui.model = Holder(model=webui.model.model, text_encoders=Holder())
    job = Job(webui, [f"5 {TAG}"])
    job.activate()
    assert any("this model has no CLIP text encoder" in line for line in job.comments)


def test_somebody_elses_encoding_stays_under_ours_or_over_it(webui, glow):
    embedder, calls = webui.model.cond_stage_model, []

    def around(inner):
        return lambda tokens: (calls.append(1), inner(tokens))[1]

    embedder.__dict__[ENCODE_METHOD] = before = around(embedder.encode_with_transformers)
    Job(webui, [f"5 {TAG}"]).activate()
    webui.model.text(["5"])
    assert len(calls) == 2  # the plain text, and the led one
    over = embedder.__dict__[ENCODE_METHOD] = around(embedder.__dict__[ENCODE_METHOD])
    Job(webui, ["5"]).activate()
    assert embedder.__dict__[ENCODE_METHOD] is over
    del calls[:]
    with torch.no_grad():
        assert torch.isfinite(webui.model.text(["5"])).all()
    assert len(calls) == 2
    assert before is not over


PLACES = [
    ("CLIP/clip_l.safetensors", None),
    ("CLIP/any name.safetensors", None),
    ("CLIP/openai/model.safetensors", None),
    ("Stable-diffusion/sd3_medium_incl_clips.safetensors", None),
    ("hub/models--timm--vit_large_patch14_clip_224.openai/snapshots/1/open_clip_model.safetensors", "HF_HUB_CACHE=hub"),
    ("hub/models--openai--clip-vit-large-patch14/snapshots/1/model.safetensors", "HUGGINGFACE_HUB_CACHE=hub"),
    ("hub/models--openai--clip-vit-large-patch14/snapshots/1/model.safetensors", "TRANSFORMERS_CACHE=hub"),
    ("hub/models--stabilityai--stable-diffusion-3-medium/snapshots/1/text_encoder/model.safetensors", "HF_HOME="),
    ("huggingface/hub/models--openai--clip-vit-large-patch14/snapshots/1/model.safetensors", "XDG_CACHE_HOME="),
    (".cache/clip/ViT-L-14.pt", "HOME="),
    ("interrogator/ViT-L-14.pt", "--clip-models-path"),
]


@pytest.mark.parametrize(("place", "variable"), PLACES, ids=lambda one: str(one)[-40:])
def test_the_projection_is_found_where_this_machine_has_it(webui, monkeypatch, place, variable):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(webui.folder / "nothing"))
    monkeypatch.setenv("USERPROFILE", str(webui.folder / "nothing"))
    file, matrix = webui.folder / place, torch.randn(16, 24)
    file.parent.mkdir(parents=True)
    key = "text_encoders.clip_l.transformer." if "incl_clips" in place else ""
    if file.suffix == ".pt":
        torch.save({"text_projection.weight": matrix}, file)
    else:
        save_file({f"{key}text_projection.weight": matrix}, file)
    if variable == "--clip-models-path":
        webui.shared.cmd_opts.clip_models_path = str(file.parent)
    elif variable:
        name, _, below = variable.partition("=")
        monkeypatch.setenv(name, str(webui.folder / below))
        monkeypatch.setenv("USERPROFILE" if name == "HOME" else name, str(webui.folder / below))
    put_embedding(webui, "glow")
    found = ProjectionLoader().match(webui.model, open_aesthetic(webui.folder / "aesthetic_embeddings" / "glow.pt"))
    assert torch.equal(found.projection, matrix)
