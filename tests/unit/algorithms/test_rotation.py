"""Rotations of weights against their slow definitions, on every kind of view, and what is refused."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import ShapeMismatch, UnknownAlgorithm
from lib_adapters.ops.orthogonal import clip_norm, clip_norm_kohya, top_singular_factors
from tests.support.algorithm_examples_rotation import rotations

EXAMPLES = rotations()
every_rotation = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
STRENGTHS = (1.0, 0.5, -1.0, 2.0)


def weight(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(ours, slow):
    torch.testing.assert_close(ours.double(), slow, rtol=1e-5, atol=1e-5 * float(slow.abs().max()) + 1e-12)


@every_rotation
@pytest.mark.parametrize("strength", STRENGTHS)
def test_is_its_slow_definition(example, strength):
    adapter, base = example.read(), weight(example.shape)
    adapter.check_shape(example.shape)
    kept = base.clone()
    same(adapter.delta_at(base, strength), example.slow(base.double(), strength))
    assert torch.equal(base, kept)


@every_rotation
def test_adds_to_any_view(example):
    adapter, base = example.read(), weight(example.shape)
    expected = adapter.delta_at(base, 0.5)
    fused = torch.ones(40, *example.shape[1:])
    transposed = torch.ones(example.shape[::-1]).permute(*reversed(range(len(example.shape))))
    views = [torch.ones(example.shape), fused[3 : 3 + len(base)], transposed]
    if len(example.shape) == 4:
        views.append(torch.ones(example.shape).to(memory_format=torch.channels_last))
    for out in views:
        for read in (base, torch.empty_like(transposed).copy_(base)):
            out.fill_(1.0)
            adapter.add_delta_(out, read, 0.5)
            torch.testing.assert_close(out - 1.0, expected, rtol=1e-5, atol=1e-5)
    fused[3 : 3 + len(base)] = 1.0
    assert torch.equal(fused, torch.ones_like(fused))


@every_rotation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_files_are_computed_in_float32(example, dtype):
    half, base = example.read(dtype), weight(example.shape)
    full = example._replace(leaves={name: leaf.to(dtype) for name, leaf in example.leaves.items()}).read(torch.float32)
    torch.testing.assert_close(half.delta(base), full.delta(base), rtol=0, atol=0)


@every_rotation
def test_other_widths_are_refused_with_both_shapes(example):
    adapter = example.read()
    for wrong in ((8, *example.shape[1:]), (12, 10, *example.shape[2:]), (16,), ()):
        if wrong[1:] == example.shape[1:] and "oft_R.weight" in example.leaves:
            continue  # the rows are free there
        with pytest.raises(ShapeMismatch, match=str(list(wrong)).replace("[", r"\[")):
            adapter.check_shape(wrong)


def test_a_small_rotation_keeps_its_digits():
    blocks, base = torch.randn(4, 4, 4) * 1e-5, weight((16, 12))
    adapter = select_algorithm({"oft_blocks": (4, 4, 4)}).from_tensors({"oft_blocks": blocks}, TrainingInfo())
    q = (blocks - blocks.mT).double()
    turn = 2 * -q @ torch.linalg.inv(torch.eye(4).double() + q)
    same(adapter.delta(base), (torch.block_diag(*turn) @ base.double()))


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (12, 12)], ids=str)
def test_the_top_of_a_weight_is_exact_also_where_its_last_values_are_small(shape):
    left, right = (torch.linalg.qr(weight((n, 12), n).double())[0] for n in shape)
    values = 10.0 ** -torch.arange(12).double() * 10
    up, down = top_singular_factors((left * values @ right.T).float(), 4)
    same(up @ down, left[:, :4] * values[:4] @ right.T[:4])
    assert float((left[:, 3] @ (up @ down).double() @ right[:, 3]).item()) == pytest.approx(0.01, rel=1e-3)


def test_next_to_no_rotation_is_bounded_with_the_trainers_epsilon():
    q = torch.zeros(1, 2, 2)
    q[0, 0, 1] = 1e-8
    for ours, trainers in (
        (clip_norm(q, 1e-8), q / 2),  # LyCORIS
        (clip_norm(q, 1e-9), q / 20),
        (clip_norm_kohya(q, 0.0), q / 2),  # kohya
        (clip_norm_kohya(q, 1e-9), q * 0.55),
    ):
        torch.testing.assert_close(ours, trainers, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("kohya", "left"), [(False, 1), (True, 2)])
def test_each_trainers_rotation_has_its_own_epsilon(kohya, left):
    blocks = torch.tensor([[[0.0, 1e-8], [0.0, 0.0]]])
    leaves = {"oft_blocks": blocks, "alpha": torch.tensor(0.5e-8)}
    adapter = select_algorithm({"oft_blocks": (1, 2, 2)}).from_tensors(leaves, TrainingInfo(constraint_is_bound=kohya))
    expected = 2 * (blocks.mT - blocks) * left / (1 + 2**0.5)
    torch.testing.assert_close(adapter.turn(), expected, rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize(
    "shapes",
    [
        {"oft_blocks": (4, 4, 5)},
        {"oft_blocks": (4, 4, 4), "rescale": (15, 1)},
        {"oft_blocks": (4, 4, 4), "rescale": (16, 2)},
        {"oft_blocks": (4, 4, 4), "rescale": (1, 16)},
        {"oft_blocks": (2, 2, 8, 8), "rescale": (64, 1)},
        {"oft_blocks": (1, 1, 1), "rescale": ()},
        {"oft_blocks": (4, 0, 0)},
        {"oft_diag": (4, 3, 4)},
        {"oft_blocks": (3, 4, 4, 5)},
        {"oft_blocks": (3, 4, 3, 3)},
        {"oft_blocks": (2, 3, 4, 4)},
        {"oft_blocks": (2, 4, 4, 4)},
        {"oft_R.weight": (3, 7)},
        {"oft_R.weight": (12,)},
        {"oft_R.weight": (0, 6)},
        {"p_layer.weight": (16, 3), "lambda_layer": (1, 3), "q_layer.weight": (4, 12)},
        {"p_layer.weight": (16, 3), "lambda_layer": (1, 3), "q_layer.weight": (3, 12, 3, 1)},
        {"p_layer.weight": (16, 3, 3, 1), "lambda_layer": (1, 3), "q_layer.weight": (3, 12)},
        {"p_layer.weight": (16,), "lambda_layer": (1, 3), "q_layer.weight": (3, 12)},
        {"p_layer.weight": (16, 3), "lambda_layer": (1, 3), "q_layer.weight": (3,)},
        {"p_layer.weight": (16, 3), "lambda_layer": (3, 1), "q_layer.weight": (3, 12)},
        {"P_basis": (16, 3), "S_p": (3, 3), "lambda_layer": (1, 3), "S_q": (2, 2), "Q_basis": (3, 12)},
        {"P_basis": (16, 3), "S_p": (3, 3), "lambda_layer": (1, 3), "S_q": (3, 3), "Q_basis": (3,)},
    ],
    ids=str,
)
def test_contradictions_are_refused(shapes):
    with pytest.raises(ShapeMismatch, match=r"\["):
        select_algorithm(shapes).from_tensors(
            {name: torch.ones(shape) for name, shape in shapes.items()}, TrainingInfo()
        )


ORTHO = {"P_basis": (16, 3), "S_p": (3, 3), "lambda_layer": (1, 3), "S_q": (3, 3), "Q_basis": (3, 12)}
TRIPLE = {"p_layer.weight": (16, 3), "lambda_layer": (1, 3), "q_layer.weight": (3, 12)}
START = {"base_p": (16, 3), "base_lambda": (1, 3), "base_q": (3, 12)}


@pytest.mark.parametrize(
    ("own", "companions", "label"),
    [
        ({"oft_blocks": (4, 4, 4)}, {"alpha": (), "rescale": (16, 1)}, "OFT"),
        ({"oft_blocks": (3, 4, 4, 4)}, {"alpha": (), "rescale": (16, 1)}, "BOFT"),
        ({"oft_diag": (4, 4, 4)}, {"alpha": ()}, "OFT"),
        ({"oft_diag": (3, 4, 4, 4)}, {"alpha": ()}, "BOFT"),
        ({"oft_R.weight": (3, 6)}, {"alpha": (), "oft_R.scaled_oft": ()}, "OFT (input)"),
        (ORTHO, {"alpha": ()}, "OrthoLoRA"),
        (TRIPLE, {"alpha": (), **START}, "T-LoRA"),
        ({"weight": (6,)}, {"alpha": (), "on_input": ()}, "IA3"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_companions_that_nobody_trained_are_not_claimed(own, companions, label):
    assert select_algorithm(own).label == label
    assert select_algorithm(own | companions).label == label
    for stranger in ("dora_scale", "lora_mid.weight"):
        with pytest.raises(UnknownAlgorithm, match=stranger):
            select_algorithm(own | {stranger: (16, 1)})
    if len(own) > 1:
        with pytest.raises(UnknownAlgorithm, match="no algorithm"):
            select_algorithm(dict(list(own.items())[1:]))


@pytest.mark.parametrize("blocks", [(2, 8, 8), (8, 2, 2), (2, 2, 8, 8), (1, 1, 16, 16)], ids=str)
def test_a_bound_is_for_all_rows_together_and_a_rescale_has_one_number_for_each(blocks):
    leaves = {"oft_blocks": torch.zeros(blocks), "alpha": torch.tensor(0.5), "rescale": torch.full((16, 1), 3.0)}
    adapter = select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(
        leaves, TrainingInfo()
    )
    assert adapter.bound == 8.0
    torch.testing.assert_close(adapter.delta(weight((16, 12))), 2 * weight((16, 12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("size", [2, 8])
def test_a_rotation_and_what_it_adds_are_told_apart_in_every_type(size, dtype):
    q = weight((64, size, size)).triu(1)
    turns = torch.matrix_exp((q - q.mT) / 10)
    for stored, offset in ((turns, False), (turns - torch.eye(size), True)):
        leaves = {"oft_diag": stored.to(dtype)}
        assert select_algorithm({"oft_diag": stored.shape}).from_tensors(leaves, TrainingInfo()).is_offset == offset


def test_a_column_rescale_is_for_square_layers():
    adapter = select_algorithm({"oft_blocks": (4, 4, 4), "rescale": (16,)}).from_tensors(
        {"oft_blocks": torch.zeros(4, 4, 4), "rescale": torch.ones(16)}, TrainingInfo()
    )
    adapter.check_shape((16, 16))
    with pytest.raises(ShapeMismatch, match="square"):
        adapter.check_shape((16, 12))


def test_input_rotations_are_one_for_all_blocks_or_one_for_each():
    for count, fits in ((1, True), (2, False), (3, True), (4, False)):
        adapter = select_algorithm({"oft_R.weight": (count, 6)}).from_tensors(
            {"oft_R.weight": torch.zeros(count, 6)}, TrainingInfo()
        )
        if fits:
            adapter.check_shape((16, 12))
            continue
        with pytest.raises(ShapeMismatch, match=rf"{count} input rotations of 4 columns .* \[16, 12\]"):
            adapter.check_shape((16, 12))


def test_what_depends_on_the_weight_alone_is_computed_once():
    adapter, base = EXAMPLES["tlora"].read(), weight((16, 12))
    settled = adapter.precompute(base)
    for other in (base, torch.zeros_like(base)):
        torch.testing.assert_close(settled.delta(other), adapter.delta(base), rtol=1e-5, atol=1e-5)
    assert settled.precompute(weight((16, 12), 1)) is settled
    stored = EXAMPLES["tlora-stored"].read()
    assert stored.precompute(base) is stored


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 3), (2, 2)])
def test_peft_rotates_patches_which_is_no_change_of_a_weight(kernel):
    shared = EXAMPLES["input-shared"]
    shared.read().check_shape((16, 12, *kernel))
    with pytest.raises(ShapeMismatch, match="patches"):
        shared._replace(facts=TrainingInfo(producer="peft")).read().check_shape((16, 12, *kernel))


@pytest.mark.parametrize(
    ("facts", "turned"),
    [
        (TrainingInfo(constraint_is_bound=True, trained_at=1.72e9), True),
        (TrainingInfo(constraint_is_bound=True, trained_at=1.73e9), False),
        (TrainingInfo(constraint_is_bound=True), False),
        (TrainingInfo(trained_at=1.72e9), False),
        (TrainingInfo(bypass_mode=True), True),
    ],
)
def test_the_bias_turns_where_the_trainer_turned_the_output(facts, turned):
    example, bias = EXAMPLES["oft-loose"], weight(16)
    adapter = example._replace(facts=facts).read()
    assert adapter.has_bias is turned
    change = adapter.bias_delta(bias)
    if not turned:
        assert change is None
        return
    same(change, example.slow(bias.double().unsqueeze(1), 1.0).squeeze(1))


@pytest.mark.parametrize("turned", [True, False])
def test_boft_turns_the_bias_where_the_trainer_turned_the_output(turned):
    example, bias = EXAMPLES["boft"], weight(16)
    adapter = example._replace(facts=TrainingInfo(bypass_mode=turned)).read()
    assert adapter.has_bias is turned
    change = adapter.bias_delta(bias)
    if turned:
        same(change, example.slow(bias.double().unsqueeze(1), 1.0).squeeze(1))
    else:
        assert change is None


def test_the_rank_of_a_rotation_is_the_size_of_its_blocks():
    assert [EXAMPLES[name].read().rank for name in ("oft", "oft-few", "boft", "boft-few")] == [4, 8, 4, 8]


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 3), (2, 2)])
def test_tlora_is_no_change_of_a_wider_convolution(kernel):
    with pytest.raises(ShapeMismatch, match="1x1"):
        EXAMPLES["tlora-conv"].read().check_shape((16, 12, *kernel))


def test_tlora_with_half_a_start_is_refused():
    example = EXAMPLES["tlora-stored"]
    with pytest.raises(ShapeMismatch, match="incomplete"):
        example._replace(leaves={k: v for k, v in example.leaves.items() if k != "base_q"}).read()


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", ["tlora", "tlora-stored", "ortholora"])
def test_truncation_is_the_trainers_mask(name, rank):
    """λ and λ₀ after the first values are zero; alpha/r stays."""
    example, mask = EXAMPLES[name], torch.arange(3) < rank
    masked = {leaf: value * mask if "lambda" in leaf else value for leaf, value in example.leaves.items()}
    base = weight(example.shape)
    cut = example.read().truncate(rank)
    assert cut.rank == rank
    expected = example._replace(leaves=masked).read().delta(base)
    if name == "tlora":  # its λ₀ is not in the file
        u, s, v = torch.linalg.svd(base)
        expected += 0.5 * (u[:, rank:3] * s[rank:3]) @ v[rank:3]
    torch.testing.assert_close(cut.delta(base), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tlora", "tlora-conv", "tlora-stored", "ortholora"])
def test_thin_factors_are_the_same_delta(name):
    example = EXAMPLES[name]
    adapter, base = example.read(), weight(example.shape)
    pair = adapter.as_low_rank(base)
    same((pair.scale * pair.up @ pair.down).view(base.shape), example.slow(base.double(), 1.0))
