"""The UNet and the text encoder of the embedded model: Stable Diffusion 1.5's blocks, trained from nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_adapters.demo.codec import SCALING, thumbnail
from lib_adapters.demo.images import Picture, draw, every_caption, random_scene
from lib_adapters.demo.tokenizer import TOKENS
from lib_adapters.demo.train_codec import to_tensor
from lib_adapters.demo.training_utils import cosine_rate, report

WIDTH = 64  # of the text encoder
LATENT_SIDE = 16
BATCH = 16
CAPTIONLESS = 0.1  # share of pictures shown without text, for classifier-free guidance
TEXT_SHARE = 0.12  # of the steps in which the text encoder learns too; afterwards its outputs are looked up


@dataclass(frozen=True)
class Examples:
    """Latents (n, 4, 16, 16) of drawn pictures, and each one's row in the list of captions."""

    latents: torch.Tensor
    rows: torch.Tensor


def build_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet, block for block, at a tenth of its width."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        block_out_channels=(32, 64, 80, 80),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Stable Diffusion 1.5's text encoder, layer for layer, at a twelfth of its width."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=12,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    # CLIP's own start, 0.02, is so small beside this width's layers that all captions would look alike for long.
    for table in (model.get_input_embeddings(), model.text_model.embeddings.position_embedding):
        torch.nn.init.normal_(table.weight, std=1.0)
    return model


def build_scheduler() -> DDIMScheduler:
    """Noise that really ends in noise, and velocity as the target, so that flat grounds get their true colour."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def token_table(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """The token numbers (n, 77) of each caption."""
    batch = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return torch.as_tensor(batch.input_ids)


def encode(images: list[Picture]) -> torch.Tensor:
    """Scaled latents (n, 4, h/8, w/8) of pictures (h, w, 3)."""
    return thumbnail(to_tensor(images)) * SCALING


def draw_examples(count: int, seed: int) -> Examples:
    """Random scenes, drawn and encoded; row 0 is the empty caption."""
    rng = random.Random(seed)
    row = {caption: k + 1 for k, caption in enumerate(every_caption())}
    scenes = [random_scene(rng) for _ in range(count)]
    latents = [encode([draw(scene) for scene in scenes[k : k + 64]]) for k in range(0, count, 64)]
    return Examples(torch.cat(latents), torch.tensor([row[scene.caption] for scene in scenes]))


def velocity_loss(
    unet: torch.nn.Module, scheduler: DDIMScheduler, latents: torch.Tensor, texts: torch.Tensor
) -> torch.Tensor:
    """Squared error of the predicted velocity at random noise levels (Salimans & Ho 2022)."""
    noise = torch.randn_like(latents)
    count = len(latents)
    spread = (torch.rand(count) + torch.arange(count)) / count  # one level from each equal share of the range
    times = (spread * 1000).long().clamp(max=999).to(latents.device)
    noisy = scheduler.add_noise(latents, noise, times)
    guess = unet(noisy, times, texts).sample
    return torch.nn.functional.mse_loss(guess, scheduler.get_velocity(latents, noise, times))


def pick(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """A random batch; some of it loses its caption."""
    chosen = torch.randint(len(examples.rows), (BATCH,))
    rows = examples.rows[chosen].clone()
    rows[torch.rand(BATCH) < CAPTIONLESS] = 0
    return examples.latents[chosen], rows


@torch.no_grad()
def text_table(text_encoder: CLIPTextModel, tokens: torch.Tensor) -> torch.Tensor:
    """The text encoder's answer (n, 77, width) for each caption."""
    return torch.cat([text_encoder(part)[0] for part in torch.split(tokens, 64)])


@torch.no_grad()
def follow(average: Iterable[torch.Tensor], current: Iterable[torch.Tensor], decay: float) -> None:
    """A moving average of weights."""
    for slow, fast in zip(average, current, strict=True):
        slow.lerp_(fast, 1 - decay)


def train_diffusion(
    examples: Examples, tokenizer: CLIPTokenizer, steps: int, seed: int, device: str
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Both learn together at first; then the UNet goes on alone over a table of texts. Gives the averaged UNet."""
    torch.manual_seed(seed)
    unet, text_encoder, scheduler = build_unet().to(device), build_text_encoder(tokenizer).to(device), build_scheduler()
    average = build_unet().to(device)
    average.load_state_dict(unet.state_dict())
    unet.to(memory_format=torch.channels_last)
    tokens = token_table(tokenizer, ["", *every_caption()]).to(device)
    groups: list[dict[str, Any]] = [
        {"params": list(unet.parameters())},
        {"params": list(text_encoder.parameters()), "share": 0.2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    table: torch.Tensor | None = None
    for step in range(steps):
        cosine_rate(optimizer, 1.5e-3, step, steps)
        if table is None and step >= steps * TEXT_SHARE:
            table = text_table(text_encoder.eval(), tokens)
        latents, rows = pick(examples)
        texts = table[rows] if table is not None else text_encoder(tokens[rows])[0]
        loss = velocity_loss(unet, scheduler, latents.to(device), texts)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        follow(average.parameters(), unet.parameters(), min(0.995, (step + 1) / (step + 10)))
        report("diffusion", step, steps, loss)
    return average.eval(), text_encoder.eval()
