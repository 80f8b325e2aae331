"""The contract of every registered algorithm, on every example of it."""

from __future__ import annotations

import re

import pytest
import torch

from lib_adapters.algorithms import ALGORITHMS, select_algorithm
from lib_adapters.algorithms.dora import Dora
from lib_adapters.algorithms.fourierft import Spectral
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm
from lib_adapters.algorithms.oft_input import OftInput
from lib_adapters.algorithms.replacement_weights import ReplacementWeight
from lib_adapters.algorithms.tlora import TLora
from lib_adapters.errors import ShapeMismatch, UnknownAlgorithm
from tests.support.algorithm_examples import examples

EXAMPLES = examples()
SOMETIMES = {Dora, TLora, ReplacementWeight}  # whether they read the weight is told by the file, not by the class
NOT_LINEAR = {"BOFT", "BOFT (input)"}  # its strength goes into every factor
every_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())


def weight(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(ours, slow):
    torch.testing.assert_close(ours.double(), slow, rtol=1e-5, atol=2e-6 * float(slow.abs().max()) + 1e-12)


def views(shape):
    """Buffers of that shape with other strides: transposed, a slice of a fused weight, channels last."""
    yield torch.empty(shape)
    yield torch.empty(shape[::-1]).permute(*reversed(range(len(shape))))
    yield torch.empty(30, *shape[1:])[3 : 3 + shape[0]]
    if len(shape) == 4:
        yield torch.empty(shape).to(memory_format=torch.channels_last)


def test_every_registered_algorithm_has_an_example():
    seen = {type(example.read()) for example in EXAMPLES.values()}
    assert seen == set(ALGORITHMS)


def test_they_are_called_as_users_call_them():
    names = (
        "ABBA", "AdaLoRA", "BOFT", "BOFT (input)", "C3A", "DEFT", "DeLoRA", "DoHa", "DoKr", "DoRA", "DoRA on ABBA",
        "FourierFT", "Full", "GLoRA", "GraLoRA", "HRA", "HiRA", "IA3", "LN tuning", "LoHa", "LoKr", "LoRA", "MiSS",
        "MiSS (bat)", "Norm", "OFT", "OFT", "OFT (input)", "OrthoLoRA", "RandLora", "RoAd", "SHiRA", "T-LoRA",
        "VB-LoRA", "VeRA", "WaveFT", "Whole weight",
    )  # fmt: skip
    assert sorted(algorithm.label for algorithm in ALGORITHMS) == sorted(names)


@every_example
@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0, 2.0])
def test_is_its_slow_definition(example, strength):
    adapter, base = example.read(), weight(example.shape)
    adapter.check_shape(example.shape)
    same(adapter.delta_at(base, strength), example.slow(base.double(), strength))
    assert torch.equal(adapter.delta(base), adapter.delta_at(base, 1.0))


@every_example
def test_is_claimed_by_itself_alone_and_dtypes_do_not_matter(example):
    shapes = {name: tuple(leaf.shape) for name, leaf in example.leaves.items()}
    assert [a for a in ALGORITHMS if a.claims(shapes)] == [select_algorithm(shapes)]


