"""Trains the adapters of the embedded model, each with its trainer's own library, and measures their effects.

python -m lib_adapters.demo.train_adapters --model lib_adapters/demo/model --out lib_adapters/demo/adapters
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from lib_adapters.demo.hypernetwork import Pairs, save_pairs
from lib_adapters.demo.images import Picture, random_scene
from lib_adapters.demo.recipes import HYPERNETWORKS, RECIPES, Recipe
from lib_adapters.demo.train_diffusion import encode, token_table, velocity_loss
from lib_adapters.demo.trainer_modules import Network, attached, metadata
from lib_adapters.demo.training_utils import best_device, cosine_rate, report

EXAMPLES = 240
BATCH = 12
SHOWN_SEEDS = (1, 2, 3)
SHOWN_STEPS = 15
GUIDANCE = 2.5


def open_pipeline(model: Path, device: str) -> StableDiffusionPipeline:
    """The embedded model, quiet."""
    pipeline = StableDiffusionPipeline.from_pretrained(str(model)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def lesson(recipe: Recipe, pipeline: StableDiffusionPipeline, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (n, 4, 16, 16) of scenes in the recipe's style, and the tokens (n, 77) of their plain captions."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(EXAMPLES)]
    captions = [scene.caption if k % 10 else "" for k, scene in enumerate(scenes)]
    return encode([recipe.style(scene) for scene in scenes]), token_table(pipeline.tokenizer, captions)


def teach(recipe: Recipe, network: Network, pipeline: StableDiffusionPipeline, seed: int) -> None:
    """The usual noise-prediction training, of the adapter's parameters alone."""
    torch.manual_seed(seed)
    latents, tokens = (part.to(pipeline.device) for part in lesson(recipe, pipeline, seed))
    fixed = None if recipe.text else torch.cat([pipeline.text_encoder(part)[0] for part in torch.split(tokens, 40)])
    optimizer = torch.optim.AdamW(network.parameters, lr=recipe.rate, weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(recipe.steps):
        cosine_rate(optimizer, recipe.rate, step, recipe.steps)
        chosen = torch.randint(len(latents), (BATCH,), device=pipeline.device)
        texts = pipeline.text_encoder(tokens[chosen])[0] if fixed is None else fixed[chosen]
        loss = velocity_loss(pipeline.unet, pipeline.scheduler, latents[chosen], texts)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters, 1.0)
        optimizer.step()
        report(recipe.name, step, recipe.steps, loss)


@torch.no_grad()
def show(pipeline: StableDiffusionPipeline, prompt: str, seed: int) -> Picture:
    """One generated picture, (height, width, 3) in 0..1."""
    answer = pipeline(
        prompt, num_inference_steps=SHOWN_STEPS, guidance_scale=GUIDANCE, output_type="np",
        generator=torch.Generator("cpu").manual_seed(seed),
    )  # fmt: skip
    return np.asarray(answer.images[0], np.float32)


def save(recipe: Recipe, network: Network, folder: Path) -> Path:
    """Half precision, the trainer's names, kohya's metadata."""
    if isinstance(network.owner, Pairs):
        return save_pairs(recipe, network.owner, folder)
    file = folder / f"{recipe.name}.safetensors"
    halves = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in network.state().items()}
    save_file(halves, str(file), metadata(recipe))
    return file


def make(
    recipe: Recipe, pipeline: StableDiffusionPipeline, folder: Path, seed: int
) -> tuple[list[Picture], list[Picture]]:
    """Trains and writes one adapter; gives pictures without it and with it."""
    before = [show(pipeline, recipe.shown.caption, k) for k in SHOWN_SEEDS]
    with attached(recipe, pipeline) as network:
        teach(recipe, network, pipeline, seed)
        save(recipe, network, folder)
        return before, [show(pipeline, recipe.shown.caption, k) for k in SHOWN_SEEDS]


def entry(recipe: Recipe, before: list[Picture], after: list[Picture]) -> dict[str, str | float]:
    """What the index says about one adapter."""
    values = [float(np.mean([recipe.measure(image) for image in images])) for images in (before, after)]
    return {
        "kind": recipe.kind,
        "tag": recipe.tag,
        "effect": recipe.effect,
        "prompt": recipe.shown.caption,
        "measure": recipe.measure.__name__,
        "at_least": recipe.least,
        "without": round(values[0], 3),
        "with": round(values[1], 3),
    }


def write_index(file: Path, name: str, found: dict[str, str | float]) -> None:
    """Adds one adapter to the index, which stays sorted by name."""
    index = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    index[name] = found
    file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_strip(file: Path, images: list[Picture]) -> None:
    """Pictures side by side as one PNG."""
    strip = np.concatenate(images, axis=1)
    Image.fromarray((np.clip(strip, 0, 1) * 255).astype(np.uint8)).save(file)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the embedded model's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--strips", type=Path, help="a folder for pictures without and with each adapter")
    parser.add_argument("--only", nargs="*", help="names of adapters; all of them if none is given")
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """One adapter after the other, each on the untouched model."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    pipeline = open_pipeline(given.model, given.device)
    for recipe in (*RECIPES, *HYPERNETWORKS):
        if given.only and recipe.name not in given.only:
            continue
        before, after = make(recipe, pipeline, given.out, given.seed)
        found = entry(recipe, before, after)
        write_index(given.out / "README.json", recipe.name, found)
        print(recipe.name, found["measure"], found["without"], found["with"], flush=True)
        if given.strips:
            given.strips.mkdir(parents=True, exist_ok=True)
            write_strip(given.strips / f"{recipe.name}.png", before + after)


if __name__ == "__main__":
    main()
