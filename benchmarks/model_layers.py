"""Every layer of the models at full width: diffusers path -> shape of its weight, [o, i, ...] or [d] for norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib_adapters.algorithms.base import Shape

Layer = tuple[str, Shape]


@dataclass(frozen=True)
class Plan:
    """The numbers of a family; depths are transformer blocks per level, 0 where a level has no attention."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    middle: int
    context: int
    linear: bool  # the projections around the attention: linear layers, or convolutions 1x1


PLANS = {
    "sd1": Plan((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 768, False),
    "sdxl": Plan((320, 640, 1280), (0, 2, 10), 10, 2048, True),
    "tiny": Plan((32, 64, 128, 128), (1, 1, 1, 0), 1, 48, False),  # Stable Diffusion 1 at a tenth, for trying things
}


FAMILIES = (*PLANS, "flux")
FLUX_WIDTH, FLUX_DOUBLE, FLUX_SINGLE = 3072, 19, 38


def unet(family: str) -> dict[str, Shape]:
    """Return the layers of the UNet, or of Flux's transformer."""
    if family == "flux":
        return dict(_flux(FLUX_WIDTH))
    plan = PLANS[family]
    return dict([*_down(plan), *_middle(plan), *_up(plan)])


def _down(plan: Plan) -> Iterator[Layer]:
    before = plan.widths[0]
    for level, (width, depth) in enumerate(zip(plan.widths, plan.depths, strict=True)):
        block = f"down_blocks.{level}"
        for n in range(2):
            yield from _resnet(f"{block}.resnets.{n}", before, width, plan)
            yield from _attention(f"{block}.attentions.{n}", width, depth, plan)
            before = width
        if level < len(plan.widths) - 1:
            yield f"{block}.downsamplers.0.conv", (width, width, 3, 3)


def _middle(plan: Plan) -> Iterator[Layer]:
    width = plan.widths[-1]
    yield from _attention("mid_block.attentions.0", width, plan.middle, plan)
    for n in range(2):
        yield from _resnet(f"mid_block.resnets.{n}", width, width, plan)


def _up(plan: Plan) -> Iterator[Layer]:
    """Each residual block also reads what the way down left behind, in reverse."""
    left = [plan.widths[0]]
    for level, width in enumerate(plan.widths):
        left += [width] * (3 if level < len(plan.widths) - 1 else 2)
    before = plan.widths[-1]
    for level, (width, depth) in enumerate(zip(plan.widths[::-1], plan.depths[::-1], strict=True)):
        block = f"up_blocks.{level}"
        for n in range(3):
            yield from _resnet(f"{block}.resnets.{n}", before + left.pop(), width, plan)
            yield from _attention(f"{block}.attentions.{n}", width, depth, plan)
            before = width
        if level < len(plan.widths) - 1:
            yield f"{block}.upsamplers.0.conv", (width, width, 3, 3)


def _resnet(path: str, before: int, after: int, plan: Plan) -> Iterator[Layer]:
    yield f"{path}.norm1", (before,)
    yield f"{path}.conv1", (after, before, 3, 3)
    yield f"{path}.time_emb_proj", (after, plan.widths[0] * 4)
    yield f"{path}.norm2", (after,)
    yield f"{path}.conv2", (after, after, 3, 3)
    if before != after:
        yield f"{path}.conv_shortcut", (after, before, 1, 1)


def _attention(path: str, width: int, depth: int, plan: Plan) -> Iterator[Layer]:
    square = (width, width) if plan.linear else (width, width, 1, 1)
    if depth:
        yield from ((f"{path}.norm", (width,)), (f"{path}.proj_in", square), (f"{path}.proj_out", square))
    for block in (f"{path}.transformer_blocks.{n}" for n in range(depth)):
        for attention, source in (("attn1", width), ("attn2", plan.context)):
            yield f"{block}.{attention}.to_q", (width, width)
            yield f"{block}.{attention}.to_k", (width, source)
            yield f"{block}.{attention}.to_v", (width, source)
            yield f"{block}.{attention}.to_out.0", (width, width)
        yield f"{block}.ff.net.0.proj", (width * 8, width)
        yield f"{block}.ff.net.2", (width, width * 4)
        yield from ((f"{block}.norm{n}", (width,)) for n in (1, 2, 3))


def _flux(d: int) -> Iterator[Layer]:
    for block in (f"transformer_blocks.{n}" for n in range(FLUX_DOUBLE)):
        for norm in ("norm1", "norm1_context"):
            yield f"{block}.{norm}.linear", (6 * d, d)
        for name in ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "add_q_proj", "to_out.0", "to_add_out"):
            yield f"{block}.attn.{name}", (d, d)
        for ff in ("ff", "ff_context"):
            yield from ((f"{block}.{ff}.net.0.proj", (4 * d, d)), (f"{block}.{ff}.net.2", (d, 4 * d)))
    for block in (f"single_transformer_blocks.{n}" for n in range(FLUX_SINGLE)):
        yield f"{block}.norm.linear", (3 * d, d)
        yield from ((f"{block}.proj_mlp", (4 * d, d)), (f"{block}.proj_out", (d, 5 * d)))
        yield from ((f"{block}.attn.{name}", (d, d)) for name in ("to_q", "to_k", "to_v"))
