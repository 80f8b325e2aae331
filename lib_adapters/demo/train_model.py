"""Trains the embedded model from nothing and writes it as a diffusers folder.

    python -m lib_adapters.demo.train_model --out lib_adapters/demo/model

The files in the repository were made by these functions on two CPU cores, in several sittings and while the widths were
still being chosen; a new run gives a model like it, not the same bits. On a GPU it takes minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from lib_adapters.demo.images import every_caption
from lib_adapters.demo.tokenizer import open_tokenizer, write_tokenizer
from lib_adapters.demo.train_codec import train_codec
from lib_adapters.demo.train_diffusion import build_scheduler, draw_examples, train_diffusion
from lib_adapters.demo.training_utils import best_device

# What a version of two years ago understands; newer versions fill in the same defaults by themselves.
UNET_KEYS = (
    "act_fn", "attention_head_dim", "block_out_channels", "center_input_sample", "cross_attention_dim",
    "down_block_types", "downsample_padding", "flip_sin_to_cos", "freq_shift", "in_channels", "layers_per_block",
    "mid_block_scale_factor", "norm_eps", "norm_num_groups", "out_channels", "sample_size", "up_block_types",
)  # fmt: skip
VAE_KEYS = (
    "act_fn", "block_out_channels", "down_block_types", "in_channels", "latent_channels", "layers_per_block",
    "norm_num_groups", "out_channels", "sample_size", "scaling_factor", "up_block_types",
)  # fmt: skip
TEXT_KEYS = (
    "architectures", "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size",
    "initializer_factor", "initializer_range", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "model_type", "num_attention_heads", "num_hidden_layers", "pad_token_id", "projection_dim", "vocab_size",
)  # fmt: skip
SCHEDULER_KEYS = (
    "beta_end", "beta_schedule", "beta_start", "clip_sample", "num_train_timesteps", "prediction_type",
    "set_alpha_to_one", "steps_offset", "timestep_spacing", "trained_betas",
)  # fmt: skip


def keep(file: Path, keys: tuple[str, ...], **fixed: str) -> None:
    """Reduces a configuration to the keys that all supported versions know."""
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key in keys or key == "_class_name"}
    file.write_text(json.dumps({**kept, **fixed}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_model(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, scheduler: DDIMScheduler
) -> None:
    """The five parts in half precision, beside the tokenizer that lies there already."""
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, open_tokenizer(folder / "tokenizer"), unet, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for name in ("vae", "unet", "text_encoder"):
        getattr(pipeline, name).to("cpu", torch.float16).save_pretrained(str(folder / name))
    scheduler.save_pretrained(str(folder / "scheduler"))
    pipeline.save_config(str(folder))
    old = "0.27.2"
    keep(folder / "vae" / "config.json", VAE_KEYS, _diffusers_version=old)
    keep(folder / "unet" / "config.json", UNET_KEYS, _diffusers_version=old)
    # The file is float16 to be small; without this word transformers 5 would compute in it beside a float32 UNet.
    keep(folder / "text_encoder" / "config.json", TEXT_KEYS, torch_dtype="float32")
    keep(folder / "scheduler" / "scheduler_config.json", SCHEDULER_KEYS, _diffusers_version=old)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=5000, help="drawn for the UNet")
    parser.add_argument("--codec-steps", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=6000, help="of the UNet")
    return parser.parse_args()


def main() -> None:
    """Codec, examples, UNet and text encoder, in this order."""
    given = arguments()
    write_tokenizer(given.out / "tokenizer", every_caption())
    tokenizer: CLIPTokenizer = open_tokenizer(given.out / "tokenizer")
    vae = train_codec(given.codec_steps, given.seed, given.device)
    examples = draw_examples(given.pictures, given.seed)
    unet, text_encoder = train_diffusion(examples, tokenizer, given.steps, given.seed, given.device)
    write_model(given.out, vae, unet, text_encoder, build_scheduler())


if __name__ == "__main__":
    main()
