"""The embedded model: a real Stable Diffusion folder, all of SD 1.5's modules, and pictures of what was asked for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel

from lib_adapters.demo import ADAPTERS, MODEL
from lib_adapters.demo.codec import SCALING, build_codec, thumbnail
from lib_adapters.demo.images import SIDE, Scene, draw, every_caption, random_scene
from lib_adapters.demo.tokenizer import open_tokenizer, write_tokenizer
from lib_adapters.demo.train_codec import to_tensor

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = DiffusionPipeline.from_pretrained(str(MODEL))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generate(pipeline: StableDiffusionPipeline, scene: Scene, seed: int) -> NDArray[np.float32]:
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        answer = pipeline(
            scene.caption, num_inference_steps=12, guidance_scale=2.5, generator=generator, output_type="np"
        )
    return np.asarray(answer.images[0])


def names(module: torch.nn.Module) -> set[str]:
    return {name.replace("text_model.", "") for name, _ in module.named_parameters()}


def test_model_and_adapters_are_small() -> None:
    files = [file for folder in (MODEL, ADAPTERS) for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 15 * MEGABYTE


def test_the_unet_has_every_module_of_sd15(pipeline: StableDiffusionPipeline) -> None:
    with torch.device("meta"):
        sd15 = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    assert names(pipeline.unet) == names(sd15)


def test_the_text_encoder_has_every_module_of_sd15(pipeline: StableDiffusionPipeline) -> None:
    with torch.device("meta"):
        sd15 = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12))
    assert names(pipeline.text_encoder) == names(sd15)


def test_the_codec_has_every_module_of_sd15(pipeline: StableDiffusionPipeline) -> None:
    with torch.device("meta"):
        sd15 = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
    assert names(pipeline.vae) == names(sd15)


def test_everything_is_computed_in_float32(pipeline: StableDiffusionPipeline) -> None:
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}


def test_each_caption_word_is_one_token(pipeline: StableDiffusionPipeline) -> None:
    for caption in every_caption()[::37]:
        assert len(pipeline.tokenizer(caption).input_ids) == len(caption.split()) + 2


@pytest.mark.parametrize("text", ["", "Füße, 東京 & a cat's 😀!", "a reddish greenhouse", "word " * 200])
def test_any_text_becomes_77_known_tokens(pipeline: StableDiffusionPipeline, text: str) -> None:
    tokens = pipeline.tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(tokens) == 77
    assert max(tokens) == pipeline.tokenizer.eos_token_id == pipeline.text_encoder.config.vocab_size - 1


def test_bytes_that_are_no_word_are_kept_apart(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.tokenizer("東").input_ids != pipeline.tokenizer("京").input_ids


def test_the_tokenizer_is_what_the_script_writes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, every_caption())
    assert open_tokenizer(tmp_path).get_vocab() == open_tokenizer(MODEL / "tokenizer").get_vocab()


def test_the_encoder_is_a_thumbnail(pipeline: StableDiffusionPipeline) -> None:
    pictures = to_tensor([draw(random_scene(random.Random(k))) for k in range(4)])
    with torch.no_grad():
        posterior = pipeline.vae.encode(pictures).latent_dist
    assert torch.allclose(posterior.mean, thumbnail(pictures), atol=0.02)
    assert posterior.std.max() < 0.01
    assert pipeline.vae.config.scaling_factor == SCALING


def test_an_untrained_decoder_enlarges_the_thumbnail() -> None:
    latents = thumbnail(to_tensor([draw(Scene("house", "red", "blue"))]))
    with torch.no_grad():
        shown = build_codec().decode(latents).sample
    plain = torch.nn.functional.interpolate(latents[:, :3], scale_factor=8)
    assert (shown - plain).abs().max() < 0.25


def test_the_decoder_draws_sharper_than_the_thumbnail(pipeline: StableDiffusionPipeline) -> None:
    pictures = to_tensor([draw(random_scene(random.Random(100 + k))) for k in range(6)])
    latents = thumbnail(pictures)
    with torch.no_grad():
        error = (pipeline.vae.decode(latents).sample - pictures).abs().mean()
    plain = (torch.nn.functional.interpolate(latents[:, :3], scale_factor=8) - pictures).abs().mean()
    assert error < 0.7 * plain


@pytest.mark.parametrize(
    "scene",
    [
        Scene("circle", "red", "white"),
        Scene("square", "blue", "yellow", "big"),
        Scene("heart", "pink", "black", "big"),
        Scene("tree", "green", "gray", "big"),
    ],
    ids=lambda scene: scene.caption,
)
def test_the_picture_is_the_one_the_prompt_asks_for(pipeline: StableDiffusionPipeline, scene: Scene) -> None:
    picture = generate(pipeline, scene, seed=1)
    assert picture.shape == (SIDE, SIDE, 3)
    assert abs(picture - draw(scene)).mean() < 0.08


def test_the_seed_decides(pipeline: StableDiffusionPipeline) -> None:
    scene = Scene("star", "yellow", "blue")
    first, again, other = (generate(pipeline, scene, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
