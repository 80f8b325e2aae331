"""Whole networks as LyCORIS makes them inside kohya's sd-scripts: every layer of a model under training at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

BLOCKS = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
LDM_BLOCKS = ["SpatialTransformer", "ResBlock", "Downsample", "Upsample"]
OUTSIDE = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
LDM_OUTSIDE = ["input_blocks.0.0", "out.2", "time_embed.0", "time_embed.2"]
STARTED = "1795000000.0"  # after the release that is the oracle
SHARES = {"oft_blocks": 0.05, "w_norm": 0.05, "b_norm": 0.05}
SHARES |= {f"hada_{leaf}": 0.4 for leaf in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}  # products of four or six
SHARES |= {f"lokr_{leaf}": 0.3 for leaf in ("w1_a", "w1_b", "w2_a", "w2_b", "t2")}
TIMES, TOKENS = (5, 7), (97, 5, 6, 98, 98, 98)


def network(
    unet: nn.Module | None,
    text_encoders: Sequence[nn.Module] = (),
    *,
    dim: int = 4,
    blocks: Sequence[str] = BLOCKS,
    outside: Sequence[str] = OUTSIDE,
    without: Sequence[str] = (),
    boost: float = 1.0,
    **options: object,
) -> nn.Module:
    """The network, at work in its models and with trained-looking values."""
    kohya = pytest.importorskip("lycoris.kohya", reason="oracle: lycoris-lora is not installed")
    logging.getLogger("LyCORIS").setLevel(logging.CRITICAL)
    targets = {
        "unet_target_module": list(blocks),
        "unet_target_name": list(outside),
        "text_encoder_target_module": ["CLIPEncoderLayer"],
        "text_encoder_target_name": [],
        "exclude_name": list(without),
    }
    encoders = list(text_encoders) if len(text_encoders) > 1 else next(iter(text_encoders), None)
    torch.manual_seed(0)
    with patch.dict(kohya.PRESET, {"all": targets}):
        made = kohya.create_network(
            1.0, dim, dim / 2, None, encoders, unet or nn.Module(), warn_on_unmatched=False, preset="all", **options
        )
    made.apply_to(encoders, unet, bool(text_encoders), True)
    _randomise(made.eval(), boost)
    return made


@torch.no_grad()
def _randomise(made: nn.Module, boost: float) -> None:
    for name, parameter in made.named_parameters():
        values = torch.randn_like(parameter)
        leaf = name.rpartition(".")[2]
        if leaf in ("dora_scale", "rescale"):
            parameter.mul_(1 + 0.1 * values)
        elif type(made.get_submodule(name.rpartition(".")[0])).__name__ == "FullModule":
            parameter.add_(values * 0.05)  # its parameter is the weight itself
        else:
            parameter.copy_(values * SHARES.get(leaf, 0.15) * boost)


def at_strength(made: nn.Module, strength: float) -> None:
    for module in made.loras:
        module.multiplier = strength


def saved(
    made: nn.Module, path: Path, dtype: torch.dtype | None = None, started: str = STARTED, **options: object
) -> Path:
    """As sd-scripts save it, arguments in the metadata and all."""
    arguments = json.dumps({name: str(value) for name, value in options.items()})
    module = {"ss_network_module": "lycoris.kohya", "ss_network_args": arguments, "ss_training_started_at": started}
    made.save_weights(str(path), dtype, module)
    return path


def written(tensors: Mapping[str, Tensor], path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@torch.no_grad()
def run_unet(unet: nn.Module) -> Tensor:
    """Its picture of a fixed noise; `ldm` and diffusers take the same arguments under different names."""
    generator = torch.Generator().manual_seed(3)
    x, times = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor(TIMES)
    config = getattr(unet, "config", None)
    width = unet.input_blocks[1][1].transformer_blocks[0].attn2.to_k.in_features if config is None else 0
    text = torch.randn(2, 5, width or config.cross_attention_dim, generator=generator)
    if config is None:
        return unet(x, times, text)
    labels = {"text_embeds": torch.randn(2, 16, generator=generator), "time_ids": torch.ones(2, 6)}
    return unet(x, times, text, added_cond_kwargs=labels if config.addition_embed_type else None).sample


@torch.no_grad()
def run_text(encoder: nn.Module) -> Tensor:
    """Hidden states, or the projected vector where the encoder ends in one."""
    ids = torch.tensor([TOKENS])
    if not hasattr(encoder, "config"):
        return encoder(ids)
    output = encoder(ids)
    return output.text_embeds if hasattr(encoder, "text_projection") else output.last_hidden_state


def assert_same(ours: Tensor, theirs: Tensor, plain: Tensor, close: float = 2e-5) -> None:
    """To `close` of the largest value; and the adapter must have mattered two hundred times more than that."""
    largest = float(theirs.abs().max())
    assert float((theirs - plain).abs().max()) > 200 * close * largest
    torch.testing.assert_close(ours, theirs, rtol=close, atol=close * largest)
