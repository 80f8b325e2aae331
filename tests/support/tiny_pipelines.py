"""Model folders as diffusers saves them: real pipelines of every family, small, with random weights."""

from __future__ import annotations

import json
import string
import warnings
from pathlib import Path

from tests.support.tiny_models import CONTEXT, clip, diffusers_unet, seeded

START, END = "<|startoftext|>", "<|endoftext|>"
VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
}


def model_folder(path: Path, family: str) -> Path:
    """`sd1`, `sd2` or `sdxl`; no safety checker, like most folders people have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _pipeline(path / "words", family).save_pretrained(str(path), safe_serialization=True)
    return path


def _pipeline(words: Path, family: str):
    import diffusers
    from transformers import CLIPTokenizer

    _write_words(words)
    tokenizer = CLIPTokenizer.from_pretrained(str(words))
    seeded()
    vae = diffusers.AutoencoderKL(**VAE)
    parts = {"vae": vae, "tokenizer": tokenizer, "scheduler": diffusers.DDIMScheduler(clip_sample=False)}
    if family == "sdxl":
        encoders = {"text_encoder": clip(), "text_encoder_2": clip(layers=32, projection=True)}
        parts |= {**encoders, "tokenizer_2": tokenizer, "unet": diffusers_unet(family=family, context=2 * CONTEXT)}
        return diffusers.StableDiffusionXLPipeline(**parts)
    parts |= {"text_encoder": clip(layers=23 if family == "sd2" else 12), "unet": diffusers_unet(family=family)}
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionPipeline(**parts, **nothing)


def _write_words(folder: Path) -> None:
    """CLIP's tokenizer over the bare alphabet: 99 tokens, as many as `clip()` has embeddings."""
    folder.mkdir(parents=True)
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    fill = [f"[{n}]" for n in range(97 - len(letters))]
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    texts = {
        "vocab.json": json.dumps({token: n for n, token in enumerate([*letters, *fill, START, END])}),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **names}),
        "special_tokens_map.json": json.dumps(names),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
