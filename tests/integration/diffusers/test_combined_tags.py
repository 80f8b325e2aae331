"""Everything that a prompt may hold at once; and what chance chose is written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_adapters import Request
from lib_adapters.app.image_output import infotext
from lib_adapters.conditioning.aesthetic_file import save_aesthetic
from lib_adapters.conditioning.hypernetwork_patcher import (
    HypernetworkPatcher,
    HypernetworkRequest,
    attention_projections,
)
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.hosts.diffusers.load_pipeline import components_of, create_session, open_pipeline
from lib_adapters.hosts.diffusers.step_callback import SamplingSteps
from lib_adapters.prompt.block_weights import Presets
from lib_adapters.prompt.tags import parse
from tests.integration.diffusers.test_negative_prompt_tags import encoded, pixels, recorded
from tests.integration.diffusers.test_pipeline_schedules import same
from tests.support.sample_adapters import MAKERS, adapter_file, layers
from tests.support.tiny_models import clip
from tests.unit.conditioning.test_hypernetworks import module, save

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
INK = "<aesthetic:ink:0.8:steps=3:lr=0.01>"


@pytest.fixture(scope="module")
def studio(sd1_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    torch.manual_seed(8)
    pipe = open_pipeline(sd1_folder, CPU)
    starts = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    shapes = {
        f"{starts[part]}{path}": s for part, root in components_of(pipe).items() for path, s in layers(root).items()
    }
    for name in ("LoRA", "OFT"):
        adapter_file(folder / f"{name}.safetensors", shapes, MAKERS[name], prefix="")
    save_aesthetic(torch.randn(1, 16), folder / "ink.pt")
    clip(layers=2, projection=True, projection_dim=16).save_pretrained(folder / "clip")
    widths = {one.width for one in attention_projections(pipe.unet)}
    save(folder / "net.pt", {w: tuple(module(w, [1, 2, 1], "relu") for _ in "kv") for w in widths},
         activation_func="relu")  # fmt: skip
    presets = Presets({"DICE": "R,U,0.123456789,0,1,0,R,R,0.5,0.5,0,0"}, {})
    with Generator.open(sd1_folder, CPU, FolderResolver([folder]), clip_folder=folder / "clip") as opened:
        yield Generator(**{**vars(opened), "presets": lambda: presets})


@pytest.mark.slow
@torch.no_grad()
def test_aesthetics_hypernetworks_and_adapters_of_both_sides(studio, sd1_folder):
    prompt = f"a {INK}cat <lyco:LoRA:0.5:0.1@0,0.5@1><hypernet:net:0.5>"
    settings = Settings("a dog <lyco:OFT:0.6>", 3, 3, 5.0, (64, 64), negative_tags=True)
    picture, runs = recorded(studio, prompt, settings)
    assert picture.problems == ()
    assert [type(one).__name__ for one in picture.report.adapters] == [
        "AdapterReport", "AdapterReport", "HypernetworkReport", "AestheticReport",
    ]  # fmt: skip
    _, alone = recorded(studio, prompt, settings.without_negative_tags())
    pipe = open_pipeline(sd1_folder, CPU)
    lora, oft = (studio.resolver.adapter(name).adapter for name in ("LoRA", "OFT"))
    with create_session(pipe) as session:
        hypernetworks = HypernetworkPatcher(pipe.unet, "sd1")
        for step, (given, named, answer) in enumerate(runs):
            session.activate([Request(lora, unet=0.1 + 0.2 * step, te=0.5), Request(oft, unet=0.6, te=0.6)])
            against, along = named["encoder_hidden_states"]
            same([against], [encoded(pipe, "a dog ")[0][0]])
            same([along], [alone[0][1]["encoder_hidden_states"][1]])
            hypernetworks.activate([HypernetworkRequest(studio.resolver.hypernetwork("net")[0], 0.5)])
            same([answer[0]], [pipe.unet(*given, **named)[0][0]])
            session.activate([Request(lora, unet=0.1 + 0.2 * step, te=0.5)])
            same([answer[1]], [pipe.unet(*given, **named)[0][1]])
            hypernetworks.deactivate()
    assert studio.session.verify()


DICE = "<lyco:LoRA:0.8:lbw=DICE>"
THROWN = "<lyco:OFT:0.7:lbw=R,0.123456789,U,R,1,0,R,R,0.5,0.5,0,0>"


def test_what_chance_chose_is_written_and_drawn_again(studio):
    settings = Settings(f"a dog {THROWN}", 2, 7, 5.0, (64, 64), negative_tags=True)
    picture = studio.generate(f"a {DICE} cat {INK} here", settings)
    chosen = [request.blocks for request in studio.session.active]
    assert picture.problems == ()
    assert picture.prompt.startswith("a <lyco:LoRA:0.8:lbw=0.")
    assert picture.prompt.endswith(f"> cat {INK} here")
    assert parse(picture.settings.negative).tags[0].options.spec.blocks.count(";") == 11
    text = infotext(picture)
    assert text.startswith(f"{picture.prompt}\nNegative prompt: {picture.settings.negative}\nSteps: 2, ")
    assert text.endswith(", Negative tags: True")
    assert not any(letter in picture.prompt + picture.settings.negative for letter in ("=R", ";R", "U", "DICE"))
    again = studio.generate(picture.prompt, picture.settings)
    assert [request.blocks for request in studio.session.active] == chosen
    assert (pixels(again) == pixels(picture)).all()
    assert (again.prompt, again.settings) == (picture.prompt, picture.settings)
    same_seed = studio.generate(f"a {DICE} cat {INK} here", settings)
    assert same_seed.prompt == picture.prompt
    other = studio.generate(f"a {DICE} cat {INK} here", Settings(steps=1, seed=8, size=(64, 64)))
    assert other.prompt != picture.prompt
    assert "Negative tags" not in infotext(other)


def test_what_is_not_chance_is_left_as_it_is_written(studio):
    prompt = "a cat <lyco:LoRA:0.5:lbw=OUTALL><lyco:nobody:lbw=R>"
    picture = studio.generate(prompt, Settings(steps=1, seed=7, size=(64, 64)))
    assert picture.prompt == prompt


def test_the_report_tells_how_many_layers_are_silent(studio):
    studio.activate_prompt("<lyco:LoRA:0.5:lbw=IN00-MID>")
    (line, *_) = studio.session.report.lines()
    (report,) = studio.session.report.adapters
    assert report.matched + report.disabled_by_blocks == report.total
    assert f"{report.disabled_by_blocks} at a block weight of 0" in line
    assert report.disabled_by_blocks > 12 * 6  # the text encoder, too, is outside these blocks


def test_an_earlier_prompts_order_does_not_mix_adapters_up(studio, tmp_path):
    wrong = adapter_file(tmp_path / "wrong.safetensors", {"down_blocks_9_nothing": (4, 4)})
    resolver = FolderResolver([wrong.parent, *[f.parent for f in _files(studio)]])
    both = Generator(**{**vars(studio), "resolver": resolver})
    for prompt in ("<lyco:wrong><lyco:LoRA>", "<lyco:LoRA><lyco:wrong>"):
        asked = []
        real = both.embeddings.sync
        object.__setattr__(
            both.embeddings, "sync", lambda used, real=real, asked=asked: asked.extend(used) or real(used)
        )
        both.activate_prompt(prompt)
        del both.embeddings.__dict__["sync"]
        assert [adapter.name for adapter in asked] == ["LoRA"]


def _files(studio):
    return [studio.resolver.adapter("LoRA").adapter.path]


def test_a_distilled_model_has_no_negative_row(studio, monkeypatch):
    assert studio._uses_guidance(Settings(guidance=5.0))
    config = dict(studio.pipe.unet.config) | {"time_cond_proj_dim": 8}
    monkeypatch.setattr(studio.pipe.unet, "_internal_dict", type(studio.pipe.unet.config)(config))
    assert not studio._uses_guidance(Settings(guidance=5.0))


class Timesteps:
    """A scheduler of which only its list is known."""

    def __init__(self, timesteps, alphas=None):
        self.timesteps, self.alphas_cumprod = torch.tensor(timesteps), alphas

    def set_timesteps(self, steps):
        pass


def test_moments_between_two_timesteps_and_behind_the_end():
    alphas = torch.linspace(0.99, 0.0, 1000)

    class Pipe:
        scheduler = Timesteps([999.0, 500.5, 0.0], alphas)

    steps = SamplingSteps(Pipe(), 3)
    assert steps.sampling_step(0).sigma == float("inf")
    low, high = (((1 - a) / a) ** 0.5 for a in alphas[500:502].double().tolist())
    assert low < steps.sampling_step(1).sigma < high
    assert steps.sampling_step(1).sigma == pytest.approx((low * high) ** 0.5)
    assert steps.sampling_step(2) == steps.sampling_step(3)
    Pipe.scheduler = Timesteps([999.0, 0.0])
    assert SamplingSteps(Pipe(), 2).sampling_step(1).sigma is None


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_two_runs_for_a_step(steps):
    class Pipe:
        scheduler = Timesteps(list(np.linspace(999, 0, 2 * steps - 1)))

    counted = SamplingSteps(Pipe(), steps)
    assert [counted.sampling_step(run).step for run in range(2 * steps - 1)] == [
        run // 2 for run in range(2 * steps - 1)
    ]
