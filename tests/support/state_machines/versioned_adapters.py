"""Adapter files of every kind for the tiny models, and ΔW of each written down plainly, with none of the library."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_adapters import Adapter, open_adapter
from tests.support.sample_adapters import MAKERS, lora

BLOCK = "transformer_blocks.0"
IN_UNET = (
    "time_embed.0",
    "input_blocks.0.0",
    "input_blocks.1.0.out_layers.3",
    f"input_blocks.1.1.{BLOCK}.attn1.to_q",
    f"input_blocks.1.1.{BLOCK}.attn2.to_k",
    "middle_block.1.proj_in",
    f"middle_block.1.{BLOCK}.ff.net.2",
    f"output_blocks.1.1.{BLOCK}.attn1.to_out.0",
)
IN_TEXT = ("layers.0.mlp.fc1", "layers.1.self_attn.q_proj")
NORMS = (f"input_blocks.1.1.{BLOCK}.norm1", "middle_block.0.out_layers.0")
Leaves = Mapping[str, Tensor]
Layers = Mapping[str, Leaves]  # by the layer's name in a Pair


def dora(shape, generator):
    return {**lora(shape, generator), "dora_scale": torch.rand(shape[0], generator=generator) + 0.5}


def tlora(shape, generator, rank=3):
    if len(shape) > 2:
        return lora(shape, generator)
    p, q = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    weights, alpha = torch.rand(1, rank, generator=generator), torch.tensor(1.5)
    return {"p_layer.weight": p * 0.3, "lambda_layer": weights, "q_layer.weight": q * 0.3, "alpha": alpha}


def norm(shape, generator):
    return {f"{leaf}_norm": torch.randn(shape[:1], generator=generator) * 0.1 for leaf in "wb"}


KINDS = {**MAKERS, "DoRA": dora, "T-LoRA": tlora, "Norm": norm}
LETTERS = dict(zip("abcdefghi", [*KINDS, "LoRA"], strict=True))  # file -> kind; in the order in which deltas are summed


def made(model: nn.Module, kind: str, seed: int) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    wanted = NORMS if kind == "Norm" else (*IN_UNET, *IN_TEXT)
    modules = [(name, module) for name, module in model.named_modules() if name.endswith(wanted)]
    return {name: KINDS[kind](tuple(module.weight.shape), generator) for name, module in modules}


def save(path: Path, layers: Layers) -> Path:
    prefixes = {"unet": "lora_unet_", "te": "lora_te_"}
    tensors = {}
    for name, leaves in layers.items():
        part, _, rest = name.partition(".")
        stem = f"{prefixes[part]}{rest.replace('.', '_')}"
        tensors |= {f"{stem}.{leaf}": tensor.contiguous() for leaf, tensor in leaves.items()}
    save_file(tensors, path)
    return path


class Shelf:
    """Files in a folder. Each version of each is kept aside as well, for whoever must know what was once there."""

    def __init__(self, folder: Path, kept: Path, model: nn.Module):
        self.folder, self._kept, self._model = folder, kept, model
        self._times = itertools.count(1)
        self._made: dict[str, Layers] = {}
        self._opened: dict[str, Adapter] = {}
        for one in (folder, kept):
            one.mkdir(parents=True, exist_ok=True)

    def path(self, letter: str) -> Path:
        return self.folder / f"{letter}.safetensors"

    def put(self, letter: str, version: int) -> str:
        """What the file's content is called from now on."""
        content = f"{letter}{version}"
        self.aside(content)
        save(self.folder / "new.tmp", self.layers(content)).replace(self.path(letter))
        stamp = 1_700_000_000_000_000_000 + next(self._times) * 10**9  # of a clock that tells any two writes apart
        os.utime(self.path(letter), ns=(stamp, stamp))
        return content

    def spoil(self, letter: str, how: str) -> None:
        path = self.path(letter)
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-7] if how == "cut" else b"<!DOCTYPE html><title>Log in</title>")

    def layers(self, content: str) -> Layers:
        if content not in self._made:
            letter, version = content[0], int(content[1:])
            self._made[content] = made(self._model, LETTERS[letter], 10 * version + ord(letter))
        return self._made[content]

    def aside(self, content: str) -> Adapter:
        """This content's own file, opened once."""
        if content not in self._opened:
            self._opened[content] = open_adapter(save(self._kept / f"{content}.safetensors", self.layers(content)))
        return self._opened[content]


def delta(leaves: Leaves, base: Tensor, ranks: int | None) -> Tensor:
    """ΔW at strength 1."""
    for leaf, plain in PLAIN.items():
        if leaf in leaves:
            return plain(leaves, base, ranks)
    raise KeyError(sorted(leaves))


def bias_delta(leaves: Leaves, bias: Tensor) -> Tensor | None:
    """IA3 scales the layer's output, its bias with it."""
    return bias * leaves["weight"].flatten() if "weight" in leaves else leaves.get("diff_b", leaves.get("b_norm"))


def _lora(leaves: Leaves, base: Tensor, ranks: int | None) -> Tensor:
    up, down = leaves["lora_up.weight"].flatten(1), leaves["lora_down.weight"].flatten(1)
    scale = leaves["alpha"] / len(down)
    return ((up[:, :ranks] @ down[:ranks]) * scale).view(base.shape)


def _dora(leaves: Leaves, base: Tensor, ranks: int | None) -> Tensor:
    whole = (base + _lora(leaves, base, ranks)).flatten(1)
    length = whole.norm(dim=1) + torch.finfo(torch.float32).eps
    return (whole * (leaves["dora_scale"] / length)[:, None]).view(base.shape) - base


def _ia3(leaves: Leaves, base: Tensor, _: int | None) -> Tensor:
    return base * leaves["weight"].view(-1, *(1 for _ in base.shape[1:]))


def _oft(leaves: Leaves, base: Tensor, _: int | None) -> Tensor:
    blocks = leaves["oft_blocks"]
    skew, eye = blocks - blocks.mT, torch.eye(blocks.shape[-1])
    turn = torch.block_diag(*((eye + skew) @ torch.linalg.inv(eye - skew)).mT)
    return (turn @ base.flatten(1)).view(base.shape) - base


def _lokr(leaves: Leaves, base: Tensor, _: int | None) -> Tensor:
    w1, w2 = leaves["lokr_w1"], leaves["lokr_w2"]
    return torch.kron(w1.view(*w1.shape, *(1 for _ in w2.shape[2:])), w2).view(base.shape)


def _tlora(leaves: Leaves, base: Tensor, ranks: int | None) -> Tensor:
    p, weights, q = leaves["p_layer.weight"], leaves["lambda_layer"], leaves["q_layer.weight"]
    u, s, v = (part.float() for part in torch.linalg.svd(base.double()))
    scale, n = leaves["alpha"] / len(q), min(ranks or len(q), len(q))
    return scale * ((p[:, :n] * weights[:, :n]) @ q[:n] - (u[:, :n] * s[:n]) @ v[:n])


PLAIN: dict[str, Callable[[Leaves, Tensor, int | None], Tensor]] = {
    "dora_scale": _dora,
    "lora_up.weight": _lora,
    "diff": lambda leaves, base, _: leaves["diff"].view(base.shape),
    "weight": _ia3,
    "oft_blocks": _oft,
    "lokr_w1": _lokr,
    "p_layer.weight": _tlora,
    "w_norm": lambda leaves, base, _: leaves["w_norm"],
}
