"""What the contract tests do not reach: biases, cut ranks, ambiguous conventions, contradicting tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import CorruptFile, ShapeMismatch, UnknownAlgorithm
from lib_adapters.files.training_metadata import read_training_info

UP, DOWN, WIDE = torch.randn(6, 4), torch.randn(4, 8), torch.randn(4, 8, 3, 3)
LORA = {"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.tensor(2.0)}
LOHA = {"hada_w1_a": UP, "hada_w1_b": DOWN, "hada_w2_a": UP, "hada_w2_b": DOWN}
TUCKER = {"hada_w1_a": UP.T, "hada_w1_b": DOWN, "hada_w2_a": UP.T, "hada_w2_b": DOWN}
CORE = torch.randn(4, 4, 3, 3)
GLORA = {"a1.weight": DOWN.T, "a2.weight": DOWN, "b1.weight": UP, "b2.weight": DOWN}
ABBA = {"lora_up1.weight": UP, "lora_down1.weight": DOWN, "lora_up2.weight": UP, "lora_down2.weight": DOWN}
SPARSE = {"bias_values": torch.ones(2), "bias_size": torch.tensor([6, 8])}


def read(leaves, facts=None):
    return select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(
        leaves, facts or TrainingInfo()
    )


@pytest.mark.parametrize(
    ("facts", "full", "cut"),
    [
        (TrainingInfo(producer="kohya"), 0.5, 0.5),
        (TrainingInfo(producer="kohya", algo="dylora"), 0.5, 0.5 * math.sqrt(4 / 2)),
        (TrainingInfo(producer="lycoris", algo="dylora", block_size=2), 2 * 2.0 / 4, 2.0 / 1),
    ],
    ids=["lora", "kohya-dylora", "lycoris-dylora"],
)
def test_a_cut_rank_has_the_scale_it_was_trained_with(facts, full, cut):
    adapter, base = read(LORA, facts), torch.zeros(6, 8)
    torch.testing.assert_close(adapter.delta(base), UP @ DOWN * full)
    torch.testing.assert_close(adapter.truncate(2).delta(base), UP[:, :2] @ DOWN[:2] * cut)
    assert adapter.truncate(2).rank == 2


@pytest.mark.parametrize("alpha", [math.inf, -math.inf, math.nan, 4.1e9, -4.1e9])
def test_an_alpha_that_nobody_trained_is_damage(alpha):
    with pytest.raises(CorruptFile, match="its alpha is damaged"):
        read(LORA | {"alpha": torch.tensor(alpha)})
    assert read(LORA | {"alpha": torch.tensor(math.copysign(4e9, 0.0 if math.isnan(alpha) else alpha))}).rank == 4


DAYS = {"before": 1712275199.0, "from": 1712275200.0, "last": 1720483199.0, "fixed": 1720483200.0}


@pytest.mark.parametrize(
    ("facts", "grown"),
    [
        (TrainingInfo(rs_lora=True), 1.0),
        (TrainingInfo(rs_lora=True, producer="peft"), 2.0),
        (TrainingInfo(rs_lora=True, trained_at=DAYS["before"]), 1.0),
        (TrainingInfo(rs_lora=True, trained_at=DAYS["from"]), 2.0),
        (TrainingInfo(rs_lora=True, trained_at=DAYS["last"]), 2.0),
        (TrainingInfo(rs_lora=True, trained_at=DAYS["fixed"]), 1.0),
        (TrainingInfo(producer="peft", trained_at=DAYS["from"]), 1.0),
        (TrainingInfo(rs_lora=True, producer="peft", overrides={"neumann_last_term": 2.0}), 2.0),
    ],
)
def test_rank_stabilised_files_whose_alpha_is_nominal(facts, grown):
    assert read(LORA, facts).scale == 0.5 * grown


def test_kohyas_dylora_is_told_by_its_module_and_keeps_its_alpha():
    facts = read_training_info({"ss_network_module": "networks.dylora", "ss_network_args": '{"unit": "2"}'}, (), {})
    assert read(LORA, facts).scale == 0.5
    assert read(LORA, facts).truncate(1).scale == 1.0


def test_a_scale_that_is_given_is_the_whole_factor():
    """Neither the blocks of a DyLoRA nor the parts of a split matrix multiply it."""
    thirds = {"lora_up.weight": torch.eye(6, 3), "lora_down.weight": torch.ones(3, 8), "alpha": torch.tensor(2.0)}
    for leaves, facts in ((LORA, TrainingInfo(algo="dylora", block_size=2)), (thirds, TrainingInfo(split_qkv=True))):
        assert read(leaves | {"scale": torch.tensor(0.25)}, facts).scale == 0.25
        assert read(leaves, replace(facts, overrides={"scale": 0.25})).scale == 0.25


def test_a_cut_core_is_cut_on_both_axes():
    leaves = {"lora_up.weight": UP, "lora_down.weight": DOWN, "lora_mid.weight": CORE}
    cut = read(leaves).truncate(2).delta(torch.zeros(6, 8, 3, 3))
    torch.testing.assert_close(cut, torch.einsum("op,pqxy,qi->oixy", UP[:, :2], CORE[:2, :2], DOWN[:2]))


def test_biases_of_both_factors_are_scaled():
    up, down = torch.randn(6), torch.randn(4)
    adapter = read(LORA | {"lora_up.bias": up, "lora_down.bias": down})
    assert adapter.has_bias
    torch.testing.assert_close(adapter.bias_delta(torch.randn(6)), 0.5 * (up + UP @ down))
    torch.testing.assert_close(adapter.truncate(1).bias_delta(torch.zeros(6)), 0.5 * (up + UP[:, 0] * down[0]))
    assert not read(LORA).has_bias
    assert read(LORA).bias_delta(torch.zeros(6)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("up", [UP, UP[:, :, None, None]], ids=["line", "point"])
def test_biases_of_any_type_are_computed_in_float32(dtype, up):
    leaves = {"lora_up.weight": up, "lora_down.weight": DOWN, "lora_up.bias": torch.randn(6)}
    leaves |= {"lora_down.bias": torch.randn(4), "diff_b": torch.randn(6)}
    stored = {name: leaf.to(dtype) for name, leaf in leaves.items()}
    expected = read({name: leaf.float() for name, leaf in stored.items()}).bias_delta(torch.zeros(6))
    torch.testing.assert_close(read(stored).bias_delta(torch.zeros(6)), expected)
    for one in ("lora_up.bias", "lora_down.bias", "diff_b"):
        assert read(LORA | {one: leaves[one]}).has_bias


def test_a_bias_difference_beside_a_pair_is_added_as_it_is():
    difference = torch.randn(6)
    adapter = read(LORA | {"diff_b": difference})
    assert adapter.label == "LoRA"
    torch.testing.assert_close(adapter.bias_delta(torch.zeros(6)), difference)
    torch.testing.assert_close(adapter.delta(torch.zeros(6, 8)), UP @ DOWN * 0.5)


def test_the_rank_of_two_products_is_that_of_both():
    assert (read(LORA).rank, read(ABBA).rank, read({"lokr_w1": UP, "lokr_w2": UP}).rank) == (4, 8, None)
    thin, thinner = {"a": torch.ones(6, 3), "b": torch.ones(3, 8)}, {"a": torch.ones(6, 2), "b": torch.ones(2, 8)}
    first, second = ({f"lokr_{w}_{k}": v for k, v in part.items()} for w, part in (("w1", thin), ("w2", thinner)))
    kinds = (first | {"lokr_w2": UP}, second | {"lokr_w1": UP}, first | second)
    assert [read(leaves).rank for leaves in kinds] == [3, 2, 2]


def test_a_factor_of_one_number_moves_with_the_others():
    factors = {"lokr_w1": torch.ones(1, 1), "lokr_w2": torch.randn(6, 8)}
    moved = read(factors).to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}


@pytest.mark.parametrize(
    ("started", "bypass", "scaled"),
    [(0.0, False, True), (1.69e9, False, True), (1.73e9, False, False), (1.73e9, True, True)],
)
def test_ia3_scales_the_bias_where_its_trainer_scaled_the_output(started, bypass, scaled):
    adapter = read({"weight": torch.full((6,), 0.5)}, TrainingInfo(trained_at=started, bypass_mode=bypass))
    change = adapter.bias_delta(torch.ones(6))
    assert adapter.has_bias == scaled
    assert change is None if not scaled else torch.equal(change, torch.full((6,), 0.5))


def test_ia3_on_the_input_has_no_bias_to_scale():
    adapter = read({"weight": torch.ones(6), "on_input": torch.tensor(1)})
    assert not adapter.has_bias
    assert adapter.bias_delta(torch.ones(6)) is None


@pytest.mark.parametrize("parts", [3, 4])
def test_an_alpha_of_one_part_is_that_of_a_split_matrix(parts):
    up = torch.block_diag(*(torch.randn(2, 2) for _ in range(parts)))
    leaves = {"lora_up.weight": up, "lora_down.weight": torch.randn(2 * parts, 8), "alpha": torch.tensor(1.0)}
    assert read(leaves, TrainingInfo(split_qkv=True)).scale == pytest.approx(1 / 2)
    assert read(leaves).scale == pytest.approx(1 / 2 / parts)


@pytest.mark.parametrize(
    ("up", "parts"),
    [
        (torch.eye(6, 3), 3),
        (torch.eye(2, 3), 3),  # the last one was never trained
        (torch.eye(1, 3), 1),
        (torch.ones(3, 3) - torch.eye(3), 1),
        (UP, 1),
        (torch.block_diag(torch.ones(3, 2), torch.ones(3, 2)), 1),
    ],
)
def test_the_parts_of_a_split_matrix_have_rows_of_their_own(up, parts):
    leaves = {"lora_up.weight": up, "lora_down.weight": torch.ones(up.shape[1], 8)}
    assert read(leaves, TrainingInfo(split_qkv=True)).scale == parts


def test_a_bias_alone_leaves_the_weight():
    adapter = read({"diff_b": torch.ones(6, dtype=torch.float16)})
    assert (adapter.has_weight, adapter.has_bias) == (False, True)
    assert torch.equal(adapter.bias_delta(torch.zeros(6)), torch.ones(6))
    with pytest.raises(ShapeMismatch, match=r"\[6\].*\[7, 8\]"):
        adapter.check_shape((7, 8))


def test_a_norm_has_a_bias_of_its_own():
    adapter = read({"w_norm": torch.ones(6), "b_norm": torch.full((6,), 2.0)})
    assert torch.equal(adapter.bias_delta(torch.randn(6)), torch.full((6,), 2.0))


@pytest.mark.parametrize("name", ["lora", "loha", "lokr", "glora", "full", "dora-rows", "dora-columns"])
def test_weights_larger_than_a_block_are_done_to_the_last_row(name):
    o, i = 70, 900  # with its kernel 3 blocks, the last one short
    up, down = torch.randn(o, 2), torch.randn(2, i, 3, 3)
    lora = {"lora_up.weight": up, "lora_down.weight": down}
    mixed, diff = torch.randn(2, i) * 0.1, torch.randn(o, i, 3, 3, dtype=torch.float16)
    whole = (up @ down.flatten(1)).view(o, i, 3, 3)
    base = torch.randn(o, i, 3, 3)
    v = base + whole
    cases = {
        "lora": (lora, whole),
        "loha": ({"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": up, "hada_w2_b": down}, whole**2),
        "lokr": ({"lokr_w1": up[:35], "lokr_w2": down[:, :450]}, torch.kron(up[:35, :, None, None], down[:, :450])),
        "glora": (
            {"a1.weight": mixed.T, "a2.weight": mixed, "b1.weight": up, "b2.weight": down},
            whole + torch.einsum("oixy,ij->ojxy", base, mixed.T @ mixed),
        ),
        "full": ({"diff": diff}, diff.float()),
        "dora-rows": (
            lora | {"dora_scale": torch.ones(o, 1, 1, 1)},
            v / v.flatten(1).norm(dim=1).view(o, 1, 1, 1) - base,
        ),
        "dora-columns": (
            lora | {"dora_scale": torch.ones(1, i, 1, 1)},
            v / v.transpose(0, 1).flatten(1).norm(dim=1).view(1, i, 1, 1) - base,
        ),
    }
    leaves, expected = cases[name]
    adapter = read(leaves)
    torch.testing.assert_close(adapter.delta(base), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapter.merged(base, 0.5), base + 0.5 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("started", "new"), [(0.0, True), (1.70e9, False), (1.75e9, True)])
def test_glora_of_square_factors_is_told_by_its_date(started, new):
    a1, a2, b1, b2 = (torch.randn(4, 4) for _ in range(4))
    leaves = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2}
    base = torch.randn(4, 4)
    expected = b1 @ b2 + base @ a1 @ a2 if new else b2 @ b1 + base @ a2 @ a1
    torch.testing.assert_close(read(leaves, TrainingInfo(trained_at=started)).delta(base), expected)
    points = {name: leaf[:, :, None, None] for name, leaf in leaves.items()}
    torch.testing.assert_close(read(points, TrainingInfo(trained_at=started)).delta(base), expected)


@pytest.mark.parametrize("started", [0.0, 1.69e9, 1.75e9])
@pytest.mark.parametrize("new", [True, False])
def test_glora_of_a_square_layer_is_told_by_its_rank(new, started):
    up, down = torch.randn(5, 2), torch.randn(2, 5)
    factors = (up, down, up, down) if new else (down, up, down, up)
    leaves = {f"{name}.weight": factor for name, factor in zip(("a1", "a2", "b1", "b2"), factors, strict=True)}
    base = torch.randn(5, 5)
    torch.testing.assert_close(read(leaves, TrainingInfo(trained_at=started)).delta(base), up @ down + base @ up @ down)


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_a_square_layer_is_decomposed_along_the_axis_of_the_magnitude(kind):
    base, magnitude = torch.randn(5, 5), torch.rand(5) + 0.5
    up, down = torch.randn(5, 2), torch.randn(2, 5)
    stored = magnitude.view((5, 1) if kind == "rows" else (1, 5))
    adapter = read({"lora_up.weight": up, "lora_down.weight": down, "dora_scale": stored})
    v = base + up @ down
    expected = v * stored / v.norm(dim=1 if kind == "rows" else 0, keepdim=True)
    torch.testing.assert_close(base + adapter.delta(base), expected)


@pytest.mark.parametrize(("producer", "axis"), [("peft", 0), ("diffusers", 0), ("lycoris", 1), ("", 1)])
def test_a_flat_magnitude_on_a_square_layer_is_along_its_producers_axis(producer, axis):
    stored = torch.rand(1, 5) + 0.5
    leaves = {"lora_up.weight": torch.zeros(5, 2), "lora_down.weight": torch.randn(2, 5), "dora_scale": stored}
    base = torch.randn(5, 5)
    expected = base * stored.view((5, 1) if axis == 0 else (1, 5)) / base.norm(dim=1 - axis, keepdim=True)
    torch.testing.assert_close(base + read(leaves, TrainingInfo(producer=producer)).delta(base), expected)


def test_a_cut_rank_is_cut_below_a_magnitude_too():
    stored, base = {"dora_scale": torch.rand(6, 1)}, torch.randn(6, 8)
    thin = {"lora_up.weight": UP[:, :2], "lora_down.weight": DOWN[:2], "alpha": torch.tensor(1.0)}
    torch.testing.assert_close(read(LORA | stored).truncate(2).delta(base), read(thin | stored).delta(base))


def test_glora_of_which_one_convention_alone_fits_is_that_one_whatever_its_date():
    a1, a2, b1, b2, base = (torch.randn(n, 4) for n in (4, 4, 6, 4, 6))
    leaves = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2}
    for started in (0.0, 1.70e9, 1.75e9):
        found = read(leaves, TrainingInfo(trained_at=started)).delta(base)
        torch.testing.assert_close(found, b1 @ b2 + base @ a1 @ a2)


@pytest.mark.parametrize("leaf", ["lokr_w1", "lokr_w2", "hada_w1_a", "lora_up.weight", "a1.weight", "dora_scale"])
def test_half_of_an_algorithm_is_none(leaf):
    with pytest.raises(UnknownAlgorithm, match=leaf):
        select_algorithm({leaf: (4, 4)})


def test_rows_of_zeros_stay_finite():
    leaves = {"lora_up.weight": torch.zeros(6, 4), "lora_down.weight": DOWN, "dora_scale": torch.zeros(6, 1)}
    assert torch.equal(read(leaves).delta(torch.zeros(6, 8)), torch.zeros(6, 8))


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_the_norm_of_next_to_nothing_has_the_trainers_epsilon(axis):
    eps, shape = torch.finfo(torch.float32).eps, (8, 8)
    stored = torch.ones(8).view((8, 1) if axis == 0 else (1, 8))
    adapter = read({"lora_up.weight": torch.zeros(8, 4), "lora_down.weight": DOWN, "dora_scale": stored})
    base = torch.full(shape, eps / math.sqrt(8))  # every norm is eps
    expected = base / (2 * eps)
    torch.testing.assert_close(adapter.delta(base), expected)
    torch.testing.assert_close(adapter.merged(base, 1.0), expected)
