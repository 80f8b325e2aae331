"""Input widths and ranks of layers, read from the shapes of their factors."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lib_adapters.algorithms.base import Shape

# Further PEFT tuners: tensor name -> the axes whose product is the layer's input width, or the rank.
_INPUT_AXES = {
    "boft_R": (1, 2), "hra_u": (0,), "deft_R": (1,), "c3a_kernel": (1, 2), "delora_A": (1,), "gralora_A": (0, 1),
    "hira_A": (1,),
}  # fmt: skip
_RANK_AXES = {"hra_u": 1, "deft_P": 1, "delora_A": 0, "gralora_A": 2, "hira_A": 0, "miss_block": 0}


def input_width(shapes: Mapping[str, Shape]) -> int | None:
    """The layer's input channels; None where the algorithm does not show them (OFT, IA3, norms)."""
    for tensor_name in ("lora_down.weight", "lora_down1.weight", "q_layer.weight", "Q_basis", "diff"):
        if len(shapes.get(tensor_name, ())) > 1:
            return shapes[tensor_name][1]
    if "hada_w1_b" in shapes:
        return shapes["hada_w1_b"][1] if len(shapes["hada_w1_b"]) > 1 else None
    return _kronecker_width(shapes) or _glora_width(shapes) or _bank_width(shapes) or _peft_width(shapes)


def rank_of(shapes: Mapping[str, Shape]) -> int | None:
    """The rank that the trainer was asked for; None where there is none (full factors, norms, IA3, OFT)."""
    if "lora_down1.weight" in shapes and "lora_down2.weight" in shapes:
        return shapes["lora_down1.weight"][0] + shapes["lora_down2.weight"][0]
    for tensor_name in (
        "lora_down.weight", "hada_w1_b", "lokr_w1_b", "lokr_w2_b", "q_layer.weight", "S_p", "vera_lambda_d",
        "randlora_lambda", "vblora_logits_A", "vblora_logits_A_topk_indices",
    ):  # fmt: skip
        if shapes.get(tensor_name):
            return shapes[tensor_name][0]
    if "a1.weight" in shapes and len(shapes["a1.weight"]) > 1:
        return min(shapes["a1.weight"][:2])
    return next(
        (
            shapes[tensor_name][axis]
            for tensor_name, axis in _RANK_AXES.items()
            if len(shapes.get(tensor_name, ())) > axis
        ),
        None,
    )


def _peft_width(shapes: Mapping[str, Shape]) -> int | None:
    for tensor_name, axes in _INPUT_AXES.items():
        if len(shapes.get(tensor_name, ())) > axes[-1]:
            return math.prod(shapes[tensor_name][axis] for axis in axes)
    return None


def _kronecker_width(shapes: Mapping[str, Shape]) -> int | None:
    """in = c·d for w1 [a, c] and w2 [b, d]."""
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        shape = shapes.get(name) or shapes.get(f"{name}_b")
        if shape is None or len(shape) < 2:
            return None
        factors.append(shape[1])
    return factors[0] * factors[1]


def _glora_width(shapes: Mapping[str, Shape]) -> int | None:
    """a1 is (r, in) or (in, r); the rank is the smaller."""
    return max(shapes["a1.weight"][:2]) if len(shapes.get("a1.weight", ())) > 1 else None


def _bank_width(shapes: Mapping[str, Shape]) -> int | None:
    """Return VB-LoRA's width: the number of pieces times the length of the bank's vectors."""
    pieces = shapes.get("vblora_logits_A") or shapes.get("vblora_logits_A_topk_indices", ())
    bank = shapes.get("vblora_vector_bank", ())
    return pieces[1] * bank[1] if len(pieces) > 1 and len(bank) > 1 else None
