"""What the examples of LoKr do not reach: factors that are whole, dates of its bypass mode, layers that nearly fit."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import UnknownAlgorithm
from tests.unit.algorithms.test_algorithm_edge_cases import CORE, read

WHOLE = {"lokr_w1": torch.randn(2, 2), "lokr_w2": torch.randn(3, 4)}


def test_whole_factors_are_taken_as_they_are():
    """Whatever else the file holds: no core belongs to them, and no rank."""
    product = torch.kron(WHOLE["lokr_w1"], WHOLE["lokr_w2"])
    for more, facts in (
        ({"lokr_t2": CORE}, TrainingInfo()),
        ({"alpha": torch.tensor(3.0)}, TrainingInfo(rs_lora=True, producer="peft")),
    ):
        torch.testing.assert_close(read(WHOLE | more, facts).delta(torch.zeros(6, 8)), product)


@pytest.mark.parametrize(
    ("started", "line", "conv"),
    [
        (1716595199.0, 1.0, 0.5),  # 2.x forgot it where there is no kernel
        (1716595200.0, 1.0, 1.0),  # 3.0.0
        (1788220799.0, 1.0, 1.0),
        (1788220800.0, 0.5, 0.5),  # 4.0.0
    ],
)
def test_bypass_mode_forgot_the_scale_of_some_layers_in_some_releases(started, line, conv):
    w1, thin = torch.randn(2, 2), {"lokr_w2_a": torch.randn(3, 4), "alpha": torch.tensor(2.0)}
    for kernel, scale in (((), line), ((1, 1), line), ((3, 1), conv), ((1, 3), conv)):
        down = torch.randn(4, 4, *kernel)
        w2 = torch.einsum("br,rd...->bd...", thin["lokr_w2_a"], down)
        whole = torch.kron(w1.view(2, 2, *(1 for _ in kernel)), w2)
        for overrides, factor in ((None, scale), ({"scale": 0.25}, 0.25)):
            facts = TrainingInfo(bypass_mode=True, trained_at=started, overrides=overrides)
            adapter = read(thin | {"lokr_w1": w1, "lokr_w2_b": down}, facts)
            torch.testing.assert_close(adapter.delta(torch.zeros(whole.shape)), factor * whole)


@pytest.mark.parametrize("half", ["lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"])
def test_half_a_factor_is_none(half):
    other = "lokr_w2" if "w1" in half else "lokr_w1"
    with pytest.raises(UnknownAlgorithm, match="no algorithm"):
        select_algorithm({half: (4, 4), other: (4, 4)})
