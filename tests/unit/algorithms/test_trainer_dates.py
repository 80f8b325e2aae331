"""Where a trainer's releases computed in different ways, the second in which training started tells which it was."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.algorithms.base import TrainingInfo
from tests.unit.algorithms.test_algorithm_edge_cases import CORE, GLORA, LORA, TUCKER, read

LINE, CONV, ANY = torch.randn(6, 8), torch.zeros(6, 8, 3, 3), 1e12
SQUARE = {name: torch.randn(4, 4) for name in GLORA}
OLD = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}


def cores(facts):
    """Of LoHa, of which hada_t2 was not looked at: as many as are used."""
    one = read(TUCKER | {"hada_t1": CORE, "hada_t2": CORE}).delta(CONV)
    found = read(TUCKER | {"hada_t1": CORE, "hada_t2": -CORE}, facts).delta(CONV)
    return 1 if torch.equal(found, one) else 2


def length(facts):
    """What DoRA called the norm of a column."""
    ones = {"lora_up.weight": torch.zeros(6, 4), "dora_scale": torch.ones(1, 8)}
    found = read(LORA | ones, facts).merged(LINE, 1.0)
    known = {"mean": LINE.mean(dim=0), "norm": LINE.norm(dim=0)}
    return [name for name, by in known.items() if torch.allclose(found, LINE / by, rtol=1e-4)]


def power(facts, leaves=GLORA):
    """How often GLoRA multiplied by its scale."""
    half, whole = read(leaves | {"alpha": torch.tensor(2.0)}, facts), read(leaves)
    return {0.5: 1, 0.25: 2}[round(float(half.delta(LINE).norm() / whole.delta(LINE).norm()), 4)]


def order(facts):
    """Which way round the names of GLoRA's square factors are."""
    named = {name: SQUARE[OLD[name]] for name in SQUARE}
    base = torch.eye(4)
    old = torch.equal(read(SQUARE, facts).delta(base), read(named).delta(base))
    return "old" if old else "new"


def scaled(facts):
    """Whether IA3 scaled the bias."""
    return read({"weight": torch.ones(6)}, facts).has_bias


def turned(facts):
    """Whether OFT turned the bias."""
    return read({"oft_blocks": torch.zeros(3, 2, 2)}, facts).has_bias


@pytest.mark.parametrize(
    ("found", "facts", "days"),
    [
        (cores, {}, {0.0: 2, 1.0: 1, 1697155199.0: 1, 1697155200.0: 2, ANY: 2}),
        (length, {}, {0.0: ["norm"], 1708214399.0: ["norm"], 1708214400.0: ["mean"], 1710547199.0: ["mean"],
                      1710547200.0: ["norm"], ANY: ["norm"]}),
        (order, {}, {0.0: "new", 1.0: "old", 1716595199.0: "old", 1716595200.0: "new", ANY: "new"}),
        (power, {}, {0.0: 1, 1.7e9: 1, ANY: 1}),
        (power, {"overrides": {"scale": 0.5}, "bypass_mode": True}, {0.0: 1, 1.7e9: 1, ANY: 1}),
        (power, {"bypass_mode": True}, {0.0: 2, 1788220799.0: 2, 1788220800.0: 1, ANY: 1}),
        (scaled, {}, {0.0: True, 1717199999.0: True, 1717200000.0: False, ANY: False}),
        (scaled, {"bypass_mode": True}, {0.0: True, 1717200000.0: True, ANY: True}),
        (turned, {"constraint_is_bound": True}, {0.0: False, 1.0: True, 1726185599.0: True, 1726185600.0: False}),
    ],
)  # fmt: skip
def test_the_day_tells(found, facts, days):
    assert {day: found(TrainingInfo(trained_at=day, **facts)) for day in days} == days


@pytest.mark.parametrize("bypass", [False, True])  # which is of later releases
def test_the_old_glora_was_scaled_twice_from_the_second_release_on(bypass):
    old = {name: GLORA[OLD[name]] for name in GLORA}
    days = {0.0: 1, 1690761599.0: 1, 1690761600.0: 2, ANY: 2}
    assert {day: power(TrainingInfo(trained_at=day, bypass_mode=bypass), old) for day in days} == days
