"""Trainers changed their rules on certain days; a file's own date tells which rule it was trained by.

Each rule is asked on the last second before its day and on the first one of it. Source of the days: the releases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone

import pytest
import torch
from torch import Tensor

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, TrainingInfo

UP, DOWN = torch.ones(6, 4), torch.ones(4, 8)
CORES = torch.ones(4, 4, 1, 1), torch.zeros(4, 4, 1, 1)
SQUARE = {f"{name}.weight": torch.full((4, 4), n + 1.0) for n, name in enumerate(("a1", "a2", "b1", "b2"))}
ALPHA = {"alpha": torch.tensor(2.0)}  # a scale of a half at rank 4
LOKR = {"lokr_w1": torch.ones(2, 4), "lokr_w2_a": torch.ones(3, 4), "lokr_w2_b": torch.ones(4, 2), **ALPHA}
TUCKER = {"hada_w1_a": UP.T, "hada_w1_b": DOWN, "hada_w2_a": UP.T, "hada_w2_b": DOWN}
OLD = {"a1.weight": DOWN, "a2.weight": DOWN.T, "b1.weight": DOWN, "b2.weight": UP, **ALPHA}
NEW = {"a1.weight": DOWN.T, "a2.weight": DOWN, "b1.weight": UP, "b2.weight": DOWN, **ALPHA}

Case = tuple[str, Mapping[str, Tensor], TrainingInfo, Callable[[Algorithm], object], object, object]
CASES: dict[str, Case] = {  # first day of the new rule, a file, its other facts, what is asked, before and since
    "loha: two cores": (
        "2023-10-13", TUCKER | {"hada_t1": CORES[0], "hada_t2": CORES[1]}, TrainingInfo(),
        lambda a: float(a.core2.mean()), 1.0, 0.0,
    ),
    "lokr: bypass forgets every scale": (
        "2024-05-25", LOKR, TrainingInfo(bypass_mode=True), lambda a: a.lazy_delta((6, 8, 3, 3)).scale, 0.5, 1.0,
    ),
    "lokr: bypass forgets none": (
        "2026-09-01", LOKR, TrainingInfo(bypass_mode=True), lambda a: a.lazy_delta((6, 8)).scale, 1.0, 0.5,
    ),
    "glora: the scale twice": ("2023-07-31", OLD, TrainingInfo(), lambda a: a.scale, 0.5, 0.25),
    "glora: other names": ("2024-05-25", SQUARE, TrainingInfo(), lambda a: float(a.a_up.mean()), 2.0, 1.0),
    "glora: bypass": ("2026-09-01", NEW, TrainingInfo(bypass_mode=True), lambda a: a.scale, 0.25, 0.5),
    "dora: the mean": (
        "2024-02-18", {"lora_up.weight": UP, "lora_down.weight": DOWN, "dora_scale": torch.ones(1, 8)}, TrainingInfo(),
        lambda a: a.mean, False, True,
    ),
    "dora: the norm": (
        "2024-03-16", {"lora_up.weight": UP, "lora_down.weight": DOWN, "dora_scale": torch.ones(1, 8)}, TrainingInfo(),
        lambda a: a.mean, True, False,
    ),
    "ia3: the bias stays": ("2024-06-01", {"weight": torch.ones(6)}, TrainingInfo(), lambda a: a.has_bias, True, False),
    "kohya's oft: the bias stays": (
        "2024-09-13", {"oft_blocks": torch.zeros(2, 4, 4), **ALPHA}, TrainingInfo(constraint_is_bound=True),
        lambda a: a.has_bias, True, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_rule_holds_from_its_day_on(name: str) -> None:
    day, leaves, facts, asked, before, since = CASES[name]
    first = datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
    algorithm = select_algorithm({leaf: tuple(tensor.shape) for leaf, tensor in leaves.items()})
    found = [
        asked(algorithm.from_tensors(leaves, TrainingInfo(**{**vars(facts), "trained_at": started})))
        for started in (first - 1, first)
    ]
    assert found == [before, since]
