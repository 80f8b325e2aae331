"""Numbers drawn from a seed, as written down with torch 2.13: a release that draws others is noticed here."""

from __future__ import annotations

import torch

from lib_adapters.ops.seeded_random import generator, random_positions, uniform


def test_numbers_of_a_seed_are_the_ones_that_were_trained_with():
    assert random_positions(777, 4, 5, 7).tolist() == [[0, 4, 4, 1], [5, 4, 2, 2]]
    drawn = [0.06984508037567139, -0.602393627166748, 0.31842339038848877, 0.3137805461883545]
    assert uniform((4,), 1.0, generator(7)).tolist() == drawn
    coarse = [0.06982421875, -0.6015625, 0.318359375, 0.314453125]
    assert uniform((4,), 1.0, generator(7), torch.bfloat16).tolist() == coarse
    assert torch.rand(2, generator=generator(7)).tolist() == [0.5349225401878357, 0.19880318641662598]


def test_the_default_device_and_dtype_change_nothing():
    expected = uniform((4,), 1.0, generator(7)), random_positions(777, 4, 5, 7)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = uniform((4,), 1.0, generator(7)), random_positions(777, 4, 5, 7)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
