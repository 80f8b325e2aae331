"""Examples of PEFT's tuners with seeds and shared tensors, with their slow definitions, entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.support.reference_math import CONV, LINE, POINT, Example, additive, entries, times

OUT, IN = LINE
DB1 = [math.sqrt(0.5)] * 2
DB2 = [(1 + math.sqrt(3)), (3 + math.sqrt(3)), (3 - math.sqrt(3)), (1 - math.sqrt(3))]
DB2 = [tap / (4 * math.sqrt(2)) for tap in DB2]


def draw(*shape: int, seed: torch.Generator, bound: float, dtype=torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=seed)


def veras() -> dict[str, Example]:
    outer, inner = torch.randn(OUT), torch.randn(3)
    wide, tall, seed = torch.randn(3, 12), torch.randn(9, 3), torch.Generator().manual_seed(7)
    a, b = draw(3, IN, seed=seed, bound=math.sqrt(6 / IN)), draw(OUT, 3, seed=seed, bound=math.sqrt(2))
    common = {"vera_lambda_b": outer, "vera_lambda_d": inner}

    def slow(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
        return lambda o, i, *k: (
            outer.double()[o] * sum(b.double()[o, n] * inner.double()[n] * a.double()[n, i] for n in range(3))
        )

    shared = {**common, "vera_A": wide, "vera_B": tall}
    return {
        "vera": Example(shared, LINE, additive(LINE, slow(wide, tall))),
        "vera-point": Example(shared, POINT, additive(POINT, slow(wide, tall))),
        "vera-drawn": Example({**common, "projection_prng_key": torch.tensor(7)}, LINE, additive(LINE, slow(a, b))),
    }


def randloras() -> dict[str, Example]:
    found = {}
    for name, shape in (("", LINE), ("-tall", (IN, OUT))):
        weights, columns = torch.randn(4, 2), torch.randn(2, 6)
        trained = {"randlora_lambda": weights, "randlora_gamma": columns, "alpha": torch.tensor(3.0)}
        a, b, seed = torch.randn(4, 1, 7), torch.randn(9, 3, 4), torch.Generator().manual_seed(5)
        drawn_a = draw(4, 1, 6, seed=seed, bound=math.sqrt(1 / 6), dtype=torch.bfloat16)
        parts = [draw(8, 1, 4, seed=seed, bound=math.sqrt(1 / 4), dtype=torch.bfloat16) for _ in range(2)]
        drawn_b = torch.cat(parts, dim=1)
        pair = {"randlora_A": a, "randlora_B": b}
        numbers = {"projection_prng_key": torch.tensor(5), "randlora_sparse": torch.tensor(0)}
        slow = times(0.75, bases(weights, columns, a, b, shape))
        drawn = bases(weights, columns, drawn_a / drawn_a.std(), drawn_b / drawn_b.std(), shape)
        found[f"randlora{name}"] = Example({**trained, **pair}, shape, additive(shape, slow))
        found[f"randlora-drawn{name}"] = Example({**trained, **numbers}, shape, additive(shape, times(0.75, drawn)))
    return found


def bases(weights: Tensor, columns: Tensor, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    """Rank and basis are counted one way in A and the other way in B."""
    (rank, number), a, b = weights.shape, a.double(), b.double()

    def entry(o: int, i: int) -> Tensor:
        large, small = (o, i) if shape[0] > shape[1] else (i, o)
        return sum(
            b[large, f // rank, f % rank]
            * weights.double()[f // number, f % number]
            * a[f // number, 0, small]
            * columns.double()[f % number, small]
            for f in range(rank * number)
        )

    return entry


def fouriers() -> dict[str, Example]:
    numbers, seed = torch.randn(5), {"random_loc_seed": torch.tensor(11), "scale": torch.tensor(30.0)}
    places = [(int(p) // IN, int(p) % IN) for p in torch.randperm(48, generator=torch.Generator().manual_seed(11))[:5]]

    def entry(o: int, i: int, *k: int) -> float:
        angles = [2 * math.pi * (o * p / OUT + i * q / IN) for p, q in places]
        return sum(float(n) * math.cos(angle) for n, angle in zip(numbers, angles, strict=True)) * 30 / 48

    leaves = {"fourierft_spectrum": numbers, **seed}
    return {
        "fourierft": Example(leaves, LINE, additive(LINE, entry)),
        "fourierft-point": Example(leaves, POINT, additive(POINT, entry)),
    }


def waves() -> dict[str, Example]:
    numbers, seed = torch.randn(9), {"random_loc_seed": torch.tensor(12), "scale": torch.tensor(3.0)}
    leaves = {"waveft_spectrum": numbers, **seed}

    def placed(shape: tuple[int, int]) -> list[tuple[int, int, float]]:
        order = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(12))[:9]
        return [(int(p) // shape[1], int(p) % shape[1], float(n)) for p, n in zip(order, numbers, strict=True)]

    def direct(base: Tensor, strength: float) -> Tensor:
        there = {(row, column): 3 * value for row, column, value in placed(LINE)}
        return strength * entries(LINE, lambda *at: there.get(at, 0.0))

    def atoms(taps: list[float], shape: tuple[int, int]) -> Callable[[Tensor, float], Tensor]:
        """Each number is the middle of one wavelet, whose kind its quarter of the padded matrix tells."""
        length, high = len(taps), [tap * (-1) ** n for n, tap in enumerate(reversed(taps))]
        padded = [size + length - 2 + (size + length - 2) % 2 for size in shape]

        def delta(base: Tensor, strength: float) -> Tensor:
            out = torch.zeros(shape, dtype=torch.float64)
            for row, column, value in placed(shape):
                at = [p + (full - size) // 2 for p, full, size in zip((row, column), padded, shape, strict=True)]
                lower, right = (p >= full // 2 for p, full in zip(at, padded, strict=True))
                start = [2 * (p % (full // 2)) - length + 2 for p, full in zip(at, padded, strict=True)]
                for m, down in enumerate(high if right else taps):
                    for n, along in enumerate(high if lower else taps):
                        o, i = start[0] + m, start[1] + n
                        if 0 <= o < shape[0] and 0 <= i < shape[1]:
                            out[o, i] += 3 * value * down * along
            return strength * out

        return delta

    odd = (7, 9)
    return {
        "waveft": Example({**leaves, "waveft_db": torch.tensor(1)}, LINE, atoms(DB1, LINE)),
        "waveft-db2": Example({**leaves, "waveft_db": torch.tensor(2)}, LINE, atoms(DB2, LINE)),
        "waveft-odd": Example({**leaves, "waveft_sym": torch.tensor(2)}, odd, atoms(DB2, odd)),
        "waveft-direct": Example({**leaves, "waveft_direct": torch.tensor(1)}, LINE, direct),
    }


def banks() -> dict[str, Example]:
    bank, a, b = torch.randn(5, 2), torch.randn(2, 4, 5), torch.randn(3, 2, 5)

    def piece(logits: Tensor, at: int) -> Tensor:
        best = sorted(range(5), key=lambda h: -float(logits[h]))[:3]
        weights = [math.exp(float(logits[h])) for h in best]
        return sum(w / sum(weights) * float(bank[h, at]) for h, w in zip(best, weights, strict=True))

    def entry(o: int, i: int) -> float:
        return sum(piece(b[o // 2, n], o % 2) * piece(a[n, i // 2], i % 2) for n in range(2))

    chosen = {"vblora_vector_bank": bank}
    for side, logits in (("A", a), ("B", b)):
        best, places = logits.topk(3)
        chosen[f"vblora_logits_{side}_topk_indices"] = places.to(torch.uint8)
        chosen[f"vblora_logits_{side}_topk_weights"] = best.softmax(-1)[..., :-1].contiguous()
    leaves = {"vblora_vector_bank": bank, "vblora_logits_A": a, "vblora_logits_B": b, "vblora_topk": torch.tensor(3)}
    return {
        "vblora": Example(leaves, LINE, additive(LINE, entry)),
        "vblora-chosen": Example(chosen, LINE, additive(LINE, entry)),
    }


def adaloras() -> dict[str, Example]:
    up, down, wide, values = torch.randn(OUT, 3), torch.randn(3, IN), torch.randn(3, IN * 6), torch.randn(3, 1)

    def slow(down: Tensor) -> Callable[..., Tensor]:
        return lambda o, i, x=0, y=0: (
            0.7
            * sum(
                up.double()[o, n]
                * values.double()[n, 0]
                * down.double()[n, i if down is not wide else i * 6 + x * 2 + y]
                for n in range(3)
            )
        )

    common = {"lora_up.weight": up, "lora_E": values, "scale": torch.tensor(0.7)}
    return {
        "adalora": Example({**common, "lora_down.weight": down}, LINE, additive(LINE, slow(down))),
        "adalora-conv": Example({**common, "lora_down.weight": wide}, CONV, additive(CONV, slow(wide))),
    }


def roads() -> dict[str, Example]:
    def example(share: int, group: int) -> Example:
        """`share` angles for each two rows."""
        angles, lengths = torch.randn(OUT // 2 * share), torch.rand(OUT // 2 * share) + 0.5

        def row(base: Tensor, o: int) -> Tensor:
            start, at, half = o - o % group, o % group, group // 2
            place = [start // 2 + at % half] * 2 if share == 1 else [o] * 2
            place = [2 * start + at, 2 * start + group + at] if share == 4 else place
            straight = float(lengths[place[0]]) * math.cos(angles[place[0]])
            across = float(lengths[place[1]]) * math.sin(angles[place[1]])
            other, sign = (o + half, -1) if at < half else (o - half, 1)
            return straight * base[o] + sign * across * base[other]

        def delta(base: Tensor, strength: float) -> Tensor:
            return strength * (torch.stack([row(base, o) for o in range(OUT)]) - base)

        leaves = {"road_theta": angles, "road_alpha": lengths, "road_group_size": torch.tensor(group)}
        return Example(leaves, LINE, delta)

    return {"road-1": example(1, 6), "road-2": example(2, 2), "road-4": example(4, 6)}


def seeded() -> dict[str, Example]:
    return veras() | randloras() | fouriers() | waves() | banks() | adaloras() | roads()
