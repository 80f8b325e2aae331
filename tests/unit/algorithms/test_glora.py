"""What the examples of GLoRA do not reach: kernels that are flat in one direction, ranks that are cut, rs-LoRA."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.algorithms.base import TrainingInfo
from tests.unit.algorithms.test_algorithm_edge_cases import DOWN, GLORA, UP, read


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("thin", [None, DOWN, DOWN[:, :, None, None]], ids=["wide", "line", "point"])
@pytest.mark.parametrize("rank", [4, 2, 1])
def test_the_weight_is_mixed_over_its_inputs_whatever_its_kernel(kernel, thin, rank):
    middle = torch.randn(4, 4, *kernel)
    wide = torch.randn(4, 8, *kernel)
    leaves = {"a1.weight": DOWN.T, "a2.weight": DOWN, "b1.weight": UP, "b2.weight": wide}
    core = {} if thin is None else {"b2.weight": thin, "bm.weight": middle}
    adapter, base = read(leaves | core), torch.randn(6, 8, *kernel)
    adapter.check_shape(base.shape)
    mixed = torch.einsum("oi...,ij->oj...", base, DOWN[:rank].T @ DOWN[:rank])
    if core:
        added = torch.einsum("op,pq...,qi->oi...", UP[:, :rank], middle[:rank, :rank], DOWN[:rank])
    else:
        added = torch.einsum("or,ri...->oi...", UP[:, :rank], wide[:rank])
    torch.testing.assert_close(adapter.truncate(rank).delta(base), mixed + added, rtol=1e-4, atol=1e-4)
    assert adapter.truncate(rank).rank == rank


@pytest.mark.parametrize("started", [0.0, 1.71e9, 1.715e9, 1.75e9])
def test_a_rank_stabilised_alpha_is_corrected_once_in_every_release(started):
    leaves = GLORA | {"alpha": torch.tensor(2.0)}
    assert read(leaves, TrainingInfo(trained_at=started, rs_lora=True)).scale == 0.5 * 2
    assert read(leaves, TrainingInfo(trained_at=started, rs_lora=True, overrides={"scale": 0.25})).scale == 0.25
