"""What one merge and one addition beside a layer take on this machine: the real work on numbers of the real shapes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_adapters.files.blocks import ROWS, weight_block
from lib_adapters.files.names import Stem
from lib_adapters.ops.modes import exact
from lib_adapters.patching.beside import PASS, Beside, add_all, beside, places, total
from lib_adapters.patching.merge import merged_weight
from lib_adapters.patching.patch import Patch, Target
from lib_adapters.patching.pointer import held
from lib_adapters.patching.targets import flat

TEXT = 77  # tokens of a text
Kind = tuple[object, ...]


@dataclass(frozen=True)
class Run:
    """The latent picture of one run of the UNet: rows of the batch, height and width."""

    rows: int
    height: int
    width: int


def kind_of(target: Target, run: Run, family: str) -> Kind:
    """Equal where the work is."""
    parameter = target.slot.parameter()
    weight = () if parameter is None else (tuple(parameter.shape), parameter.dtype, parameter.device)
    algorithms = tuple((type(p.algorithm), p.algorithm.rank, p.dial is None) for p in target.patches)
    return weight, algorithms, _place(target.slot.path, run, family), run.rows


def _place(path: str, run: Run, family: str) -> tuple[int, int]:
    """Height and width of what a layer looks at; (tokens, 1) for a text, (1, 1) for the time."""
    name = flat(path)
    if re.search(r"attn2_to_[kv]$|context_block", name):
        return TEXT, 1
    if re.search(r"emb_layers|time_emb|time_embed|label_emb|add_embedding", name):
        return 1, 1
    if family == "sd3":
        return run.height // 2, run.width // 2
    level = _level(weight_block(Stem("unet", name)), family)
    return max(1, run.height >> level), max(1, run.width >> level)


def _level(block: str, family: str) -> int:
    """How often the picture was halved there."""
    deepest = ROWS.get(family, 12) // 3 - 1
    if block == "M00":
        return deepest
    match = re.fullmatch(r"(IN|OUT)(\d+)", block)
    if match is None:
        return 0
    number = int(match[2])
    return max(0, (number - 1) // 3) if match[1] == "IN" else max(0, deepest - number // 3)


def expected(target: Target, run: Run, family: str) -> tuple[int, int]:
    """The work of one merge and of one run beside, as a first idea of what they take."""
    module, base, besides = _parts(target)
    work = total(besides)
    x = torch.empty(_shape(module, base, run.rows, _place(target.slot.path, run, family)), device="meta")
    still = max(0, len(target.patches) - sum(one.count for one in besides))
    return work.whole + still * PASS * base.numel(), work.place * places(module, x)


def merge_seconds(target: Target, tries: int) -> float:
    """Seconds of one merge at full strength, the quickest of `tries`; the weight is only read."""
    _, base, _ = _parts(target)
    patches = [_full(patch) for patch in target.patches]
    with exact():
        into = torch.empty_like(base)
        return _timed(lambda: merged_weight(base, patches, into), base, tries)


def beside_seconds(target: Target, tries: int, run: Run, family: str) -> float:
    """Seconds of one run beside the layer on an input of its real size, the quickest of `tries`."""
    module, base, besides = _parts(target)
    shape = _shape(module, base, run.rows, _place(target.slot.path, run, family))
    with exact():
        x = torch.ones(shape, dtype=base.dtype, device=base.device)
        y = torch.empty(_output_shape(module, base, shape), dtype=base.dtype, device=base.device)
        return _timed(lambda: add_all(besides, module, x, y, [1.0] * sum(one.count for one in besides)), base, tries)


def _parts(target: Target) -> tuple[nn.Module, Tensor, Sequence[Beside]]:
    module, moving = target.slot.module(), target.parted()[1]
    base = held(module, target.slot.name)
    assert module is not None
    assert moving is not None
    assert base is not None
    with exact():
        besides = beside(module, [patch.algorithm for patch in moving.patches], base)
    assert besides is not None
    return module, base, besides


def _full(patch: Patch) -> Patch:
    """At full strength: how strong it is makes no difference to the work."""
    return patch if patch.dial is None else replace(patch, dial=None, strength=1.0)


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
