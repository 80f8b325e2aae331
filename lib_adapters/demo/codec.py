"""The picture codec of the embedded model: 128 × 128 pixels to 16 × 16 × 4 latents and back.

The encoder is not trained but set: through Stable Diffusion's layers it computes a thumbnail, the mean colour of each
8 × 8 cell, and as fourth channel how the brightness falls across the cell. So colours arrive exactly, the latents are
smooth, and the UNet can learn from few pictures. The decoder starts as the plain enlargement of the thumbnail and is
trained to draw it sharp.

Norms and SiLUs stand in the way of copying a value v. They are passed by carrying v and -v: silu(v) - silu(-v) = v; and
by a constant pair so large that it alone decides what the (single) group of a norm divides by.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from lib_adapters.demo.images import SIDE

CELL = 8
SCALING = 1.85  # brings the latents of our pictures to unit variance
SLOPE_GAIN = 3.0  # brings the fourth channel to the spread of the others
LUMA = (0.299, 0.587, 0.114)
PLUS, MINUS = slice(0, 3), slice(3, 6)  # the channels that carry colour and its negative
CONSTANT = (6, 7)
SLOPE = (8, 9)
CARRIED = 10


def build_codec() -> AutoencoderKL:
    """Stable Diffusion's codec, block for block, at an eighth of its width and less."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 40, 40),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=SIDE,
        scaling_factor=SCALING,
    )
    with torch.no_grad():
        silence_branches(vae)
        set_encoder(vae, constant=30.0)
        set_decoder(vae, constant=3.0)
    return vae


def thumbnail(images: torch.Tensor) -> torch.Tensor:
    """What the encoder computes, (n, 3, h, w) to (n, 4, h/8, w/8), in one line and much faster."""
    colour = nn.functional.avg_pool2d(images, CELL)
    luma = (images * images.new_tensor(LUMA)[None, :, None, None]).sum(1, keepdim=True)
    quarters = nn.functional.avg_pool2d(luma, CELL // 2)
    slope = (quarters[:, :, ::2, ::2] - quarters[:, :, 1::2, 1::2]) / 2
    return torch.cat([colour, slope * SLOPE_GAIN], dim=1)


def silence_branches(vae: AutoencoderKL) -> None:
    """Makes each residual and attention block the identity to start with."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            module.weight.zero_()
            module.bias.zero_()


def carry(conv: nn.Conv2d, rows: int) -> None:
    """The first channels go through unchanged; the other outputs keep their random start."""
    conv.weight[:rows] = 0
    conv.get_parameter("bias")[:rows] = 0
    middle = conv.kernel_size[0] // 2
    for k in range(min(rows, conv.in_channels)):
        conv.weight[k, k, middle, middle] = 1


def colours_in(conv: nn.Conv2d, constant: float) -> None:
    """Three channels become three pairs, and the constant pair is added."""
    conv.weight[:CARRIED] = 0
    bias = conv.get_parameter("bias")
    bias[:CARRIED] = 0
    for k in range(3):
        conv.weight[k, k, 1, 1] = 1
        conv.weight[3 + k, k, 1, 1] = -1
    bias[CONSTANT[0]], bias[CONSTANT[1]] = constant, -constant


def set_encoder(vae: AutoencoderKL, constant: float) -> None:
    """Means over 2 × 2, three times; the slope is taken at the last."""
    encoder = vae.encoder
    for conv in (module for module in encoder.modules() if isinstance(module, nn.Conv2d)):
        if conv.kernel_size == (1, 1) or conv.stride == (2, 2) or conv is encoder.conv_in or conv is encoder.conv_out:
            conv.weight.zero_()
            conv.get_parameter("bias").zero_()
    colours_in(encoder.conv_in, constant)
    for block in encoder.down_blocks[1:3]:
        carry(block.resnets[0].conv_shortcut, CARRIED)
    for block in encoder.down_blocks[:3]:
        for k in range(8):
            block.downsamplers[0].conv.weight[k, k, :2, :2] = 0.25
    last = encoder.down_blocks[2].downsamplers[0].conv
    for k, share in enumerate(LUMA):
        for sign, channel in ((1, SLOPE[0]), (-1, SLOPE[1])):
            last.weight[channel, k, 0, 0], last.weight[channel, k, 1, 1] = sign * share / 2, -sign * share / 2
    encoder.conv_norm_out.weight.fill_(constant * (2 / encoder.conv_norm_out.num_channels) ** 0.5)
    for k, (plus, minus, gain) in enumerate(((0, 3, 1.0), (1, 4, 1.0), (2, 5, 1.0), (*SLOPE, SLOPE_GAIN))):
        encoder.conv_out.weight[k, plus, 1, 1], encoder.conv_out.weight[k, minus, 1, 1] = gain, -gain
    encoder.conv_out.bias[4:] = -14.0  # the logarithm of a variance: none
    carry(vae.quant_conv, 8)


def set_decoder(vae: AutoencoderKL, constant: float) -> None:
    """Each pixel shows its cell's mean colour; every channel that is not needed for it is free to learn."""
    decoder = vae.decoder
    carry(vae.post_quant_conv, 4)
    colours_in(decoder.conv_in, constant)
    for sign, channel in ((1, SLOPE[0]), (-1, SLOPE[1])):
        decoder.conv_in.weight[channel, 3, 1, 1] = sign
    for block in decoder.up_blocks[:3]:
        carry(block.upsamplers[0].conv, CARRIED)
    for block in decoder.up_blocks[2:]:
        carry(block.resnets[0].conv_shortcut, CARRIED)
    decoder.conv_norm_out.weight.fill_(constant * (2 / decoder.conv_norm_out.num_channels) ** 0.5)
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    for k in range(3):
        decoder.conv_out.weight[k, k, 1, 1], decoder.conv_out.weight[k, 3 + k, 1, 1] = 1, -1
