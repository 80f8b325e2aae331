"""A call of a module with other weights, for as long as the call takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from lib_adapters.patching.bypass import is_plain
from lib_adapters.patching.memory import storage_bytes
from lib_adapters.patching.merge import merged_bias, merged_weight
from lib_adapters.patching.parameters import BaseOf, assign, current_tensor, replace_parameter, zero_bias
from lib_adapters.patching.patch import ParamPatches

T = TypeVar("T")
Swapped = list[Callable[[], None]]  # each puts back one parameter
MergedTensor = tuple[str, str, Tensor]  # where, below the module; which parameter; what it is for the run
Allocate = Callable[[Tensor], Tensor | None]  # memory like this tensor's, if there is any to allocate


FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def fits_dtype(base: Tensor | None, x: Tensor) -> bool:
    """Is a call with W' in this weight's place one with W + ΔW?"""
    if base is None or base.dtype not in FLOATS or base.device != x.device:
        return False
    return not torch.is_grad_enabled() and not _casts(x.device)  # both keep a parameter, whatever it holds later


def _casts(device: torch.device) -> bool:
    try:
        return torch.is_autocast_enabled(device.type)
    except TypeError:  # older releases of torch ask for the GPU and the CPU by different names
        return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()


class BufferPool:
    """Memory for the W' of the call that is under way, as large as the largest: on the CPU fresh memory is slow."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    @contextmanager
    def borrow(self) -> Iterator[Allocate]:
        """What is lent is nobody else's until the end, in calls within calls and in other threads too."""
        taken: list[Tensor] = []
        remembered = torch.is_grad_enabled()  # then W' must outlive the call

        def allocate(base: Tensor) -> Tensor | None:
            if remembered or base.device.type != "cpu" or not base.is_contiguous():
                return None
            try:
                buffer = self._free.pop()
            except IndexError:
                buffer = base.new_empty(0, dtype=torch.uint8)
            if buffer.numel() < (size := storage_bytes(base)):
                buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
            taken.append(buffer)
            return buffer[:size].view(base.dtype).view(base.shape)

        try:
            yield allocate
        finally:
            self._free += taken

    def clear(self) -> None:
        """Frees what is not lent."""
        self._free.clear()


def call_with_weights(
    module: nn.Module, weights: Sequence[MergedTensor], call: Callable[[], T]
) -> tuple[T, Tensor | None]:
    """What the call gives with W' in the place of the weights; afterwards every parameter holds what it held.

    And the bias for a layer that has none: another writer takes a parameter that was not there for damage. No context
    manager: of one that is interrupted as it opens or closes, Python runs the end whenever it likes.
    """
    moved: Swapped = []
    try:
        bias = _put_in(module, weights, moved)
        return call(), bias
    finally:
        try:
            _give_back(moved)
        except BaseException:  # once more from there: nobody else knows what these were
            _give_back(moved)
            raise


def _put_in(module: nn.Module, made: Sequence[MergedTensor], moved: Swapped) -> Tensor | None:
    """`moved` is told of each before it moves."""
    bias: Tensor | None = None
    for path, name, patched in made:
        owner = module.get_submodule(path)
        there = current_tensor(owner, name)
        if there is None and owner is module and is_plain(module):
            bias = patched
            continue
        parameter = owner._parameters.get(name)
        if parameter is not None and not parameter.is_meta and _is_kept(parameter):
            moved.append(partial(replace_parameter, owner, name, parameter))
            replace_parameter(owner, name, _parameter_like(parameter, patched))
            continue
        moved.append(partial(assign, owner, name, there))
        assign(owner, name, patched)
    return bias


def _is_kept(parameter: nn.Parameter) -> bool:
    """True if torch remembers the parameter beyond the call: for a backward pass, or its cast inside autocast."""
    return torch.is_grad_enabled() or (parameter.requires_grad and _casts(parameter.device))


def _parameter_like(parameter: nn.Parameter, patched: Tensor) -> Tensor:
    """Return W' as a tensor of its own: what torch remembers may be read when the parameter holds W again."""
    if parameter.requires_grad and torch.is_grad_enabled():
        return parameter - parameter.detach() + patched  # trained: it gets the gradient of W'
    return nn.Parameter(patched, requires_grad=False)


def _give_back(moved: Swapped) -> None:
    while moved:
        moved[-1]()
        moved.pop()


def merge_param(owner: nn.Module, target: ParamPatches, base_of: BaseOf | None, allocate: Allocate) -> Tensor:
    """W' (or b') for one run, shaped and stored as the owner's parameter; memory from `allocate` where there is any."""
    name = target.ref.name
    base = current_tensor(owner, name)
    if target.patches[0].is_bias:
        return merged_bias(zero_bias(owner, name) if base is None else base, target.patches)
    assert base is not None
    original = base_of(owner, name) if base_of else None
    if original is None:
        return merged_weight(base, target.patches, allocate(base))
    original = original.to(base.device).float()  # somebody else's delta is in `base`: ours is that of the weight itself
    return (merged_weight(original, target.patches) - original + base.float()).to(base.dtype)
