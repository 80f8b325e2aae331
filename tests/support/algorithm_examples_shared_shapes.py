"""Examples that meet the rotations on a matrix of (16, 12), and those that give a bias to a layer that has none."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_adapters.algorithms.base import TrainingInfo
from tests.support.algorithm_examples_rotation import by_rows, norm, rotation
from tests.support.reference_math import LINE, Example, additive, decomposed, entries, glora, kron, pair, times

WIDE, DEEP = (16, 12), (16, 12, 3, 3)


def wide() -> dict[str, Example]:
    torch.manual_seed(8)
    return plain() | with_bias() | decomposing()


def factors(rank: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(16, rank) * 0.4, torch.randn(rank, 12) * 0.4


def plain() -> dict[str, Example]:
    (u1, d1), (u2, d2), (a1, a2) = factors(), factors(), (torch.randn(12, 2) * 0.4, torch.randn(2, 12) * 0.4)
    w1, w2, two = torch.randn(2, 3), torch.randn(8, 4), times(1.0, pair(u1, d1), pair(u2, d2))
    loha = {"hada_w1_a": u1, "hada_w1_b": d1, "hada_w2_a": u2, "hada_w2_b": d2}
    abba = {"lora_up1.weight": u1, "lora_down1.weight": d1, "lora_up2.weight": u2, "lora_down2.weight": d2}
    new = {"a1.weight": a1, "a2.weight": a2, "b1.weight": u2, "b2.weight": d2}
    return {
        "loha-wide": Example(loha, WIDE, additive(WIDE, two)),
        "abba-wide": Example(abba, WIDE, additive(WIDE, two)),
        "lokr-wide": Example({"lokr_w1": w1, "lokr_w2": w2}, WIDE, additive(WIDE, kron(w1, w2))),
        "glora-wide": Example(new, WIDE, lambda base, s: s * glora(base, pair(a1, a2), pair(u2, d2), 1.0)),
    }


def with_bias() -> dict[str, Example]:
    """Those whose bias change is zero on a layer without a bias are here too: IA3, and rotations of the output."""
    (up, down), rows, diff = factors(), torch.randn(16), torch.randn(WIDE)
    narrow = torch.randn(6, 2), torch.randn(2, 8)
    blocks, two = torch.randn(4, 4, 4) * 0.3, torch.randn(3, 2, 2) * 0.3
    early = TrainingInfo(producer="kohya", constraint_is_bound=True, trained_at=1.7e9)

    def lora(up: Tensor, down: Tensor) -> dict[str, Tensor]:
        inner = {"lora_up.weight": up, "lora_down.weight": down, "lora_down.bias": torch.randn(len(down))}
        return {**inner, "lora_up.bias": torch.randn(len(up)), "diff_b": torch.randn(len(up))}

    def bound(blocks: Tensor) -> dict[str, Tensor]:
        return {"oft_blocks": blocks, "alpha": torch.tensor(0.5 * norm(blocks) / (blocks.shape[0] * blocks.shape[1]))}

    def halved(blocks: Tensor) -> list[Tensor]:
        return [rotation(block, 0.5) for block in blocks]

    return {
        "lora-bias": Example(lora(*narrow), LINE, additive(LINE, pair(*narrow))),
        "lora-bias-wide": Example(lora(up, down), WIDE, additive(WIDE, pair(up, down))),
        "full-wide": Example({"diff": diff, "diff_b": rows}, WIDE, lambda base, s: s * diff.double().view(base.shape)),
        "ia3-wide": Example(
            {"weight": rows, "on_input": torch.tensor(0)}, WIDE,
            lambda base, s: s * entries(tuple(base.shape), lambda *index: rows.double()[index[0]] * base[index]),
        ),
        "kohya-early": Example(bound(two), LINE, by_rows(halved(two)), early),
        "kohya-early-wide": Example(bound(blocks), WIDE, by_rows(halved(blocks)), early),
        "kohya-early-deep": Example(bound(blocks), DEEP, by_rows(halved(blocks)), early),
    }  # fmt: skip


def decomposing() -> dict[str, Example]:
    (up, down), rows = factors(), torch.rand(16, 1) + 0.5
    found = {name: plain()[name] for name in ("loha-wide", "abba-wide", "lokr-wide")}
    lora = {"lora_up.weight": up, "lora_down.weight": down}
    found["lora-wide"] = Example(lora, WIDE, additive(WIDE, pair(up, down)))
    return {
        f"{name}-dora": Example(
            leaves | {"dora_scale": rows}, shape, decomposed(slow, rows, 0, torch.linalg.vector_norm), facts
        )
        for name, (leaves, shape, slow, facts) in found.items()
    }
