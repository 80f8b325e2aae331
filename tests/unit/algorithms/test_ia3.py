"""Which axis of a square layer IA3 scales: PEFT tells it by the vector's shape, LyCORIS by a leaf of its own."""

from __future__ import annotations

import pytest
import torch

from tests.unit.algorithms.test_algorithm_edge_cases import read


@pytest.mark.parametrize(
    ("leaves", "axis"),
    [
        ({"ia3_l": torch.rand(5, 1)}, 0),
        ({"ia3_l": torch.rand(1, 5)}, 1),
        ({"ia3_l": torch.rand(5)}, 0),
        ({"ia3_l": torch.rand(1, 5, 1)}, 0),
        ({"weight": torch.rand(1, 5) - 1}, 0),
        ({"weight": torch.rand(1, 5) - 1, "on_input": torch.tensor(0)}, 0),
        ({"weight": torch.rand(5, 1) - 1, "on_input": torch.tensor(True)}, 1),
    ],
)
def test_a_square_layer_is_scaled_along_the_axis_that_was_trained(leaves, axis):
    base, adapter = torch.randn(5, 5), read(leaves)
    vector = next(iter(leaves.values())).flatten() + ("weight" in leaves)
    expected = base * (vector.view(5, 1) if axis == 0 else vector)
    torch.testing.assert_close(adapter.merged(base, 1.0), expected)
    assert adapter.has_bias == (axis == 0)
    bias = adapter.bias_delta(torch.ones(5))
    assert bias is None if axis else torch.allclose(bias, vector - 1)
