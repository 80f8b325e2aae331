"""Trains the image side of a tiny CLIP beside the embedded model's own text encoder, on the same drawn pictures.

    python -m lib_adapters.demo.train_clip --model lib_adapters/demo/model --out lib_adapters/demo/aesthetic_embeddings

Written is `clip` in the model's folder: image side and both projections. The text side is the model's text encoder,
which is not touched: what leads it must be learnt for it as it is. Then the embeddings of two sets of pictures.
Radford et al. 2021; two minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from lib_adapters.conditioning.aesthetic_file import save_aesthetic
from lib_adapters.demo.images import Picture, draw, every_caption, random_scene
from lib_adapters.demo.reference_images import REFERENCES, Reference, distance, images_of
from lib_adapters.demo.tokenizer import open_tokenizer
from lib_adapters.demo.train_adapters import GUIDANCE, SHOWN_SEEDS, SHOWN_STEPS
from lib_adapters.demo.train_diffusion import token_table
from lib_adapters.demo.training_utils import cosine_rate, report
from lib_adapters.hosts.diffusers.clip_vision import load_image_encoder
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings

SIDE = 32  # pixels of a picture that the image side sees
WIDTH = 64  # of the image side and of the common space
BATCH = 128
VISION = {
    "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": 8, "projection_dim": WIDTH, "hidden_act": "quick_gelu",
}  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """Pictures (n, 3, side, side) in -1..1, and each one's row in the list of captions."""

    pixels: Tensor
    rows: Tensor


class Clip(nn.Module):
    """What is learnt; the text's states come from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))  # the paper's ln(1 / 0.07)

    def loss(self, pixels: Tensor, states: Tensor) -> Tensor:
        """Each picture is to find its caption, and each caption its picture."""
        images = nn.functional.normalize(self.vision(pixel_values=pixels).image_embeds, dim=-1)
        texts = nn.functional.normalize(self.text_projection(states), dim=-1)
        logits = self.logit_scale.exp().clamp(max=100) * images @ texts.T
        same = (states[:, None] - states[None]).abs().sum(dim=-1) < 1e-6  # a caption twice in a batch
        goal = same.float() / same.sum(dim=1, keepdim=True)
        return (nn.functional.cross_entropy(logits, goal) + nn.functional.cross_entropy(logits.T, goal)) / 2


def seen(pixels: Picture) -> Tensor:
    """[3, side, side] in -1..1, as the folder's preprocessor_config.json says."""
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    return torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)


def draw_pool(count: int, seed: int) -> Examples:
    rng = random.Random(seed)
    row = {caption: k for k, caption in enumerate(every_caption())}
    scenes = [random_scene(rng) for _ in range(count)]
    return Examples(torch.stack([seen(draw(s)) for s in scenes]), torch.tensor([row[s.caption] for s in scenes]))


@torch.no_grad()
def end_states(folder: Path) -> Tensor:
    """[n, w]: what the model's own text encoder says of each caption at its end."""
    encoder = CLIPTextModel.from_pretrained(str(folder / "text_encoder")).float().eval()
    tokenizer = open_tokenizer(folder / "tokenizer")
    tokens = token_table(tokenizer, every_caption())
    at = (tokens == tokenizer.eos_token_id).int().argmax(dim=1)
    parts = [
        encoder(part).last_hidden_state[torch.arange(len(part)), where]
        for part, where in zip(torch.split(tokens, 64), torch.split(at, 64), strict=True)
    ]
    return torch.cat(parts)


def train_clip(examples: Examples, states: Tensor, steps: int, seed: int) -> Clip:
    torch.manual_seed(seed)
    clip = Clip().train()
    optimizer = torch.optim.AdamW(clip.parameters(), weight_decay=0.05, betas=(0.9, 0.98))
    for step in range(steps):
        cosine_rate(optimizer, 2e-3, step, steps)
        chosen = torch.randint(len(examples.rows), (BATCH,))
        loss = clip.loss(examples.pixels[chosen], states[examples.rows[chosen]])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        report("clip", step, steps, loss)
    return clip.eval()


def write_clip(folder: Path, clip: Clip) -> None:
    """Under transformers' names, in halves; the text side's layers are the model's own and not written again."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key.removeprefix("vision."): value for key, value in clip.state_dict().items()}
    kept = {key: value.half().contiguous() for key, value in state.items() if not key.endswith("position_ids")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "clip", "projection_dim": WIDTH, "vision_config": VISION}
    preprocessor = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    _write(folder / "config.json", config)
    _write(folder / "preprocessor_config.json", {**preprocessor, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})


def write_embeddings(folder: Path, model: Path) -> None:
    """The mean feature of each set of pictures, and what it does to a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = load_image_encoder(model / "clip", torch.device("cpu"))
    for known in REFERENCES:
        vectors = vision.image_features(images_of(known)).mean(dim=0, keepdim=True)
        save_aesthetic(vectors.half(), folder / f"{known.name}.pt")
    with Generator.open(model, torch.device("cpu"), FolderResolver([folder])) as generator:
        _write(folder / "README.json", {known.name: _entry(known, generator) for known in REFERENCES})


def _entry(known: Reference, generator: Generator) -> dict[str, str | float]:
    before, after = (measured(generator, known, tag) for tag in ("", known.tag))
    return {
        "kind": "aesthetic gradient", "tag": "aesthetic", "strength": known.strength, "effect": known.effect,
        "prompt": known.shown, "measure": distance.__name__, "without": round(before, 3), "with": round(after, 3),
    }  # fmt: skip


def measured(generator: Generator, known: Reference, tag: str) -> float:
    """The mean distance from the set, over the seeds that are shown."""
    drawn = []
    for seed in SHOWN_SEEDS:
        image = generator.generate(f"{known.shown} {tag}", Settings(steps=SHOWN_STEPS, seed=seed, guidance=GUIDANCE))
        drawn.append(distance(np.asarray(image.image, np.float32) / 255, known))
    return float(np.mean(drawn))


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the embedded model's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the embeddings")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    examples, states = draw_pool(given.pictures, given.seed), end_states(given.model)
    write_clip(given.model / "clip", train_clip(examples, states, given.steps, given.seed))
    write_embeddings(given.out, given.model)


if __name__ == "__main__":
    main()
