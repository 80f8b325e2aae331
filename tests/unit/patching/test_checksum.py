"""The fingerprint of a weight tells every change of its bytes, and its samples know it again."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from lib_adapters.patching.checksum import (
    COLUMNS,
    SAMPLE_COUNT,
    OriginalChecksums,
    checksum,
    sample_values,
    samples_match,
)
from lib_adapters.patching.layers import ParamRef

SIZES = [1, 7, 8, 9, 8 * COLUMNS - 8, 8 * COLUMNS, 8 * COLUMNS + 8, 8 * COLUMNS + 13, 24 * COLUMNS + 8 * 5 + 3]


def bytes_of(size):
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", SIZES)
def test_each_byte_counts_and_so_does_its_place(size):
    tensor = bytes_of(size)
    before = int(checksum(tensor))
    for at in {0, size // 2, size - 1, *range(max(0, size - 20), size)}:
        other = tensor.clone()
        other[at] ^= 1
        assert int(checksum(other)) != before
    if size >= 16:
        turned = torch.cat((tensor[8:16], tensor[:8], tensor[16:]))
        assert (int(checksum(turned)) == before) == torch.equal(turned, tensor)


@pytest.mark.parametrize("size", SIZES)
def test_neither_the_place_in_memory_nor_the_strides_count(size):
    wide = torch.empty(size + 3, dtype=torch.uint8)
    wide[3:] = bytes_of(size)
    assert int(checksum(wide[3:])) == int(checksum(bytes_of(size)))
    matrix = torch.randn(5, 7)
    assert int(checksum(matrix.T.contiguous().T)) == int(checksum(matrix))


def test_samples_are_the_middle_of_each_in_its_own_type():
    tensors = [torch.arange(n).to(dtype) for n in (5, SAMPLE_COUNT, 101) for dtype in (torch.float32, torch.float16)]
    for tensor, found in zip(tensors, sample_values(tensors), strict=True):
        start = max(0, len(tensor) // 2 - SAMPLE_COUNT // 2)
        assert torch.equal(found, tensor[start : start + SAMPLE_COUNT])
        assert found.dtype == tensor.dtype


@pytest.mark.parametrize("way", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_copy_that_was_cast_there_and_back_is_known_again(way):
    then = torch.randn(200)
    (sample,) = sample_values([then])
    assert samples_match(then.to(way), sample)
    assert samples_match(then.to(way).float(), sample)
    changed = then.clone()
    changed[100] += 1
    assert not samples_match(changed, sample)


def seen(layer):
    """A witness that saw the layer's weight, and the weight's slot."""
    there = weakref.ref(layer)
    slot, witness = ParamRef(there, "weight", "x", there, there), OriginalChecksums()
    witness.record(slot, layer.weight.data)
    return witness, slot


def test_a_witness_holds_what_it_saw_first():
    layer = nn.Linear(3, 4).requires_grad_(False)
    witness, slot = seen(layer)
    assert witness.match({})
    layer.weight.data = layer.weight.data + 1  # behind its owner's back: no version tells of it
    assert not witness.match({})
    witness.record(slot, layer.weight.data)  # too late
    assert not witness.match({})
    witness.forget(slot)
    assert witness.match({})


def test_a_witness_looks_at_what_is_kept_while_something_else_is_there():
    layer = nn.Linear(3, 4).requires_grad_(False)
    witness, slot = seen(layer)
    kept, layer.weight.data = layer.weight.data, torch.zeros(4, 3)
    assert witness.match({slot.key: kept})
    assert not witness.match({slot.key: kept * 2})
    with torch.no_grad():
        layer.weight.add_(1)  # whoever writes in the meantime does not make what is kept another
    assert not witness.match({slot.key: kept * 2})


def test_what_its_owner_changes_casts_or_frees_is_not_ours_to_answer_for():
    layer = nn.Linear(3, 4).requires_grad_(False)
    witness, slot = seen(layer)
    layer.weight.add_(1)
    assert witness.match({})
    witness.record(slot, layer.weight.data)  # another weight, seen anew
    assert witness.match({})
    layer.weight.data = layer.weight.data + 1
    assert not witness.match({})
    layer.weight.data = layer.weight.data.half()
    assert witness.match({})
    witness.record(slot, layer.weight.data)
    layer.weight.data = layer.weight.data + 1
    assert not witness.match({})
    layer.weight = None
    assert witness.match({})
    del layer
    assert witness.match({})


def test_a_model_made_in_inference_mode_is_seen_too():
    with torch.inference_mode():
        layer = nn.Linear(3, 4)
    witness, _ = seen(layer)
    assert witness.match({})
    layer._parameters["weight"] = None
    assert witness.match({})
