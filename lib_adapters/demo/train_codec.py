"""Trains the decoder to draw sharp pictures from thumbnails; the encoder is set, not trained (see `codec`)."""

from __future__ import annotations

import random

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from lib_adapters.demo.codec import CELL, build_codec, thumbnail
from lib_adapters.demo.images import SIDE, Picture, draw, random_scene
from lib_adapters.demo.styles import STYLES
from lib_adapters.demo.training_utils import cosine_rate, report

POOL = 3000
CROP = 64
NOISE = 0.03  # in the latents, because the UNet's will not be exact


def random_image(rng: random.Random) -> Picture:
    """Plain or in an adapter's style, because the codec must carry both."""
    scene = random_scene(rng)
    return draw(scene) if rng.random() < 0.5 else rng.choice(STYLES)(scene)


def to_tensor(images: list[Picture]) -> torch.Tensor:
    """Pictures (height, width, 3) in 0..1 as one batch (n, 3, height, width) in -1..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() * 2 - 1


def picture_pool(count: int, seed: int) -> NDArray[np.uint8]:
    """Pictures (count, side, side, 3) to cut from."""
    rng = random.Random(seed)
    return np.stack([(np.clip(random_image(rng), 0, 1) * 255).astype(np.uint8) for _ in range(count)])


def cut(pool: NDArray[np.uint8], count: int, side: int, rng: random.Random) -> torch.Tensor:
    """Random windows on the grid of cells: they cost less and are mostly edges, which is what is to be learnt."""
    windows = []
    for _ in range(count):
        image = pool[rng.randrange(len(pool))]
        top, left = (rng.randint(0, (SIDE - side) // CELL) * CELL for _ in range(2))
        windows.append(image[top : top + side, left : left + side].astype(np.float32) / 255)
    return to_tensor(windows)


def train_codec(steps: int, seed: int, device: str) -> AutoencoderKL:
    """Windows for most of the way, whole pictures for the last tenth."""
    torch.manual_seed(seed)
    rng, pool = random.Random(seed), picture_pool(POOL, seed)
    vae = build_codec().to(device)
    learning = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=1e-4)
    for step in range(steps):
        cosine_rate(optimizer, 2e-3, step, steps)
        whole = step >= steps * 9 // 10
        images = cut(pool, 2 if whole else 8, SIDE if whole else CROP, rng).to(device)
        latents = thumbnail(images)
        error = vae.decode(latents + torch.randn_like(latents) * NOISE).sample - images
        loss = error.abs().mean() + error.square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        report("codec", step, steps, loss)
    return vae.eval()
