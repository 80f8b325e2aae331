"""Files of cloneofsimo/lora (2022), whose tensors have positions in diffusers' order of layers instead of names.

The order is that of `named_modules()` of diffusers 0.9-0.14 and of transformers' CLIP, for the layers inside the
classes that the trainer names. It is computed here, because no model of that time is at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lib_adapters.errors import CorruptFile
from lib_adapters.files.tensor_file import TensorFile
from lib_adapters.files.torch_pickle.tensors import PickledTensor

ATTENTION, GEGLU, RESNET, CLIP = "CrossAttention", "GEGLU", "ResnetBlock2D", "CLIPAttention"
_DEFAULT_CLASSES = (ATTENTION, GEGLU)
_POSITIONAL_KEY = re.compile(r"(unet|text_encoder):(\d{1,4}):(up|down|alpha)")
_TEXT_ENCODER_DEPTHS = {48: 12, 92: 23, 96: 24, 128: 32}  # pairs -> layers of the encoder


def name_positional_keys(tensor_file: TensorFile) -> TensorFile:
    """Positional keys replaced by the names of the layers; the same source where there are none.

    CorruptFile where no Stable Diffusion 1 model has so many layers.
    """
    if not any(_POSITIONAL_KEY.fullmatch(key) for key in tensor_file.entries):
        return tensor_file
    names = _key_names(list(tensor_file.entries), tensor_file.metadata)
    entries = {names.get(key, key): entry for key, entry in tensor_file.entries.items()}
    note = "its layers are named by position only; they were found by the order of diffusers' Stable Diffusion 1"
    return replace(tensor_file, entries=entries, notes=(*tensor_file.notes, note))


def _key_names(keys: Sequence[str], metadata: dict[str, str]) -> dict[str, str]:
    """key -> the key as diffusers would have written it; only for positional keys that have a place."""
    counts: dict[str, int] = {}
    for key in keys:
        if (found := _POSITIONAL_KEY.fullmatch(key)) is not None and found.group(3) == "up":
            counts[found.group(1)] = counts.get(found.group(1), 0) + 1
    layers = {part: _layers(part, count, _classes(metadata.get(part, ""))) for part, count in counts.items()}
    names: dict[str, str] = {}
    for key in keys:
        found = _POSITIONAL_KEY.fullmatch(key)
        place = int(found.group(2)) if found else -1
        if found and found.group(1) in layers and place < len(layers[found.group(1)]):
            names[key] = f"{found.group(1)}.{layers[found.group(1)][place]}.{_leaf(found.group(3))}"
    return names


def name_positional_list(tensors: Sequence[PickledTensor], length: int) -> dict[str, PickledTensor]:
    """Name the list [up0, down0, up1, down1, ...] of the oldest `.pt` files. Raise CorruptFile for another list."""
    if not tensors or len(tensors) != length or length % 2:
        raise CorruptFile("is a list that holds no pairs of factors; no known trainer writes it")
    part = "text_encoder" if length // 2 in _TEXT_ENCODER_DEPTHS else "unet"
    layers = _layers(part, length // 2, ())
    halves = ("up", "down")
    return {f"{part}.{layers[n // 2]}.{_leaf(halves[n % 2])}": tensor for n, tensor in enumerate(tensors)}


def _leaf(half: str) -> str:
    return "alpha" if half == "alpha" else f"lora_{half}.weight"


def _classes(text: str) -> tuple[str, ...]:
    """The metadata's JSON list; "Attention" is the later name of the same class."""
    try:
        named = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return ()
    return tuple(ATTENTION if name == "Attention" else str(name) for name in named) if isinstance(named, list) else ()


def _layers(part: str, count: int, classes: tuple[str, ...]) -> list[str]:
    """The layers in order; the classes are guessed from the count where the file does not name them."""
    if part == "text_encoder":
        return list(_text_layers(_TEXT_ENCODER_DEPTHS.get(count, 12)))
    choices = (classes,) if classes else (_DEFAULT_CLASSES, (ATTENTION,), (ATTENTION, GEGLU, RESNET))
    for chosen in choices:
        layers = list(_unet_layers(frozenset(chosen)))
        if len(layers) == count:
            return layers
    raise CorruptFile(f"names its {count} layers only by position, and no Stable Diffusion 1 model has that many")


def _text_layers(depth: int) -> Iterator[str]:
    for layer in range(depth):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):  # the order in CLIPAttention
            yield f"text_model.encoder.layers.{layer}.self_attn.{name}"


def _unet_layers(classes: frozenset[str]) -> Iterator[str]:
    """SD1: three levels with attention; `mid_block` is registered last, and attentions before resnets."""
    for block in range(4):
        yield from _block(f"down_blocks.{block}", 2 if block < 3 else 0, [block in (1, 2), False], classes)
    for block in range(4):
        yield from _block(f"up_blocks.{block}", 3 if block > 0 else 0, [True] * 3, classes)
    yield from _block("mid_block", 1, [False, False], classes)


def _block(path: str, attentions: int, shortcuts: Sequence[bool], classes: frozenset[str]) -> Iterator[str]:
    for index in range(attentions):
        yield from _transformer(f"{path}.attentions.{index}.transformer_blocks.0", classes)
    if RESNET in classes:
        for index, shortcut in enumerate(shortcuts):
            names = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")
            yield from (f"{path}.resnets.{index}.{name}" for name in names[: 4 if shortcut else 3])


def _transformer(path: str, classes: frozenset[str]) -> Iterator[str]:
    for name in ("attn1", "ff", "attn2"):
        if name == "ff" and GEGLU in classes:
            yield f"{path}.ff.net.0.proj"
        elif name != "ff" and ATTENTION in classes:
            yield from (f"{path}.{name}.{tensor_name}" for tensor_name in ("to_q", "to_k", "to_v", "to_out.0"))
