"""Tensors that contradict each other, or a layer, are refused with both shapes."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import CorruptFile, ShapeMismatch
from tests.unit.algorithms.test_algorithm_edge_cases import (
    ABBA,
    CORE,
    DOWN,
    GLORA,
    LOHA,
    LORA,
    SPARSE,
    TUCKER,
    UP,
    WIDE,
    read,
)

CORED = {"lokr_w1": UP, "lokr_w2_a": UP.T, "lokr_w2_b": DOWN, "lokr_t2": CORE}
CORES = {"hada_t1": CORE, "hada_t2": CORE}


@pytest.mark.parametrize(
    "leaves",
    [
        LORA | {"lora_up.weight": torch.randn(6, 3)},
        LORA | {"lora_up.weight": torch.randn(6, 4, 3, 3)},
        LORA | {"lora_up.weight": torch.randn(6, 4, 3, 1)},
        LORA | {"lora_up.weight": torch.randn(6)},
        LORA | {"lora_down.weight": torch.randn(4)},
        LORA | {"lora_mid.weight": torch.randn(3, 4, 3, 3)},
        LORA | {"lora_mid.weight": torch.randn(4, 3, 3, 3)},
        LORA | {"lora_mid.weight": CORE, "lora_down.weight": torch.randn(4)},
        LORA | {"lora_mid.weight": CORE, "lora_down.weight": torch.randn(4, 8, 3, 1)},
        LORA | {"alpha": torch.ones(2)},
        *(LORA | {leaf: torch.ones(1)} for leaf in ("lora_up.bias", "lora_down.bias", "diff_b")),
        LORA | {"lora_up.bias": torch.ones(4)},
        LORA | {"lora_down.bias": torch.ones(6)},
        LORA | {"diff_b": torch.ones(6, 1)},
        LORA | SPARSE | {"bias_indices": torch.tensor([[0, 6], [0, 1]])},
        LORA | SPARSE | {"bias_indices": torch.tensor([[0, -1], [0, 1]])},
        LORA | SPARSE | {"bias_indices": torch.tensor([[0, 1, 2], [0, 1, 2]])},
        LORA | SPARSE | {"bias_indices": torch.zeros(2, 2).long(), "bias_values": torch.ones(1, 2)},
        ABBA | {"lora_up1.weight": torch.randn(6, 3)},
        ABBA | {"lora_down2.weight": torch.randn(3, 8)},
        LORA | SPARSE | {"bias_indices": torch.zeros(2, 2).long(), "bias_size": torch.tensor([6, 8, 1])},
        LOHA | {"hada_w1_b": torch.randn(3, 8)},
        LOHA | {"hada_w2_b": torch.randn(4, 9)},
        LOHA | {"hada_w2_a": torch.randn(7, 4)},
        LOHA | {"hada_t1": CORE},
        dict.fromkeys(LOHA, torch.randn(4, 4)) | {"hada_t1": CORE},
        TUCKER | {"hada_t1": CORE, "hada_t2": torch.randn(4, 3, 3, 3)},
        TUCKER | CORES | {"hada_w1_a": torch.randn(4, 6, 1, 1)},
        TUCKER | CORES | {"hada_w2_b": torch.randn(4, 8, 1, 1)},
        TUCKER | dict.fromkeys(CORES, CORE[:, :, 0, 0]),
        {"lokr_w1": UP, "lokr_w2_a": UP, "lokr_w2_b": torch.randn(3, 8)},
        {"lokr_w1_a": UP, "lokr_w1_b": torch.randn(3, 8), "lokr_w2": UP},
        {"lokr_w1": torch.randn(6), "lokr_w2": UP},
        {"lokr_w1": UP, "lokr_w2": torch.randn(6)},
        {"lokr_w1_a": torch.ones(2, 1), "lokr_w1_b": torch.ones(1, 2, 1, 1), "lokr_w2": UP},
        {"lokr_w1": UP, "lokr_w2_a": torch.ones(6, 4, 1, 1), "lokr_w2_b": WIDE},
        CORED | {"lokr_t2": torch.randn(4, 3, 3, 3)},
        CORED | {"lokr_t2": CORE[:, :, 0, 0]},
        CORED | {"lokr_w2_a": torch.randn(4, 6, 1, 1)},
        CORED | {"lokr_w2_b": torch.randn(4, 8, 1, 1)},
        GLORA | {"b1.weight": torch.randn(6, 3)},
        GLORA | {"a1.weight": torch.randn(9, 4)},
        GLORA | {"a2.weight": torch.randn(4, 9)},
        GLORA | {"a1.weight": torch.randn(8)},
        GLORA | {"a1.weight": torch.randn(8, 4, 3, 1)},
        GLORA | {"bm.weight": torch.randn(3, 4, 3, 3)},
        GLORA | {"bm.weight": torch.randn(4, 3, 3, 3)},
        GLORA | {"bm.weight": CORE, "b2.weight": torch.randn(4, 8, 3, 1)},
        {"weight": torch.randn(2, 3)},
        {"ia3_l": torch.randn(2, 3)},
        LORA | {"dora_scale": torch.randn(6, 8)},
    ],
)
def test_tensors_that_contradict_each_other_are_refused_at_once(leaves):
    with pytest.raises(ShapeMismatch, match=r"\[|only one"):
        read(leaves)


@pytest.mark.parametrize(
    ("leaves", "shape"),
    [
        (LORA, (8, 6)),
        (LORA, (6, 8, 3, 3)),
        (LORA, (6,)),
        (LORA | {"lora_down.weight": torch.randn(4, 72)}, (6, 72, 3, 3)),
        (LORA | {"lora_down.weight": WIDE}, (6, 72)),
        (LORA | {"lora_down.weight": torch.randn(4, 72, 1, 1)}, (6, 8, 3, 3)),
        (LORA, (6, 9)),
        (GLORA, (6, 9)),
        (GLORA, (7, 8)),
        (GLORA, (6, 8, 3, 3)),
        (
            GLORA | dict.fromkeys(("a2.weight", "b2.weight"), WIDE.flatten(1)) | {"a1.weight": torch.ones(72, 4)},
            (6, 8, 3, 3),
        ),
        (LORA | {"lora_down.weight": torch.randn(4, 8, 3, 1)}, (6, 8, 1, 3)),
        (LORA | SPARSE | {"bias_size": torch.tensor([8, 6]), "bias_indices": torch.zeros(2, 2).long()}, (6, 8)),
        (LORA | {"bias": torch.randn(8, 6)}, (6, 8)),
        ({"lokr_w1": torch.randn(2, 2), "lokr_w2": torch.randn(3, 36)}, (6, 8, 3, 3)),
        ({"lokr_w1": torch.randn(2, 2), "lokr_w2": torch.randn(3, 4)}, (4, 12)),
        ({"lokr_w1": torch.randn(2, 3), "lokr_w2_a": UP, "lokr_w2_b": torch.randn(4, 6)}, (12, 2, 3, 3)),
        (LORA | {"dora_scale": torch.randn(7, 1)}, (6, 8)),
        (LORA | {"dora_scale": torch.randn(8, 1)}, (6, 8)),
        (LORA | {"dora_scale": torch.randn(8)}, (6, 8)),
        (LORA | {"dora_scale": torch.randn(1, 6)}, (8, 6)),
        (LORA | {"lora_down.weight": torch.randn(4, 1), "dora_scale": torch.randn(1)}, (6, 1)),
        (LORA | {"lora_down.weight": torch.randn(4, 2), "dora_scale": torch.randn(2, 1)}, (6, 2)),
        ({"weight": torch.randn(8)}, (6, 8)),
        ({"diff": torch.randn(8, 6)}, (6, 8)),
        ({"diff": UP}, (6, 4, 1, 3)),
        ({"diff": UP}, (6, 4, 3, 1)),
        ({"w_norm": torch.randn(6)}, (6, 1)),
    ],
)
def test_equal_numbers_of_elements_are_not_enough(leaves, shape):
    with pytest.raises(ShapeMismatch, match=str(list(shape)).replace("[", r"\[")):
        read(leaves).check_shape(shape)


@pytest.mark.parametrize(
    ("leaves", "shape"),
    [
        (TUCKER | dict.fromkeys(CORES, CORE[..., 0]), (6, 8, 3)),
        (CORED | {"lokr_t2": CORE[..., 0]}, (36, 32, 3)),
    ],
)
def test_kernels_of_one_axis_fit_too(leaves, shape):
    adapter = read(leaves)
    adapter.check_shape(shape)
    assert adapter.delta(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("producer", ["peft", "lycoris"])
def test_a_magnitude_that_fits_one_axis_alone_is_along_it(producer):
    base, columns, rows = torch.randn(6, 8), torch.rand(1, 8), torch.rand(1, 6, 1, 1)
    zero, facts = {"lora_up.weight": torch.zeros(6, 4)}, TrainingInfo(producer=producer)
    found = read(LORA | zero | {"dora_scale": columns}, facts).merged(base, 1.0)
    torch.testing.assert_close(found, base * columns / base.norm(dim=0))
    found = read(LORA | zero | {"dora_scale": rows}, facts).merged(base, 1.0)
    torch.testing.assert_close(found, base * rows.view(6, 1) / base.norm(dim=1, keepdim=True))


def test_reflections_whose_products_would_fill_the_memory_are_refused():
    with pytest.raises(CorruptFile, match="HRA"):
        read({"hra_u": torch.zeros(1, 20000)})


@pytest.mark.parametrize(("dtype", "exact"), [(torch.bfloat16, 256), (torch.float16, 2048), (torch.float32, 1 << 24)])
def test_places_are_refused_where_their_type_rounds_them(dtype, exact):
    for highest in (exact, exact + 4):
        leaves = {"shira_weight": torch.ones(2), "shira_indices": torch.tensor([[0, highest], [1, 2]]).to(dtype)}
        if highest == exact:
            assert read(leaves).places[0, 1] == exact
        else:
            with pytest.raises(CorruptFile, match="rounds places"):
                read(leaves)
