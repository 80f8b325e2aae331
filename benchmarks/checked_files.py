"""Forms of files that recipes.py does not time: leaves as their trainers shape them, and ΔW in plain words."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.synthetic_adapters import RECIPES, Leaves, Recipe, rotation
from lib_adapters.algorithms.base import Shape

RANK = 4


def _noise(*shape: int, size: float = 0.1) -> Tensor:
    return torch.randn(shape) * size


def _rebuilt(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """left [p, o], core [p, q, ...], right [q, i] -> [o, i, ...]"""
    return torch.einsum("pqxy,po,qi->oixy", core, left, right)


def _locon_tucker(shape: Shape, rank: int) -> Leaves:
    up, down = _noise(shape[0], rank, 1, 1), _noise(rank, shape[1], 1, 1)
    return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": _noise(rank, rank, 3, 3),
            "alpha": torch.tensor(float(rank))}  # fmt: skip


def _locon_tucker_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    up, down = leaves["lora_up.weight"].flatten(1), leaves["lora_down.weight"].flatten(1)
    return _rebuilt(leaves["lora_mid.weight"], up.T, down)


def _loha_tucker(shape: Shape, rank: int) -> Leaves:
    leaves = {f"hada_w{n}_a": _noise(rank, shape[0], size=0.3) for n in (1, 2)}
    leaves |= {f"hada_w{n}_b": _noise(rank, shape[1], size=0.3) for n in (1, 2)}
    leaves |= {f"hada_t{n}": _noise(rank, rank, 3, 3, size=0.3) for n in (1, 2)}
    return leaves | {"alpha": torch.tensor(float(rank))}


def _loha_tucker_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    one, two = (_rebuilt(*(leaves[f"hada_{leaf}"] for leaf in (f"t{n}", f"w{n}_a", f"w{n}_b"))) for n in (1, 2))
    return one * two


def _lokr_tucker(shape: Shape, rank: int) -> Leaves:
    b, d = shape[0] // 4, shape[1] // 4
    leaves = {"lokr_w1": _noise(4, 4), "lokr_w2_a": _noise(rank // 2, b), "lokr_w2_b": _noise(rank // 2, d)}
    return leaves | {"lokr_t2": _noise(rank // 2, rank // 2, 3, 3), "alpha": torch.tensor(rank / 2)}


def _lokr_tucker_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    second = _rebuilt(leaves["lokr_t2"], leaves["lokr_w2_a"], leaves["lokr_w2_b"])
    return torch.kron(leaves["lokr_w1"][:, :, None, None].contiguous(), second.contiguous())


def _lokr_whole(shape: Shape, rank: int) -> Leaves:
    """As ai-toolkit writes it: alpha says nothing."""
    second = _noise(shape[0] // 8, shape[1] // 8, *shape[2:])
    return {"lokr_w1": _noise(8, 8), "lokr_w2": second, "alpha": torch.tensor(9999999999.0)}


def _rescaled(shape: Shape, rank: int) -> Leaves:
    return {**RECIPES["oft"].make(shape, rank), "rescale": torch.rand(shape[0], *(1 for _ in shape[1:])) + 0.5}


def _rescaled_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    return (weight + RECIPES["oft"].delta(weight, leaves)) * leaves["rescale"] - weight


def _bound(shape: Shape, rank: int) -> Leaves:
    """A constraint that holds: a quarter of what ‖Q‖ is."""
    blocks = RECIPES["oft"].make(shape, rank)["oft_blocks"]
    return {"oft_blocks": blocks, "alpha": (blocks - blocks.mT).norm() / 4 / shape[0]}


def _bound_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    blocks = leaves["oft_blocks"]
    bound, norm = leaves["alpha"] * len(weight), (blocks - blocks.mT).norm()
    return RECIPES["oft"].delta(weight, {"oft_blocks": blocks * (bound / norm)})


def _oft_diag(shape: Shape, rank: int) -> Leaves:
    return {"oft_diag": rotation(RECIPES["oft"].make(shape, rank)["oft_blocks"])}


def _oft_diag_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    turn = leaves["oft_diag"]
    rows = weight.reshape(*turn.shape[:2], -1)
    return torch.einsum("kno,kni->koi", turn, rows).reshape(weight.shape) - weight


def _glora_old(shape: Shape, rank: int) -> Leaves:
    leaves = {"a1.weight": _noise(rank, shape[1]), "a2.weight": _noise(shape[1], rank)}
    leaves |= {"b1.weight": _noise(rank, shape[1]), "b2.weight": _noise(shape[0], rank)}
    return leaves | {"alpha": torch.tensor(rank / 2)}


def _glora_old_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    """(alpha / rank)², for the trainer multiplied twice."""
    a1, a2, b1, b2 = (leaves[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    return (b2 @ b1 + weight @ a2 @ a1) / 4


def _abba(shape: Shape, rank: int) -> Leaves:
    leaves = {f"lora_up{n}.weight": _noise(shape[0], rank, size=0.3) for n in (1, 2)}
    leaves |= {f"lora_down{n}.weight": _noise(rank, shape[1], size=0.3) for n in (1, 2)}
    return leaves | {"alpha": torch.tensor(2.0)}


def _abba_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    one, two = (leaves[f"lora_up{n}.weight"] @ leaves[f"lora_down{n}.weight"] for n in (1, 2))
    return one * two * (2.0**2 / RANK)


def _tlora(shape: Shape, rank: int) -> Leaves:
    leaves = {"q_layer.weight": _noise(rank, shape[1]), "p_layer.weight": _noise(shape[0], rank)}
    return leaves | {"lambda_layer": torch.rand(1, rank), "alpha": torch.tensor(float(rank))}


def _tlora_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    """From where it started: the strongest singular triples of the weight."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    p, triple, q = leaves["p_layer.weight"], leaves["lambda_layer"], leaves["q_layer.weight"]
    delta: Tensor = (p * triple) @ q - (u[:, :RANK] * s[:RANK]) @ v[:RANK]
    return delta


def _oft_input(shape: Shape, rank: int) -> Leaves:
    return {"oft_R.weight": _noise(shape[1] // 4, 6)}


def _oft_input_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    packed = leaves["oft_R.weight"]
    q = packed.new_zeros(len(packed), 4, 4)
    q[:, torch.ones(4, 4).triu(1).bool()] = packed
    q = q - q.mT
    turn = torch.eye(4, dtype=q.dtype) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
    blocks = weight.view(len(weight), len(turn), 4)
    turned: Tensor = torch.einsum("okn,kmn->okm", blocks, turn).reshape(weight.shape) - weight
    return turned


FORMS: Mapping[str, Recipe] = {
    "locon-tucker": Recipe(_locon_tucker, _locon_tucker_delta, "spatial"),
    "loha-tucker": Recipe(_loha_tucker, _loha_tucker_delta, "spatial"),
    "lokr-tucker": Recipe(_lokr_tucker, _lokr_tucker_delta, "spatial"),
    "lokr-whole": Recipe(_lokr_whole, RECIPES["lokr"].delta, "wide"),
    "glora-old": Recipe(_glora_old, _glora_old_delta, "linear"),
    "oft-rescaled": Recipe(_rescaled, _rescaled_delta),
    "oft-bound": Recipe(_bound, _bound_delta),
    "oft-diag": Recipe(_oft_diag, _oft_diag_delta),
    "oft-input": Recipe(_oft_input, _oft_input_delta, "linear"),
    "tlora": Recipe(_tlora, _tlora_delta, "linear"),
    "abba": Recipe(_abba, _abba_delta, "linear"),
}
