"""Weights that something was made of: moved they are the same, written or exchanged they are others."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from lib_adapters.patching.checksum import BaseWeights
from lib_adapters.patching.layers import ParamRef


@pytest.fixture
def pair():
    """As loaded: nothing was ever written into their weights."""
    made = nn.ModuleDict({"one": nn.Linear(8, 4), "two": nn.Linear(8, 4)})
    for n, layer in enumerate(made.values()):
        numbers = torch.randn(4, 8, generator=torch.Generator().manual_seed(n))
        layer.weight = nn.Parameter(numbers.data, requires_grad=False)
    return made


def seen(pair):
    """Both weights, as they are now."""
    refs = [(path, weakref.ref(module)) for path, module in pair.items()]
    return BaseWeights([ParamRef(ref, "weight", path, ref, ref) for path, ref in refs])


def moved(layer):
    layer.weight.data = layer.weight.data.clone()


def exchanged(layer):
    """Another Parameter with the same numbers, even in the same memory."""
    layer.weight = nn.Parameter(layer.weight.data, requires_grad=False)


def written(layer):
    layer.weight.mul_(2)


def written_elsewhere(layer):
    layer.weight.data = layer.weight.data * 2


def gone(layer):
    layer._parameters["weight"] = None


def on_meta(layer):
    layer.to("meta")


@pytest.mark.parametrize("change", [moved, exchanged])
def test_what_was_only_moved_is_the_same_once_it_was_looked_at(pair, change):
    bases = seen(pair)
    assert bases.are_unchanged
    change(pair["two"])
    assert not bases.are_unchanged
    bases.refresh()
    assert bases.are_unchanged


@pytest.mark.parametrize("change", [written, written_elsewhere, gone, on_meta])
def test_what_has_other_numbers_or_none_is_not_the_same(pair, change):
    bases = seen(pair)
    change(pair["two"])
    for _ in range(2):
        assert not bases.are_unchanged
        bases.refresh()
    moved(pair["one"])
    bases.refresh()
    assert not bases.are_unchanged


def test_a_model_that_is_freed_holds_nothing(pair):
    bases, alive = seen(pair), weakref.ref(pair["two"])
    del pair["two"]
    assert alive() is None
    assert not bases.are_unchanged
    bases.refresh()
    assert not bases.are_unchanged
