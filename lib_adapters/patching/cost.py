"""What one merge and one addition beside a layer take on this machine: the real work on numbers of the real shapes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib_adapters.files.blocks import ROWS, weight_block
from lib_adapters.files.names import Stem
from lib_adapters.patching.beside import Beside, beside
from lib_adapters.patching.merge import exact, merged_weight
from lib_adapters.patching.patch import Patch, Target
from lib_adapters.patching.pointer import held
from lib_adapters.patching.targets import flat

TEXT = 77  # tokens of a text
TRIES = 3
Kind = tuple[object, ...]


@dataclass(frozen=True)
class Run:
    """The latent picture of one run of the UNet: rows of the batch, height and width."""

    rows: int
    height: int
    width: int


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    merge: float
    beside: float


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


def measured(target: Target, run: Run, family: str) -> Cost:
    module, moving = target.slot.module(), target.parted()[1]
    base = held(module, target.slot.name)
    assert module is not None
    assert moving is not None
    assert base is not None
    with exact():
        besides = beside(module, [patch.algorithm for patch in moving.patches], base)
        assert besides is not None
        into, patches = torch.empty_like(base), [_full(patch) for patch in target.patches]
        x = _input(module, base, run.rows, _place(target.slot.path, run, family))
        y = type(module).forward(module, x)
        merge = _timed(lambda: merged_weight(base, patches, into), base)
        return Cost(merge, _timed(lambda: _add(besides, module, x, y), base))


def _full(patch: Patch) -> Patch:
    """At full strength: how strong it is makes no difference to the work."""
    return patch if patch.dial is None else replace(patch, dial=None, strength=1.0)


def _input(module: nn.Module, base: Tensor, rows: int, place: tuple[int, int]) -> Tensor:
    height, width = place
    if isinstance(module, nn.Conv2d):
        return torch.ones(rows, module.in_channels, height, width, dtype=base.dtype, device=base.device)
    return torch.ones(rows, height * width, base.shape[1], dtype=base.dtype, device=base.device)


def _add(besides: Sequence[Beside], module: nn.Module, x: Tensor, y: Tensor) -> None:
    for part in besides:
        part.add(module, x, y, [1.0] * part.count)


def _timed(work: Callable[[], object], like: Tensor) -> float:
    """The quickest of some tries; the first one makes what later ones find made."""
    work()
    taken = []
    for _ in range(TRIES):
        _settle(like)
        started = time.perf_counter()
        work()
        _settle(like)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _settle(like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