@every_example
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_half_files_are_computed_in_float32(example, dtype):
    if any(leaf.numel() != 1 and not leaf.is_floating_point() for leaf in example.leaves.values()):
        example = example._replace(leaves={n: v.float() if "bias" not in n else v for n, v in example.leaves.items()})
    floats = {n: v.to(dtype) if v.is_floating_point() and v.numel() > 1 else v for n, v in example.leaves.items()}
    half = example._replace(leaves=floats).read()
    full = example._replace(leaves={n: v.float() if v.is_floating_point() else v for n, v in floats.items()}).read()
    base = weight(example.shape)
    torch.testing.assert_close(half.delta(base), full.delta(base), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(half.merged(base, 0.5), full.merged(base, 0.5), rtol=1e-6, atol=1e-6)
    assert half.delta(base).dtype == torch.float32


@every_example
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_onto_is_the_weight_and_the_delta_in_a_new_tensor_or_the_one_given(example, strength):
    adapter = example.read()
    for base in views(example.shape):
        base.copy_(weight(example.shape))
        before, given = base.clone(), torch.empty(example.shape)
        sum_ = adapter.merged(base, strength)
        same(sum_, before.double() + example.slow(before.double(), strength))
        assert adapter.merged(base, strength, given) is given
        torch.testing.assert_close(given, sum_, rtol=1e-6, atol=1e-6)
        assert torch.equal(base, before)


@every_example
def test_add_is_the_delta_on_any_view(example):
    adapter, base = example.read(), weight(example.shape)
    start, expected = weight(example.shape, 1), adapter.delta_at(base, 0.5)
    for out in views(example.shape):
        for read in views(example.shape):
            out.copy_(start)
            adapter.add_delta_(out, read.copy_(base), 0.5)
            torch.testing.assert_close(out - start, expected, rtol=1e-5, atol=1e-5)


@every_example
def test_inputs_are_left_alone(example):
    adapter, base = example.read(), weight(example.shape)
    kept, leaves = base.clone(), {name: leaf.clone() for name, leaf in example.leaves.items()}
    adapter.delta(base).add_(1)
    adapter.add_delta_(torch.zeros(example.shape), base, 0.5)
    change = adapter.bias_delta(torch.ones(example.shape[0]))
    if change is not None:
        change.add_(1)
    assert torch.equal(base, kept)
    for name, leaf in example.leaves.items():
        assert torch.equal(leaf, leaves[name])


@every_example
def test_all_of_it_moves_to_another_device_and_nothing_where_it_is_there(example):
    adapter = example.read()
    assert adapter.to(torch.device("cpu")) is adapter
    moved = adapter.to(torch.device("meta"))
    parts = [*vars(moved).values(), *vars(getattr(moved, "inner", moved)).values()]
    assert {part.device.type for part in parts if isinstance(part, torch.Tensor)} == {"meta"}


@every_example
def test_strength_is_linear_and_zero_is_identity(example):
    adapter, base = example.read(), weight(example.shape)
    if getattr(adapter, "rescale", None) is None:
        assert float(adapter.delta_at(base, 0.0).abs().max()) < 1e-6
    if adapter.label not in NOT_LINEAR:
        torch.testing.assert_close(adapter.delta_at(base, 3.0), 3 * adapter.delta(base), rtol=1e-5, atol=1e-5)


@every_example
def test_thin_factors_are_the_same_delta(example):
    adapter, base = example.read(), weight(example.shape)
    thin = adapter.as_low_rank(base)
    if thin is not None:
        product = (thin.up.double() @ thin.down.double() * thin.scale).view(example.shape)
        torch.testing.assert_close(product.float(), adapter.delta(base), rtol=1e-5, atol=1e-5)


def test_what_is_a_product_of_two_thin_factors_is_told_as_one():
    thin = {name for name, example in EXAMPLES.items() if example.read().as_low_rank(weight(example.shape)) is not None}
    loras = {name for name, example in EXAMPLES.items() if example.read().label == "LoRA"}
    gloras = {"glora", "glora-rs", "glora-bypass", "glora-old", "glora-old-squared", "glora-old-point", "glora-wide"}
    triples = {"tlora", "tlora-conv", "tlora-wide", "tlora-stored", "ortholora"}
    seeded = {"vera", "vera-point", "vera-drawn", "vblora", "vblora-chosen", "adalora", "adalora-conv"}
    peft = {name for name, example in EXAMPLES.items() if example.read().label in ("DEFT", "DeLoRA", "HRA")}
    assert thin == loras - {"lora-sparse", "locon-sparse", "lora-dense"} | gloras | triples | peft | seeded


@every_example
def test_some_rows_of_a_product_are_its_rows(example):
    """Also of rows again: whoever works in blocks may cut them once more."""
    adapter, base = example.read(), torch.zeros(example.shape)
    if isinstance(adapter, AdditiveAlgorithm):
        rows = adapter.lazy_delta(example.shape).rows(1, 5)
        for part, mine in ((rows, slice(1, 5)), (rows.rows(1, 3), slice(2, 4))):
            out = torch.zeros(base[mine].shape)
            part.add(out, 0.5)
            torch.testing.assert_close(out, 0.5 * adapter.delta(base)[mine], rtol=1e-6, atol=1e-6)


@every_example
def test_what_does_not_read_the_weight_says_so(example):
    adapter = example.read()
    one, other = weight(example.shape), weight(example.shape, 1)
    alike = torch.equal(adapter.delta(one), adapter.delta(other))
    assert adapter.needs_weight == (not alike) or (alike and type(adapter) in SOMETIMES)


@every_example
def test_only_its_own_shape_fits(example):
    adapter, shape = example.read(), example.shape
    named = 1 if isinstance(adapter, OftInput) else 2  # shared rotations have no shape of their own
    double = tuple(n * 2 for n in shape)
    wrong = [double, (shape[0] * 2, *shape[1:]), ()]
    if len(shape) > 1:
        wrong += [(*shape, 3), (shape[0] // 2, shape[1] * 2, *shape[2:]), (shape[0] * shape[1], 1, *shape[2:])]
    for other in wrong:
        if fits_any(adapter, other):
            continue
        with pytest.raises(ShapeMismatch, match=str(list(other)).replace("[", r"\[")) as caught:
            adapter.check_shape(other)
        assert len(re.findall(r"[\[(]\d*[,\])]", str(caught.value))) >= named


def fits_any(adapter, shape):
    """Row rotations, scalings, biases and spectra say nothing of the width, OFTv2 and mini MiSS nothing of the rows."""
    try:
        adapter.check_shape(shape)
    except ShapeMismatch:
        return False
    free = isinstance(adapter, Spectral) or getattr(adapter, "mini", False)
    return adapter.needs_weight or not adapter.has_weight or free


@every_example
def test_a_cut_adapter_is_still_one(example):
    adapter, base = example.read(), weight(example.shape)
    assert all(adapter.truncate(rank) is adapter for rank in (0, adapter.rank or 0, 10_000))
    cut = adapter.truncate(1)
    cut.check_shape(example.shape)
    assert cut.delta(base).shape == base.shape
    if cut is not adapter:
        assert cut.rank == 1


def test_no_two_algorithms_may_claim_the_same_tensors():
    with pytest.raises(UnknownAlgorithm, match="LoHa and LoRA"):
        select_algorithm({**dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), (2, 2)),
                "lora_up.weight": (2, 2), "lora_down.weight": (2, 2)})  # fmt: skip
    with pytest.raises(UnknownAlgorithm, match="no algorithm"):
        select_algorithm({"alpha": ()})
