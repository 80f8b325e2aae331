"""The fingerprint of a weight tells every change of its bytes, and its samples know it again."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.patching.checksum import COLUMNS, SAMPLES, checksum, same_values, samples

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
    tensors = [torch.arange(n).to(dtype) for n in (5, SAMPLES, 101) for dtype in (torch.float32, torch.float16)]
    for tensor, found in zip(tensors, samples(tensors), strict=True):
        start = max(0, len(tensor) // 2 - SAMPLES // 2)
        assert torch.equal(found, tensor[start : start + SAMPLES])
        assert found.dtype == tensor.dtype


@pytest.mark.parametrize("way", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_copy_that_was_cast_there_and_back_is_known_again(way):
    then = torch.randn(200)
    (sample,) = samples([then])
    assert same_values(then.to(way), sample)
    assert same_values(then.to(way).float(), sample)
    changed = then.clone()
    changed[100] += 1
    assert not same_values(changed, sample)
