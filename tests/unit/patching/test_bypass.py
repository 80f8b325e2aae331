"""A delta beside its layer, without ever being built, is that delta: for which layers, in which order, at what work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.patching.bypass import (
    Cost,
    KroneckerBypass,
    LowRankBypass,
    add_bypass,
    bypass_deltas,
    positions,
    total_cost,
)
from tests.support.sample_adapters import adapter_for
from tests.unit.patching.test_algorithms_in_session import EXAMPLES

MODES = ("merged", "live")
OTHERS = {
    "groups": {"groups": 2, "padding": 1},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
}


def layers():
    """A linear layer and a convolution, each with two examples that run beside it and are of different kinds."""
    torch.manual_seed(0)
    line, conv = nn.Linear(8, 6), nn.Conv2d(8, 6, (3, 2), padding=1, stride=2)
    return [(line, ("lora", "lokr"), (4, 3, 8)), (conv, ("locon", "lokr-flat"), (4, 8, 7, 6))]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def delta_of(layer, algorithm):
    """The layer with ΔW for its weight, and no bias."""
    twin = nn.utils.skip_init(type(layer), *sizes(layer), bias=False)
    twin.weight = nn.Parameter(algorithm.delta(layer.weight.detach()), requires_grad=False)
    return twin


def sizes(layer):
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding


@pytest.mark.parametrize("options", list(OTHERS.values()), ids=list(OTHERS))
def test_a_convolution_of_another_kind_is_the_same_both_ways(tmp_path, options):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, **options).requires_grad_(False)
    model, x, seen = nn.ModuleDict({"conv_in": layer}), torch.randn(1, 4, 6, 6), []
    plain = layer(x)
    for mode in MODES:
        with Session(unet=model, mode=mode) as session:
            session.activate([Request(adapter_for(model, tmp_path / "a.safetensors"))])
            seen.append(layer(x))
    torch.testing.assert_close(*seen)
    assert not torch.allclose(seen[0], plain, atol=1e-2)


def test_an_embedding_that_a_pair_of_factors_would_fit_is_not_run_beside():
    table, lora = nn.Embedding(6, 8), EXAMPLES["lora"].read()
    assert bypass_deltas(table, [lora], table.weight.data) is None
    assert bypass_deltas(nn.Linear(8, 6), [lora], table.weight.data) is not None


@pytest.mark.parametrize("turn", [slice(None), slice(None, None, -1)], ids=["there", "back"])
@pytest.mark.parametrize("n", [0, 1], ids=["linear", "conv"])
def test_each_takes_its_own_part_of_the_strengths(n, turn):
    layer, names, shape = layers()[n]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    algorithms = [EXAMPLES[name].read() for name in (names[0], names[1], names[1], names[0], names[0])[turn]]
    besides = bypass_deltas(layer, algorithms, layer.weight.data)
    parts = torch.stack([delta_of(layer, algorithm)(x) for algorithm in algorithms])
    strengths = [0.5, -1.0, 2.0, 0.25, 3.0]
    shared, rows = torch.ones_like(parts[0]), torch.tensor([strengths, [0.0] * 5, strengths[::-1], [1.0] * 5])
    add_bypass(besides, layer, x, shared, strengths)
    close(shared, 1 + torch.einsum("p,p...->...", torch.tensor(strengths), parts))
    each = torch.ones_like(parts[0])
    add_bypass(besides, layer, x, each, rows)
    close(each, 1 + torch.einsum("np,pn...->n...", rows, parts))


@pytest.mark.parametrize("n", [0, 1], ids=["linear", "conv"])
def test_it_follows_a_layer_that_is_cast(n):
    layer, names, shape = layers()[n]
    for name in names:
        besides = bypass_deltas(layer, [EXAMPLES[name].read()], layer.weight.data)
        x, found = torch.ones(shape), {}
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
            found[dtype] = torch.zeros_like(layer(x), dtype=dtype)
            add_bypass(besides, layer, x.to(dtype), found[dtype], [0.5])
            torch.testing.assert_close(found[dtype].float(), found[torch.float32], rtol=0.05, atol=0.05)
        (one,) = besides
        made = one._cached_factors
        add_bypass(besides, layer, x, found[torch.float32], [0.5])
        assert one._cached_factors is made  # nothing is cast again for the same


def test_places_of_an_output():
    assert positions(nn.Linear(7, 2), torch.empty(2, 5, 7)) == 10
    assert positions(nn.Conv2d(3, 2, 3, stride=(2, 4)), torch.empty(2, 3, 8, 16)) == 2 * 4 * 4


def test_the_work_of_both_kinds_counted_by_hand():
    """One product a place and rank for each input and output, and 64 for each number that is read and written."""
    line, lora, kron = nn.Linear(8, 6), EXAMPLES["lora"].read(), EXAMPLES["lokr"].read()
    thin = LowRankBypass(line, [lora.as_low_rank(line.weight)] * 2)
    assert thin.cost == Cost(per_position=4 * (8 + 6) + 64 * 6, per_call=(4 + 64) * 6 * 8, outputs=6)
    product = kron.lazy_delta((6, 8))
    (a, c), (b, d) = product.w1.shape, product.w2.shape
    assert (a * b, c * d) == (6, 8)
    kronecker = KroneckerBypass(product, ())
    assert kronecker.cost == Cost(per_position=c * b * d + 6 * c + 2 * 64 * 6, per_call=64 * 6 * 8, outputs=6)
    assert total_cost([thin, kronecker]) == Cost(440 + 816, 3264 + 3072, 6)


def test_the_work_of_all_is_written_over_the_widest():
    works = [Cost(1, 10, 3), Cost(2, 20, 4), Cost(4, 40, 2)]
    assert total_cost([SimpleNamespace(cost=work) for work in works]) == Cost(7, 70, 4)
    assert total_cost([]) == Cost(0, 0, 0)
