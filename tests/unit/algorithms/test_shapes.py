"""Every tensor of every example in another shape: the file is refused or computed, and no other error is raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from lib_adapters.algorithms import select_algorithm
from lib_adapters.errors import AdapterError
from tests.support.algorithm_examples import examples

EXAMPLES = examples()
Shape = tuple[int, ...]


def others(shape: Shape) -> Iterator[Shape]:
    """One axis longer, shorter, of one, gone or new; turned round, flat, and with a kernel behind."""
    for n, size in enumerate(shape):
        before, after = shape[:n], shape[n + 1 :]
        yield from ((*before, other, *after) for other in {size + 1, max(1, size - 1), 1})
        yield from ((*before, *after), (*before, 1, size, *after))
    yield from ((), (1,), shape[::-1], (*shape, 1), (*shape, 1, 1), (*shape, 3, 3), (torch.Size(shape).numel(),))


def computed(leaves, example):
    """All that is ever asked of an adapter."""
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    adapter, base = select_algorithm(shapes).from_tensors(leaves, example.facts), torch.ones(example.shape)
    adapter.check_shape(example.shape)
    for one in (adapter, adapter.truncate(1)):
        assert one.delta(base).shape == one.merged(base, 0.5).shape == base.shape
        one.as_low_rank(base)
        change = one.bias_delta(torch.zeros(example.shape[0]))
        assert change is None or change.shape == (example.shape[0],)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_tensor_of_another_shape_is_refused_or_computed(name):
    example = EXAMPLES[name]
    for leaf, tensor in example.leaves.items():
        for shape in set(others(tuple(tensor.shape))) - {tuple(tensor.shape)}:
            with suppress(AdapterError):
                computed(example.leaves | {leaf: torch.ones(shape).to(tensor.dtype)}, example)
