"""W' is W and all deltas, summed in float32 and rounded once: in new memory or in what is given, the same bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.ops.torch_modes import float32_math
from lib_adapters.patching.layers import WeightView
from lib_adapters.patching.merge import merged_bias, merged_weight
from lib_adapters.patching.patch import Patch
from tests.unit.patching.test_algorithms_in_session import EXAMPLES

WHOLE = WeightView()
FIRST, LAST, ACROSS, SOME = (
    WeightView(rows=(0, 6)),
    WeightView(rows=(12, 18)),
    WeightView(transposed=True),
    WeightView(channels=8),
)
STACKS = {
    "thin": ((6, 8), [("lora", WHOLE)]),
    "thin twice": ((6, 8), [("lora", WHOLE), ("lora-scale", WHOLE)]),
    "thick": ((6, 8), [("loha", WHOLE)]),
    "both": ((6, 8), [("loha", WHOLE), ("lora", WHOLE), ("lokr", WHOLE)]),
    "reads W": ((6, 8), [("ia3", WHOLE), ("lora", WHOLE), ("glora", WHOLE)]),
    "reads W alone": ((6, 8), [("glora", WHOLE)]),
    "conv": ((6, 8, 3, 2), [("locon", WHOLE), ("full-conv", WHOLE), ("locon-tucker", WHOLE)]),
    "thin conv": ((6, 8, 3, 2), [("locon", WHOLE)]),
    "rows": ((18, 8), [("lora", LAST)]),
    "rows of all kinds": ((18, 8), [("ia3", FIRST), ("lora", LAST), ("loha", FIRST), ("lora-scale", LAST)]),
    "rows, then all": ((18, 8), [("ia3", FIRST), ("lora", LAST), ("18x8", WHOLE)]),
    "all, then rows": ((18, 8), [("18x8", WHOLE), ("lora", LAST), ("loha", FIRST)]),
    "thick rows": ((18, 8), [("loha", LAST)]),
    "across": ((8, 6), [("lora", ACROSS), ("ia3", ACROSS)]),
    "channels": ((6, 9, 3, 2), [("locon", SOME), ("loha-flat", SOME)]),
}
STORED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def patch(name, view=WHOLE, strength=0.5, dtype=None):
    key = name, LayerKey("unet", "x"), strength, 0, "weight"
    return Patch(key, view, algorithm(name, dtype), strength)


def algorithm(name, dtype=None):
    """Of a name with a size, a pair of factors of that size."""
    if name in EXAMPLES:
        return EXAMPLES[name].read(dtype)
    o, i = map(int, name.split("x"))
    generator = torch.Generator().manual_seed(o)
    leaves = {"lora_up.weight": torch.randn(o, 2, generator=generator)}
    leaves["lora_down.weight"] = torch.randn(2, i, generator=generator)
    return EXAMPLES["lora"]._replace(leaves=leaves).read(dtype)


def patches_of(stack, dtype=None):
    return [patch(name, view, 0.5 - n, dtype) for n, (name, view) in enumerate(stack)]


def slowly(base, patches):
    """One by one, each from W itself."""
    base = base.float()
    out = base.clone()
    for one in patches:
        delta = one.algorithm.delta_at(one.view.apply(base).contiguous(), one.strength)
        one.view.apply(out).add_(delta)
    return out


def like(kind, base):
    """Memory for W', of which nothing is to be seen afterwards."""
    if kind == "strided":
        return torch.full_like(base.mT.contiguous(), 7.0).mT
    return torch.full_like(base, 7.0) if kind == "given" else None


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_the_sum_wherever_it_is_put(name, dtype):
    shape, stack = STACKS[name]
    base = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    before, patches = base.clone(), patches_of(stack)
    wanted = slowly(base, patches)
    found = {}
    for kind in ("new", "given", "strided"):
        into = like(kind, base)
        found[kind] = merged_weight(base, patches, into)
        assert found[kind] is into or kind == "new"
        assert (found[kind].shape, found[kind].dtype) == (shape, dtype)
        assert torch.equal(found[kind], found["new"])  # the same bits
        assert torch.equal(base, before)
    rounding = 1e-5 if dtype in {torch.float32, torch.float64} else 0.01
    torch.testing.assert_close(found["new"].float(), wanted, rtol=rounding, atol=rounding)
    found["new"].zero_()
    assert torch.equal(base, before)


@pytest.mark.parametrize("kind", ["new", "given"])
def test_nothing_added_is_a_copy(kind):
    base = torch.randn(6, 8)
    for dtype in STORED:
        stored = base.to(dtype)
        found = merged_weight(stored, [], like(kind, stored))
        assert torch.equal(found, stored)
        assert found.data_ptr() != stored.data_ptr()


