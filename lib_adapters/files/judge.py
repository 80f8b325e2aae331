"""The tensors of one module -> its algorithm, or the reason why there is none. Hundreds of layers share a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, Shape
from lib_adapters.errors import UnknownAlgorithm
from lib_adapters.files import combine, peft_seeded
from lib_adapters.files.entries import Entry, torch_dtype
from lib_adapters.files.quantised import QUANTISED

WHOLE_NUMBERS = ("_indices", "_size")  # ends of the leaves that are positions and sizes
SCALARS = frozenset({"alpha", "scale", "scalar", "on_input", "lora2_nu", "bias_size", *peft_seeded.NUMBERS})

_TOGETHER = (
    ("lora_up.weight", "lora_down.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
    ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    ("q_layer.weight", "p_layer.weight"),
    ("lora_up1.weight", "lora_down1.weight", "lora_up2.weight", "lora_down2.weight"),
    ("S_p", "S_q", "P_basis", "Q_basis"),
    ("bias_indices", "bias_values", "bias_size"),
    ("boft_R", "boft_s"),
    ("delora_A", "delora_B", "delora_lambda", "delora_w_norm"),
    ("gralora_A", "gralora_B"),
    ("gralora_A_general.weight", "gralora_B_general.weight"),
    ("hira_A", "hira_B"),
    ("shira_weight", "shira_indices"),
    *peft_seeded.TOGETHER,
)


@dataclass(frozen=True)
class Verdict:
    """What the tensors of one module are; `shapes` by canonical leaf, parts of a split layer joined."""

    shapes: Mapping[str, Shape]
    algorithm: type[Algorithm] | None
    reason: str = ""  # why there is no algorithm


class Judge:
    """Remembers verdicts: a file has thousands of modules and a few dozen different ones."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[tuple[str, str, Shape, bool, bool], ...], Verdict] = {}

    def verdict(self, tensors: Mapping[str, Entry | None], scaled: Collection[str] = ()) -> Verdict:
        """`tensors`: tensor name -> its entry, None for a plain number. `scaled`: names of quantised tensors."""
        key = tuple(
            (leaf, e.dtype, e.shape, e.start == e.end, leaf in scaled) if e else (leaf, "", (), False, False)
            for leaf, e in tensors.items()
        )
        found = self._verdicts.get(key)
        if found is None:
            found = self._verdicts[key] = _judged(tensors, scaled)
        return found


def _judged(tensors: Mapping[str, Entry | None], scaled: Collection[str]) -> Verdict:
    shapes = combine.combined({leaf: entry.shape if entry else () for leaf, entry in tensors.items()})
    reasons = (_bad_tensor(leaf, entry, leaf in scaled) for leaf, entry in tensors.items() if entry)
    reason = next(filter(None, reasons), "") or missing_half(shapes) or peft_seeded.missing_config(shapes)
    if reason:
        return Verdict(shapes, None, reason)
    try:
        return Verdict(shapes, select_algorithm(shapes))
    except UnknownAlgorithm as error:
        return Verdict(shapes, None, str(error))


def _bad_tensor(leaf: str, entry: Entry, is_scaled: bool) -> str:
    if torch_dtype(entry.dtype) is None:
        return f"{leaf} is stored as {entry.dtype}, which torch cannot compute with"
    if entry.start == entry.end:
        return f"{leaf} is empty (rank 0)"
    if leaf in SCALARS - {"bias_size"} and any(axis != 1 for axis in entry.shape):
        return f"{leaf} should be one number, not {list(entry.shape)}"
    if is_scaled and entry.dtype not in QUANTISED:
        return f"{leaf} is stored as {entry.dtype} with a scale, but only I8 and F8 tensors can have one"
    if not is_scaled and entry.dtype.startswith(("I", "U")) and not _may_be_whole_numbers(leaf, entry.shape):
        return f"{leaf} is stored as {entry.dtype} without a scale, so its values are unknown"
    return ""


def _may_be_whole_numbers(leaf: str, shape: Shape) -> bool:
    """True for positions, sizes and single numbers; factors are never integers."""
    return math.prod(shape) == 1 or leaf.endswith(WHOLE_NUMBERS)


def missing_half(leaves: Mapping[str, Shape]) -> str:
    """Factors come in pairs; half a pair is a damaged module."""
    for needed in _TOGETHER:
        there = [leaf for leaf in needed if leaf in leaves]
        if there and len(there) < len(needed):
            lost = ", ".join(leaf for leaf in needed if leaf not in leaves)
            return f"{', '.join(there)} without {lost}: the module is damaged"
    return ""
