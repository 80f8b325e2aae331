"""Every linear layer and convolution of the base models: diffusers path -> shape of its weight, at full width."""

from __future__ import annotations

from lib_adapters.patching.key_maps import diffusers_to_ldm

Layers = dict[str, tuple[int, ...]]

# channels per level, transformer depth per level (0: no attention), depth in the middle, text width, linear projections
UNETS = {
    "sd1": ((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 768, False),
    "sd2": ((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 1024, True),
    "sdxl": ((320, 640, 1280), (0, 2, 10), 10, 2048, True),
    "sdxl-refiner": ((384, 768, 1536, 1536), (0, 4, 4, 0), 4, 1280, True),
}
TEXT = {"clip-l": (768, 12), "open-clip-h": (1024, 23), "clip-g": (1280, 32), "tiny": (64, 12)}


def unet(family: str, shrink: int = 1) -> Layers:
    """The diffusers UNet; `shrink` divides every width, as in tiny models of the real structure."""
    channels, depths, middle, cross, linear = UNETS[family]
    channels, cross = tuple(c // shrink for c in channels), cross // shrink
    time = channels[0] * 4
    found: Layers = {"conv_in": (channels[0], 4, 3, 3), "time_embedding.linear_1": (time, channels[0])}
    previous = channels[0]
    for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
        for n in range(2):
            found |= resnet(f"down_blocks.{level}.resnets.{n}", previous, width, time)
            found |= transformer(f"down_blocks.{level}.attentions.{n}", width, depth, cross, linear)
            previous = width
        if level < len(channels) - 1:
            found[f"down_blocks.{level}.downsamplers.0.conv"] = (width, width, 3, 3)
    found |= transformer("mid_block.attentions.0", previous, middle, cross, linear)
    for n in range(2):
        found |= resnet(f"mid_block.resnets.{n}", previous, previous, time)
    return found | decoder(channels, depths, cross, linear) | {"conv_out": (4, channels[0], 3, 3)}


def decoder(channels, depths, cross, linear) -> Layers:
    found: Layers = {}
    skips = [channels[0]]
    for level, width in enumerate(channels):
        skips += [width, width] + ([width] if level < len(channels) - 1 else [])
    previous = channels[-1]
    for level, (width, depth) in enumerate(zip(channels[::-1], depths[::-1], strict=True)):
        for n in range(3):
            found |= resnet(f"up_blocks.{level}.resnets.{n}", previous + skips.pop(), width, channels[0] * 4)
            found |= transformer(f"up_blocks.{level}.attentions.{n}", width, depth, cross, linear)
            previous = width
        if level < len(channels) - 1:
            found[f"up_blocks.{level}.upsamplers.0.conv"] = (width, width, 3, 3)
    return found


def resnet(path: str, before: int, after: int, time: int) -> Layers:
    found: Layers = {
        f"{path}.conv1": (after, before, 3, 3),
        f"{path}.time_emb_proj": (after, time),
        f"{path}.conv2": (after, after, 3, 3),
    }
    return found if before == after else found | {f"{path}.conv_shortcut": (after, before, 1, 1)}


def transformer(path: str, width: int, depth: int, cross: int, linear: bool) -> Layers:
    if not depth:
        return {}
    kernel = () if linear else (1, 1)
    found: Layers = {f"{path}.{name}": (width, width, *kernel) for name in ("proj_in", "proj_out")}
    for block in (f"{path}.transformer_blocks.{n}" for n in range(depth)):
        for attention, source in (("attn1", width), ("attn2", cross)):
            found |= {f"{block}.{attention}.to_{n}": (width, source if n in "kv" else width) for n in "qkv"}
            found[f"{block}.{attention}.to_out.0"] = (width, width)
        found |= {f"{block}.ff.net.0.proj": (width * 8, width), f"{block}.ff.net.2": (width, width * 4)}
    return found


def ldm(layers: Layers) -> Layers:
    """The same layers under the names of the original code (kohya's for SDXL)."""
    prefixes = {".".join(path.split(".")[:4]) for path in layers}
    return {diffusers_to_ldm(path, prefixes.__contains__): shape for path, shape in layers.items()}


def text(kind: str) -> Layers:
    width, depth = TEXT[kind]
    found: Layers = {}
    for layer in (f"text_model.encoder.layers.{n}" for n in range(depth)):
        found |= {f"{layer}.self_attn.{n}_proj": (width, width) for n in ("q", "k", "v", "out")}
        found |= {f"{layer}.mlp.fc1": (width * 4, width), f"{layer}.mlp.fc2": (width, width * 4)}
    return found


def sd3(width: int = 1536) -> Layers:
    """Stability's own names."""
    found: Layers = {}
    for block in (f"joint_blocks.{n}.{side}_block" for n in range(24) for side in ("x", "context")):
        found |= {f"{block}.attn.qkv": (width * 3, width), f"{block}.attn.proj": (width, width)}
        found |= {f"{block}.mlp.fc1": (width * 4, width), f"{block}.mlp.fc2": (width, width * 4)}
    return found


def sd3_diffusers(width: int = 1536) -> Layers:
    names = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    blocks = [f"transformer_blocks.{n}" for n in range(24)]
    return {f"{block}.attn.{name}": (width, width) for block in blocks for name in names}
