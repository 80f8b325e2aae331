"""Text encoders and SD3: the same module under Hugging Face's, OpenCLIP's and Stability's names.

OpenCLIP and SD3 fuse q, k and v into one matrix; a name then stands for a third of its rows.
"""

from __future__ import annotations

import re

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


def hugging_face(path: str) -> str | None:
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


def sd3_diffusers(path: str, last_block: int) -> tuple[str, ...]:
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
