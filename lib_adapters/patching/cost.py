"""Measured cost of a merge and of a bypass on this machine, on tensors of the real shapes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_adapters.files.blocks import BLOCK_COUNTS, weight_block
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.ops.torch_modes import float32_math
from lib_adapters.patching.bypass import MEMORY_PASS, BypassDelta, add_bypass, bypass_deltas, positions, total_cost
from lib_adapters.patching.layers import flat
from lib_adapters.patching.merge import merged_weight
from lib_adapters.patching.parameters import current_tensor
from lib_adapters.patching.patch import ParamPatches, Patch

TEXT_SHAPE = 77  # tokens of a text
Kind = tuple[object, ...]


@dataclass(frozen=True)
class LatentShape:
    """The latent picture of one run of the UNet: rows of the batch, height and width."""

    rows: int
    height: int
    width: int


def cost_key(target: ParamPatches, latent: LatentShape, family: str) -> Kind:
    """Equal where the work is."""
    parameter = target.ref.parameter()
    weight = () if parameter is None else (tuple(parameter.shape), parameter.dtype, parameter.device)
    algorithms = tuple((type(p.algorithm), p.algorithm.rank, p.scheduled is None) for p in target.patches)
    return weight, algorithms, _place(target.ref.path, latent, family), latent.rows


def _place(path: str, run: LatentShape, family: str) -> tuple[int, int]:
    """Height and width of what a layer looks at; (tokens, 1) for a text, (1, 1) for the time."""
    name = flat(path)
    if re.search(r"attn2_to_[kv]$|context_block", name):
        return TEXT_SHAPE, 1
    if re.search(r"emb_layers|time_emb|time_embed|label_emb|add_embedding", name):
        return 1, 1
    if family == "sd3":
        return run.height // 2, run.width // 2
    level = _level(weight_block(LayerKey("unet", name)), family)
    return max(1, run.height >> level), max(1, run.width >> level)


def _level(block: str, family: str) -> int:
    """How often the picture was halved there."""
    deepest = BLOCK_COUNTS.get(family, 12) // 3 - 1
    if block == "M00":
        return deepest
    match = re.fullmatch(r"(IN|OUT)(\d+)", block)
    if match is None:
        return 0
    number = int(match[2])
    return max(0, (number - 1) // 3) if match[1] == "IN" else max(0, deepest - number // 3)


def estimated_costs(target: ParamPatches, latent: LatentShape, family: str) -> tuple[int, int]:
    """The work of one merge and of one run beside, as a first idea of what they take."""
    module, base, besides = _parts(target)
    work = total_cost(besides)
    x = torch.empty(_shape(module, base, latent.rows, _place(target.ref.path, latent, family)), device="meta")
    still = max(0, len(target.patches) - sum(one.patch_count for one in besides))
    return work.per_call + still * MEMORY_PASS * base.numel(), work.per_position * positions(module, x)


def merge_seconds(target: ParamPatches, tries: int) -> float:
    """Seconds of one merge at full strength, the quickest of `tries`; the weight is only read."""
    _, base, _ = _parts(target)
    patches = [_full(patch) for patch in target.patches]
    with float32_math():
        into = torch.empty_like(base)
        return _timed(lambda: merged_weight(base, patches, into), base, tries)


def bypass_seconds(target: ParamPatches, tries: int, latent: LatentShape, family: str) -> float:
    """Seconds of one run beside the layer on an input of its real size, the quickest of `tries`."""
    module, base, besides = _parts(target)
    shape = _shape(module, base, latent.rows, _place(target.ref.path, latent, family))
    with float32_math():
        x = torch.ones(shape, dtype=base.dtype, device=base.device)
        y = torch.empty(_output_shape(module, base, shape), dtype=base.dtype, device=base.device)
        return _timed(
            lambda: add_bypass(besides, module, x, y, [1.0] * sum(one.patch_count for one in besides)), base, tries
        )


def _parts(target: ParamPatches) -> tuple[nn.Module, Tensor, Sequence[BypassDelta]]:
    module, moving = target.ref.module(), target.split_static_dynamic()[1]
    base = current_tensor(module, target.ref.name)
    assert module is not None
    assert moving is not None
    assert base is not None
    with float32_math():
        besides = bypass_deltas(module, [patch.algorithm for patch in moving.patches], base)
    assert besides is not None
    return module, base, besides


def _full(patch: Patch) -> Patch:
    """At full strength: how strong it is makes no difference to the work."""
    return patch if patch.scheduled is None else replace(patch, scheduled=None, strength=1.0)


def _shape(module: nn.Module, base: Tensor, rows: int, place: tuple[int, int]) -> tuple[int, ...]:
    height, width = place
    if isinstance(module, nn.Conv2d):
        return rows, module.in_channels, height, width
    return rows, height * width, base.shape[1]


def _output_shape(module: nn.Module, base: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the layer's own work."""
    if isinstance(module, nn.Conv2d):
        x, weight = torch.empty(shape, device="meta"), torch.empty(base.shape, device="meta")
        return functional.conv2d(x, weight, None, module.stride, module.padding, module.dilation).shape
    return *shape[:-1], len(base)


def _timed(work: Callable[[], object], like: Tensor, tries: int) -> float:
    """The quickest of some tries; the first one makes what later ones find made."""
    taken = []
    for _ in range(tries):
        _settle(like)
        started = time.perf_counter()
        work()
        _settle(like)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _settle(like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
