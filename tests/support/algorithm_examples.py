"""One example at least per registered algorithm, with its slow definition: entry by entry, from the formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lib_adapters.algorithms.base import TrainingInfo
from tests.support.algorithm_examples_peft import tuners
from tests.support.algorithm_examples_peft_seeded import seeded
from tests.support.algorithm_examples_rotation import rotations, thin
from tests.support.algorithm_examples_shared_shapes import wide
from tests.support.reference_math import (
    CONV,
    LINE,
    POINT,
    Example,
    additive,
    decomposed,
    entries,
    glora,
    kron,
    pair,
    times,
)


def loras() -> dict[str, Example]:
    up, down, mid = torch.randn(6, 2), torch.randn(2, 8), torch.randn(2, 2, 3, 2)
    wide, alpha = torch.randn(2, 8, 3, 2), torch.tensor(3.0)
    spots, dense = torch.tensor([[0, 5, 2], [1, 7, 3]], dtype=torch.int16), torch.zeros(6, 8)
    values = torch.tensor([0.5, -2.0, 1.5], dtype=torch.float16)
    dense[spots[0].long(), spots[1].long()] = values.float()
    far, scattered = torch.tensor([[0, 5, 2], [1, 47, 27]], dtype=torch.int16), torch.zeros(6, 48).double()
    scattered[far[0].long(), far[1].long()] = values.double()
    split = torch.block_diag(*(torch.randn(2, 1) for _ in range(3)))
    three = torch.randn(3, 8)
    line, conv = {"lora_up.weight": up, "lora_down.weight": down}, {"lora_up.weight": up, "lora_down.weight": wide}
    thin = {"lora_up.weight": up[:, :, None, None], "lora_down.weight": down[:, :, None, None]}
    flat = {"lora_up.weight": up, "lora_down.weight": wide.flatten(1)}
    one, spatial = pair(up, down), pair(up, wide)
    grown = math.sqrt(2)
    dylora = TrainingInfo(producer="lycoris", algo="dylora", block_size=2)
    return {
        "lora": Example({**line, "alpha": alpha}, LINE, additive(LINE, times(1.5, one))),
        "lora-no-alpha": Example(line, LINE, additive(LINE, one)),
        "lora-integer-alpha": Example({**line, "alpha": torch.tensor([4])}, LINE, additive(LINE, times(2.0, one))),
        "lora-zero-alpha": Example({**line, "alpha": torch.tensor(0.0)}, LINE, additive(LINE, times(0.0, one))),
        "lora-scale": Example({**line, "scale": torch.tensor(0.7)}, LINE, additive(LINE, times(0.7, one))),
        "lora-scalar": Example({**line, "scalar": torch.tensor(0.7)}, LINE, additive(LINE, times(0.7, one))),
        "lora-override": Example(
            {**line, "alpha": alpha}, LINE, additive(LINE, times(0.4, one)), TrainingInfo(overrides={"scale": 0.4})
        ),
        "lora-rs-nominal": Example(
            {**line, "alpha": alpha}, LINE, additive(LINE, times(1.5 * grown, one)),
            TrainingInfo(rs_lora=True, trained_at=1.715e9),
        ),
        "lora-rs-corrected": Example(
            {**line, "alpha": alpha},
            LINE,
            additive(LINE, times(1.5, one)),
            TrainingInfo(rs_lora=True, trained_at=1.73e9)
        ),
        "lora-line-on-point": Example(line, POINT, additive(POINT, lambda o, i, *k: one(o, i))),
        "lora-point-on-line": Example(thin, LINE, additive(LINE, one)),
        "locon": Example({**conv, "alpha": alpha}, CONV, additive(CONV, times(1.5, spatial))),
        "locon-flat": Example(flat, CONV, additive(CONV, spatial)),
        "locon-tucker": Example({**thin, "lora_mid.weight": mid}, CONV, additive(CONV, pair(up, down, mid))),
        "dylora": Example({**line, "alpha": alpha}, LINE, additive(LINE, times(3.0, one)), dylora),
        "dylora-kohya": Example(
            {**line, "alpha": alpha}, LINE, additive(LINE, times(1.5, one)), dylora_of("kohya")
        ),
        "lora-split": Example(
            {"lora_up.weight": split, "lora_down.weight": three, "alpha": torch.tensor(1.0)},
            LINE, additive(LINE, pair(split, three)), TrainingInfo(split_qkv=True),
        ),
        "lora-not-split": Example(
            {**line, "alpha": alpha},
            LINE,
            additive(LINE, times(1.5, one)),
            TrainingInfo(split_qkv=True)
        ),
        "lora-sparse": Example(
            {**line, "alpha": alpha, "bias_indices": spots, "bias_values": values, "bias_size": torch.tensor([6, 8])},
            LINE, additive(LINE, lambda o, i: 1.5 * (one(o, i) + dense.double()[o, i])),
        ),
        "locon-sparse": Example(
            {**conv, "bias_indices": far, "bias_values": values, "bias_size": torch.tensor([6, 48])},
            CONV, additive(CONV, lambda o, i, x, y: spatial(o, i, x, y) + scattered[o, i * 6 + x * 2 + y]),
        ),
        "lora-dense": Example(
            {**line, "bias": dense}, LINE, additive(LINE, lambda o, i: one(o, i) + dense.double()[o, i])
        ),
    }  # fmt: skip


def dylora_of(producer: str) -> TrainingInfo:
    return TrainingInfo(producer=producer, algo="dylora", block_size=2)


def hadamards() -> dict[str, Example]:
    ups, downs = torch.randn(2, 6, 2), torch.randn(2, 2, 8)
    wides, cores = torch.randn(2, 2, 8, 3, 2), torch.randn(2, 2, 2, 3, 2)
    alpha = {"alpha": torch.tensor(3.0)}

    def leaves(*parts: Tensor) -> dict[str, Tensor]:
        return dict(
            zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), parts, strict=False)
        )

    def both(downs: Tensor, cores: tuple[Tensor | None, Tensor | None] = (None, None)) -> Callable[..., Tensor]:
        return times(1.0, *(pair(*parts) for parts in zip(ups, downs, cores, strict=True)))

    line = leaves(ups[0], downs[0], ups[1], downs[1]) | alpha
    flat = leaves(ups[0], wides[0].flatten(1), ups[1], wides[1].flatten(1))
    deep = leaves(ups[0][:, :, None, None], wides[0], ups[1][:, :, None, None], wides[1]) | alpha
    tucker = leaves(ups[0].T, downs[0], ups[1].T, downs[1], cores[0], cores[1]) | alpha
    three = torch.randn(3, 8)
    abba = {
        "lora_up1.weight": ups[0], "lora_down1.weight": downs[0],
        "lora_up2.weight": torch.randn(6, 3), "lora_down2.weight": three,
    }  # fmt: skip
    product = times(1.0, pair(ups[0], downs[0]), pair(abba["lora_up2.weight"], three))
    spatial = abba | {"lora_up1.weight": ups[0][:, :, None, None], "lora_down1.weight": wides[0]}
    spatial |= {"lora_up2.weight": ups[1][:, :, None, None], "lora_down2.weight": wides[1]}
    return {
        "loha": Example(line, LINE, additive(LINE, times(1.5, both(downs)))),
        "loha-flat": Example(flat, CONV, additive(CONV, both(wides))),
        "loha-deep": Example(deep, CONV, additive(CONV, times(1.5, both(wides)))),
        "loha-tucker": Example(tucker, CONV, additive(CONV, times(1.5, both(downs, tuple(cores))))),
        "loha-tucker-old": Example(
            tucker, CONV, additive(CONV, times(1.5, both(downs, (cores[0], cores[0])))), TrainingInfo(trained_at=1.69e9)
        ),
        "abba": Example(abba | alpha, LINE, additive(LINE, times(9 / math.sqrt(6), product))),
        "abba-no-alpha": Example(abba, LINE, additive(LINE, product)),
        "abba-override": Example(
            abba | alpha, LINE, additive(LINE, times(0.4, product)), TrainingInfo(overrides={"scale": 0.4})
        ),
        "abba-other-override": Example(abba, LINE, additive(LINE, product), TrainingInfo(overrides={"unknown": 0.4})),
        "abba-conv": Example(spatial, CONV, additive(CONV, both(wides))),
    }


def kroneckers() -> dict[str, Example]:
    w1, w2, wide = torch.randn(2, 4), torch.randn(3, 2), torch.randn(3, 2, 3, 2)
    a, b, core = torch.randn(3, 2), torch.randn(2, 2), torch.randn(2, 2, 3, 2)
    a1, b1, bk = torch.randn(2, 1), torch.randn(1, 4), torch.randn(2, 2, 3, 2)
    alpha = {"alpha": torch.tensor(3.0)}
    thin, deep = {"lokr_w1": w1, "lokr_w2_a": a}, torch.einsum("br,rdxy->bdxy", a, bk)
    cored = torch.einsum("pqxy,bp,qd->bdxy", core, a, b)
    days = {"2": 1.71e9, "3": 1.73e9, "4": 1.79e9}
    bypass = {release: TrainingInfo(bypass_mode=True, trained_at=day) for release, day in days.items()}
    large = {"alpha": torch.tensor(1e10)}
    return {
        "lokr": Example({"lokr_w1": w1, "lokr_w2": w2, **large}, LINE, additive(LINE, kron(w1, w2))),
        "lokr-infinite": Example(
            {"lokr_w1": w1, "lokr_w2": wide, "alpha": torch.tensor(math.inf)}, CONV, additive(CONV, kron(w1, wide))
        ),
        "lokr-w2": Example({**thin, "lokr_w2_b": b, **alpha}, LINE, additive(LINE, times(1.5, kron(w1, a @ b)))),
        "lokr-flat": Example(
            {**thin, "lokr_w2_b": bk.flatten(1), **alpha}, CONV, additive(CONV, times(1.5, kron(w1, deep)))
        ),
        "lokr-deep": Example({**thin, "lokr_w2_b": bk, **alpha}, CONV, additive(CONV, times(1.5, kron(w1, deep)))),
        "lokr-tucker": Example(
            {"lokr_w1": w1, "lokr_w2_a": a.T, "lokr_w2_b": b, "lokr_t2": core, **alpha},
            CONV, additive(CONV, times(1.5, kron(w1, cored))),
        ),
        "lokr-w1": Example(
            {"lokr_w1_a": a1, "lokr_w1_b": b1, "lokr_w2": w2, **alpha}, LINE,
            additive(LINE, times(3, kron(a1 @ b1, w2))),
        ),
        "lokr-large-first": Example({"lokr_w1": wide[:, :, 0, 0], "lokr_w2": w1}, LINE,
                                    additive(LINE, kron(wide[:, :, 0, 0], w1))),
        "lokr-bypass-2": Example({**thin, "lokr_w2_b": b, **alpha}, LINE, additive(LINE, kron(w1, a @ b)), bypass["2"]),
        "lokr-bypass-2-conv": Example(
            {**thin, "lokr_w2_b": bk, **alpha}, CONV, additive(CONV, times(1.5, kron(w1, deep))), bypass["2"]
        ),
        "lokr-bypass-3": Example({**thin, "lokr_w2_b": b, **alpha}, LINE, additive(LINE, kron(w1, a @ b)), bypass["3"]),
        "lokr-bypass-4": Example(
            {**thin, "lokr_w2_b": b, **alpha}, LINE, additive(LINE, times(1.5, kron(w1, a @ b))), bypass["4"]
        ),
    }  # fmt: skip


def scalings() -> dict[str, Example]:
    rows, columns = torch.randn(6), torch.randn(8)
    diff, spatial = torch.randn(LINE), torch.randn(CONV)

    def by(vector: Tensor, axis: int) -> Callable[[Tensor, float], Tensor]:
        return lambda base, strength: (
            strength * entries(tuple(base.shape), lambda *index: vector.double()[index[axis]] * base[index])
        )

    def stored(values: Tensor) -> Callable[[Tensor, float], Tensor]:
        return lambda base, strength: strength * values.double().view(base.shape)

    def instead(values: Tensor) -> Callable[[Tensor, float], Tensor]:
        return lambda base, strength: strength * (values.double().view(base.shape) - base)

    on_input = {"on_input": torch.tensor(1)}
    return {
        "ia3": Example({"weight": rows, "on_input": torch.tensor(0)}, LINE, by(rows, 0)),
        "ia3-conv": Example({"weight": rows.view(1, 6, 1, 1), "on_input": torch.tensor(0)}, CONV, by(rows, 0)),
        "ia3-input": Example({"weight": columns, **on_input}, LINE, by(columns, 1)),
        "ia3-input-conv": Example({"weight": columns.view(1, 8, 1, 1), **on_input}, CONV, by(columns, 1)),
        "ia3-peft": Example({"ia3_l": rows.view(6, 1) + 1}, LINE, by(rows, 0)),
        "ia3-peft-input": Example({"ia3_l": columns.view(1, 8) + 1}, LINE, by(columns, 1)),
        "ia3-peft-conv": Example({"ia3_l": columns.view(1, 8, 1, 1) + 1}, CONV, by(columns, 1)),
        "full": Example({"diff": diff, "diff_b": rows}, LINE, stored(diff)),
        "full-conv": Example({"diff": spatial, "alpha": torch.tensor(3.0)}, CONV, stored(spatial)),
        "full-point": Example({"diff": diff}, POINT, stored(diff)),
        "full-bias": Example({"diff_b": rows}, LINE, stored(torch.zeros(LINE))),
        "norm": Example({"w_norm": rows, "b_norm": rows + 1}, (6,), stored(rows)),
        "norm-weight": Example({"w_norm": rows}, (6,), stored(rows)),
        "norm-bias": Example({"b_norm": rows}, (6,), stored(torch.zeros(6))),
        "whole": Example({"set_weight": diff, "set_bias": rows}, LINE, instead(diff)),
        "whole-conv": Example({"set_weight": spatial}, CONV, instead(spatial)),
        "whole-point": Example({"set_weight": diff}, POINT, instead(diff)),
        "whole-norm": Example({"set_weight": rows, "set_bias": rows + 1}, (6,), instead(rows)),
        "whole-bias": Example({"set_bias": rows}, LINE, stored(torch.zeros(LINE))),
    }


def gloras() -> dict[str, Example]:
    a_up, a_down, b_up, b_down = torch.randn(8, 2), torch.randn(2, 8), torch.randn(6, 2), torch.randn(2, 8)
    wide, core, a = torch.randn(2, 8, 3, 2), torch.randn(2, 2, 3, 2), pair(a_up, a_down)
    alpha = {"alpha": torch.tensor(3.0)}

    def leaves(new: bool, *tensors: Tensor) -> dict[str, Tensor]:
        order = ("a1", "a2", "b1", "b2") if new else ("a2", "a1", "b2", "b1")
        return {f"{name}.weight": tensor for name, tensor in zip(order, tensors, strict=True)} | alpha

    def slow(b: Callable[..., Tensor], scale: float) -> Callable[[Tensor, float], Tensor]:
        return lambda base, strength: strength * glora(base, a, b, scale)

    new, old = leaves(True, a_up, a_down, b_up, b_down), leaves(False, a_up, a_down, b_up, b_down)
    line, bypass = pair(b_up, b_down), TrainingInfo(bypass_mode=True, trained_at=1.73e9)
    thin = {name: leaf if name == "alpha" else leaf[:, :, None, None] for name, leaf in old.items()}
    return {
        "glora": Example(new, LINE, slow(line, 1.5)),
        "glora-rs": Example(new, LINE, slow(line, 1.5 * math.sqrt(2)), TrainingInfo(rs_lora=True, trained_at=1.75e9)),
        "glora-bypass": Example(new, LINE, slow(line, 2.25), bypass),
        "glora-conv": Example(leaves(True, a_up, a_down, b_up, wide), CONV, slow(pair(b_up, wide), 1.5)),
        "glora-tucker": Example(
            {**new, "bm.weight": core}, CONV, slow(pair(b_up, b_down, core), 1.5)
        ),
        "glora-old": Example(old, LINE, slow(line, 1.5), TrainingInfo(trained_at=1.69e9)),
        "glora-old-squared": Example(old, LINE, slow(line, 2.25), TrainingInfo(trained_at=1.70e9)),
        "glora-old-point": Example(thin, POINT, slow(lambda o, i, *k: line(o, i), 1.5)),
    }  # fmt: skip


def doras() -> dict[str, Example]:
    kinds = loras() | hadamards() | kroneckers()
    rows, columns = torch.rand(6) + 0.5, torch.rand(8) + 0.5
    out: dict[str, Example] = {}

    def add(name: str, inner: str, scale: Tensor, axis: int, facts: TrainingInfo = TrainingInfo()) -> None:  # noqa: B008
        leaves, shape, slow, _ = kinds[inner]
        norm = torch.mean if facts.trained_at else torch.linalg.vector_norm
        out[name] = Example(leaves | {"dora_scale": scale}, shape, decomposed(slow, scale, axis, norm), facts)

    add("dora-rows", "lora", rows.view(6, 1), 0)
    add("dora-vector", "lora", rows, 0)
    add("dora-columns", "lora", columns.view(1, 8), 1)
    add("dora-peft-conv", "locon", rows.view(1, 6, 1, 1), 0, TrainingInfo(producer="peft"))
    add("dora-mean", "lora", columns.view(1, 8) / 9, 1, TrainingInfo(trained_at=1.709e9))
    add("dora-sparse", "lora-sparse", rows.view(6, 1), 0)
    for name in ("locon", "loha-deep", "lokr-deep", "lokr", "abba"):
        ones = (1,) * (len(kinds[name].shape) - 2)
        add(f"{name}-dora-rows", name, rows.view(6, 1, *ones), 0)
        add(f"{name}-dora-columns", name, columns.view(1, 8, *ones), 1)
    plain = kinds["lora"]
    leaves = plain.leaves | {"dora_scale": rows.view(6, 1)}
    out["dora-bypass"] = Example(leaves, LINE, plain.slow, TrainingInfo(bypass_mode=True, trained_at=1.73e9))
    return out


def examples() -> dict[str, Example]:
    torch.manual_seed(3)
    mine = loras() | hadamards() | kroneckers() | scalings() | gloras() | doras() | tuners() | seeded()
    return mine | {name: Example(*example) for name, example in (rotations() | thin() | wide()).items()}