@pytest.mark.parametrize("kind", ["new", "given"])
def test_in_halves_large_weights_are_summed_in_blocks_of_rows(kind):
    """Of a size of their own: a block must neither be left out nor come twice."""
    base = torch.randn(700, 500, generator=torch.Generator().manual_seed(1)).bfloat16()
    patches = [patch("700x500", strength=1.0)]
    torch.testing.assert_close(merged_weight(base, patches, like(kind, base)), slowly(base, patches).bfloat16())


class OnGpu(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("factors", STORED[:3], ids=str)
@pytest.mark.parametrize("dtype", STORED[:3], ids=str)
def test_on_a_gpu_halves_are_multiplied_as_they_are_where_that_is_the_same(name, factors, dtype):
    shape, stack = STACKS[name]
    base = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    there, patches = base.clone().as_subclass(OnGpu), patches_of(stack, factors)
    for kind in ("new", "given", "strided"):
        into = like(kind, there)
        found = merged_weight(there, patches, into)
        assert found is into or kind == "new"
        assert (found.shape, found.dtype) == (shape, dtype)
        torch.testing.assert_close(found.as_subclass(torch.Tensor).float(), slowly(base, patches), rtol=0.02, atol=0.02)
    assert torch.equal(there, base)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_memory_given_may_be_of_a_narrower_dtype(gpu, dtype):
    """A host may keep a half beside a parameter in float8."""
    base, patches = torch.randn(6, 8).to(dtype), patches_of([("lora", WHOLE)], dtype)
    into = torch.zeros(6, 8).to(torch.float8_e4m3fn)
    found = merged_weight(base.as_subclass(OnGpu) if gpu else base, patches, into)
    assert found.data_ptr() == into.data_ptr()
    torch.testing.assert_close(into.float(), slowly(base, patches), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("half", ["lora_up.weight", "lora_down.weight"])
def test_on_a_gpu_a_file_may_store_its_factors_in_different_types(half):
    leaves = EXAMPLES["lora"].leaves
    mixed = EXAMPLES["lora"]._replace(leaves={**leaves, half: leaves[half].bfloat16()}).read()
    base, patches = torch.randn(6, 8).bfloat16(), [replace(patch("lora"), algorithm=mixed)]
    found = merged_weight(base.as_subclass(OnGpu), patches).as_subclass(torch.Tensor)
    torch.testing.assert_close(found.float(), slowly(base, patches), rtol=0.02, atol=0.02)


class Large(TorchDispatchMode):
    """Counts the tensors that are made, as large as a weight or larger."""

    def __init__(self, size):
        super().__init__()
        self.size, self.seen = size, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() >= self.size:
            self.seen.add(out.untyped_storage().data_ptr())
        return out


@pytest.mark.parametrize("stack", [[("64x48", WHOLE)], [("64x48", WHOLE)] * 2, [("32x48", WeightView(rows=(32, 64)))]])
def test_what_is_given_is_all_the_memory_that_is_taken(stack):
    base, patches = torch.randn(64, 48), patches_of(stack)
    into = like("given", base)
    with Large(base.numel()) as large:
        merged_weight(base, patches, into)
    assert large.seen <= {base.data_ptr(), into.data_ptr()}


@pytest.mark.parametrize("names", [["lora"], ["lora", "loha"], ["ia3"]])
def test_deltas_are_taken_to_where_the_weight_is(names):
    patches = [patch(name) for name in names]
    assert merged_weight(torch.empty(6, 8, device="meta"), patches).device.type == "meta"
    assert merged_bias(torch.empty(6, device="meta"), [patch("full-bias")]).device.type == "meta"
    assert all(one.algorithm.delta(torch.zeros(6, 8)).device.type == "cpu" for one in patches)


@pytest.mark.parametrize("kind", ["new", "given"])
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_biases_are_summed_too(kind, dtype):
    bias, view = torch.randn(18).to(dtype), WeightView(rows=(6, 12))
    before, into = bias.clone(), like(kind, bias)
    patches = [patch("full-bias", view, 0.5), patch("full-bias", WeightView(rows=(12, 18)), -2.0), patch("lora", view)]
    found = merged_bias(bias, patches, into)
    delta = patches[0].algorithm.bias_delta(torch.zeros(6))
    wanted = bias.float() + torch.cat([torch.zeros(6), 0.5 * delta, -2 * delta])
    assert (found is into) == (kind == "given")
    assert torch.equal(found, wanted.to(dtype))
    assert torch.equal(bias, before)
    assert float(delta.abs().max()) > 0.1


def test_inside_it_maths_is_plain_whatever_surrounds_it():
    one = torch.ones(2, 2, requires_grad=True)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with float32_math():
            found = one @ one
            kept = torch.ones(2)
        assert (one @ one).dtype == torch.bfloat16
        assert torch.is_inference_mode_enabled()
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert not kept.is_inference()
    with torch.enable_grad(), float32_math():
        assert not (one @ one).requires_grad
