"""Name maps between LDM, diffusers, OpenCLIP, Hugging Face and SD3, as functions of text.

LDM numbers its blocks through; diffusers nests them. `per_level` is the number of resnets in one level of the
encoder (2 in every Stable Diffusion); the decoder has one more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

RESNET = {  # diffusers -> LDM, inside one resnet
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
RESNET_BACK = {ldm: diffusers for diffusers, ldm in RESNET.items()}
OUTER = {  # diffusers -> LDM, outside the blocks
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
OUTER_BACK = {ldm: diffusers for diffusers, ldm in OUTER.items()}

_LDM_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)(?:\.(.*))?")
_PLACE = re.compile(r"((?:input|output)_blocks\.\d+|middle_block)\.(\d{1,4})(?:\.(.*))?")
_OWN = re.compile(  # the modules of an LDM block: a convolution, a resnet, attention, a sampler
    r"$|(?:in_layers|out_layers|emb_layers|skip_connection|transformer_blocks|norm|qkv|proj_in|proj_out|op|conv)(?:\.|$)"
)
_LDM_MID = re.compile(r"middle_block\.([012])(?:\.(.*))?")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.*))?")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.*))?")


def ldm_to_diffusers(path: str, per_level: int = 2) -> str | None:
    """`input_blocks.4.1.proj_in` -> `down_blocks.1.attentions.0.proj_in`; None where diffusers has no such place."""
    if path in OUTER_BACK:
        return OUTER_BACK[path]
    if match := _LDM_MID.fullmatch(path):
        index, rest = int(match[1]), match[2] or ""
        return _join("mid_block.attentions.0", rest) if index == 1 else _resnet(f"mid_block.resnets.{index // 2}", rest)
    if match := _LDM_BLOCK.fullmatch(path):
        place = _encoder_place if match[1] == "input_blocks" else _decoder_place
        return place(int(match[2]), int(match[3]), match[4] or "", per_level)
    return None


def _encoder_place(index: int, sub: int, rest: str, per_level: int) -> str:
    level, position = divmod(index - 1, per_level + 1)
    if position == per_level:
        return _join(f"down_blocks.{level}.downsamplers.0.conv", rest.removeprefix("op").lstrip("."))
    return _resnet_or_attention(f"down_blocks.{level}", position, sub, rest)


def _decoder_place(index: int, sub: int, rest: str, per_level: int) -> str:
    level, position = divmod(index, per_level + 1)
    if sub == 2 or rest == "conv":
        return _join(f"up_blocks.{level}.upsamplers.0", rest)
    return _resnet_or_attention(f"up_blocks.{level}", position, sub, rest)


def _resnet_or_attention(block: str, position: int, sub: int, rest: str) -> str:
    if sub == 0:
        return _resnet(f"{block}.resnets.{position}", rest)
    return _join(f"{block}.attentions.{position}", rest)


def _resnet(prefix: str, rest: str) -> str:
    return _join(prefix, RESNET_BACK.get(rest, rest))


def diffusers_to_ldm(path: str, has: Callable[[str], bool], per_level: int = 2) -> str | None:
    """The way back. `has` tells whether the live model has a module of this diffusers name: an upsampler's number
    in LDM depends on whether its block has attention."""
    if path in OUTER:
        return OUTER[path]
    if match := _MID.fullmatch(path):
        rest = match[3] or ""
        if match[1] == "attentions":
            return _join("middle_block.1", rest)
        return _join(f"middle_block.{2 * int(match[2])}", RESNET.get(rest, rest))
    if match := _BLOCK.fullmatch(path):
        return _ldm_block(match, has, per_level)
    return None


def _ldm_block(match: re.Match[str], has: Callable[[str], bool], per_level: int) -> str:
    side, kind, rest = match[1], match[3], match[5] or ""
    level, position = int(match[2]), int(match[4])
    step = per_level + 1
    if kind == "downsamplers":
        return _join(f"input_blocks.{step * (level + 1)}.0", rest.replace("conv", "op", 1))
    if kind == "upsamplers":
        sub = 2 if has(f"up_blocks.{level}.attentions.0") else 1
        return _join(f"output_blocks.{step * level + per_level}.{sub}", rest)
    block = (
        f"input_blocks.{1 + step * level + position}" if side == "down" else f"output_blocks.{step * level + position}"
    )
    return _join(f"{block}.0", RESNET.get(rest, rest)) if kind == "resnets" else _join(f"{block}.1", rest)


def inserted_levels(paths: Iterable[str]) -> dict[str, list[int]]:
    """Return by LDM block the positions of modules that other code inserted, as AnimateDiff does."""
    found: dict[str, dict[int, bool]] = {}
    for path in paths:
        if match := _PLACE.fullmatch(path):
            places = found.setdefault(match[1], {})
            places[int(match[2])] = places.get(int(match[2]), False) or _OWN.match(match[3] or "") is not None
    places_of = {block: [n for n, own in places.items() if not own] for block, places in found.items()}
    return {block: places for block, places in places_of.items() if places}


def remove_inserted(path: str, inserted: Mapping[str, Sequence[int]]) -> str:
    """Return the path as numbered without inserted modules; the path of an inserted module is unchanged."""
    match = _PLACE.fullmatch(path)
    if match is None or not (foreign := inserted.get(match[1])) or int(match[2]) in foreign:
        return path
    place = int(match[2]) - sum(n < int(match[2]) for n in foreign)
    return _join(f"{match[1]}.{place}", match[3] or "")


def resnets_per_level(paths: Collection[str]) -> int:
    """Resnets per encoder level, read off the live model; 2 where only a part of a model is there."""
    ldm = [int(m[1]) for path in paths if (m := re.fullmatch(r"input_blocks\.(\d+)\.0\.op", path))]
    if ldm:
        return min(ldm) - 1
    nested = [int(m[1]) for path in paths if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)", path))]
    return max(nested) + 1 if len(nested) > 1 and max(nested) else 2


def _join(prefix: str, rest: str) -> str:
    return f"{prefix}.{rest}" if rest else prefix


# Text encoders and SD3: the same module under Hugging Face's, OpenCLIP's and Stability's names.
#
# OpenCLIP and SD3 fuse q, k and v into one matrix; a name then stands for a third of its rows.


OPENCLIP_BLOCK = {  # inside one resblock: OpenCLIP -> Hugging Face
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
OPENCLIP_ROOT = {
    "ln_final": "text_model.final_layer_norm",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding",
    "text_projection": "text_projection",
}
FUSED_HF = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # row thirds of attn.in_proj_*

_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")


def openclip_to_hf(path: str) -> str | None:
    """An OpenCLIP path in CLIPTextModel's spelling; None where that has no such module."""
    if path in OPENCLIP_ROOT:
        return OPENCLIP_ROOT[path]
    match = _RESBLOCK.fullmatch(path)
    if match and match[2] in OPENCLIP_BLOCK:
        return f"text_model.encoder.layers.{match[1]}.{OPENCLIP_BLOCK[match[2]]}"
    return None


SD3_BLOCK = {  # inside one joint block: Stability -> diffusers
    "x_block.attn.proj": "attn.to_out.0",
    "context_block.attn.proj": "attn.to_add_out",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
}
SD3_FUSED = {  # Stability -> the three layers diffusers has instead, in row order
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
SD3_ROOT = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}

_JOINT = re.compile(r"joint_blocks\.(\d+)\.(.+)")


def sd3_to_diffusers(path: str, last_block: int) -> tuple[str, ...]:
    """The diffusers names of an SD3 module: one, three for a fused one, none where the layouts differ.

    The last context block and the final layer hold scale before shift in diffusers, shift before scale in
    Stability's own code; a delta for one is not a delta for the other, so they share no name.
    """
    if path in SD3_ROOT:
        return (SD3_ROOT[path],)
    match = _JOINT.fullmatch(path)
    if not match:
        return ()
    number, inner = int(match[1]), match[2]
    if number == last_block and inner == "context_block.adaLN_modulation.1":
        return ()
    inners = SD3_FUSED.get(inner) or ((SD3_BLOCK[inner],) if inner in SD3_BLOCK else ())
    return tuple(f"transformer_blocks.{number}.{name}" for name in inners)
