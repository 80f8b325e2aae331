"""Every kind of file whose result is checked, with the scale that its trainer gave it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import torch
from torch import Tensor

from benchmarks.checked_files import FORMS, RANK
from benchmarks.synthetic_adapters import RECIPES, Leaves, Recipe
from lib_adapters.algorithms.base import Shape

Metadata = Mapping[str, str]


def lycoris(algo: str, day: str = "2026-10-20", **options: object) -> Metadata:
    """What a file by LyCORIS says of itself."""
    started = datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
    arguments = {key: str(value) for key, value in {"algo": algo, **options}.items()}
    facts = {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(arguments)}
    return {**facts, "ss_training_started_at": str(started)}


@dataclass(frozen=True)
class Kind:
    """`peft`: the PEFT layer that holds the same factors, if there is one."""

    recipe: Recipe
    metadata: Metadata = field(default_factory=dict)
    peft: str = ""
    dotted: bool = False  # PEFT's names in the file


def halved(plain: Recipe, where: str = "") -> Recipe:
    """With alpha = rank / 2, for a scale that is forgotten or taken twice must show."""

    def make(shape: Shape, rank: int) -> Leaves:
        leaves = plain.make(shape, rank)
        return {**leaves, "alpha": leaves["alpha"] / 2}

    return Recipe(make, lambda weight, leaves: plain.delta(weight, leaves) / 2, where or plain.where)


def without_alpha(recipe: Recipe) -> Recipe:
    return replace(recipe, make=lambda shape, rank: {k: v for k, v in recipe.make(shape, rank).items() if k != "alpha"})


def times(recipe: Recipe, factor: float) -> Recipe:
    return replace(recipe, delta=lambda weight, leaves: recipe.delta(weight, leaves) * factor)


def by_layer(recipe: Recipe) -> Recipe:
    """As an extraction with a rank for each layer writes it: alpha is the rank."""
    return replace(recipe, make=lambda shape, rank: recipe.make(shape, rank if shape[-1] % 3 else 3 * rank))


def decomposed(inner: Recipe, axis: int = 0) -> Recipe:
    def make(shape: Shape, rank: int) -> Leaves:
        lengths = [size if n == axis else 1 for n, size in enumerate(shape)]
        return {**inner.make(shape, rank), "dora_scale": torch.rand(lengths) + 0.5}

    def delta(weight: Tensor, leaves: Leaves) -> Tensor:
        moved = weight + inner.delta(weight, leaves)
        others = [n for n in range(weight.ndim) if n != axis]
        norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        turned: Tensor = moved * leaves["dora_scale"] / norm - weight
        return turned

    return Recipe(make, delta, inner.where)


_LORA, _LOHA, _LOKR = (
    halved(RECIPES["lora"]),
    halved(RECIPES["loha"], "linear"),
    halved(RECIPES["lokr"], "wide"),
)
KINDS: Mapping[str, Kind] = {
    "LoRA": Kind(_LORA, peft="lora"),
    "LoRA, no alpha": Kind(without_alpha(RECIPES["lora"]), peft="lora"),
    "LoRA, a rank for each layer": Kind(by_layer(RECIPES["lora"]), peft="lora"),
    "LoCon": Kind(halved(RECIPES["lora"], "all"), peft="lora"),
    "LoCon, tucker": Kind(halved(FORMS["locon-tucker"])),
    "rs-LoRA of LyCORIS 3.0": Kind(times(_LORA, math.sqrt(RANK)), lycoris("lora", "2024-06-20", rs_lora=True)),
    "DyLoRA of LyCORIS": Kind(times(_LORA, 4.0), lycoris("dylora", block_size=4)),
    "LoHa": Kind(_LOHA, lycoris("loha"), peft="loha"),
    "LoHa, tucker": Kind(halved(FORMS["loha-tucker"]), lycoris("loha")),
    "LoKr": Kind(_LOKR, lycoris("lokr"), peft="lokr"),
    "LoKr, both whole": Kind(FORMS["lokr-whole"]),
    "LoKr, tucker": Kind(halved(FORMS["lokr-tucker"]), lycoris("lokr")),
    "DoRA": Kind(decomposed(_LORA), lycoris("lora"), peft="dora-rows"),
    "DoRA by columns": Kind(decomposed(_LORA, 1), lycoris("lora", "2024-10-01")),
    "DoRA on LoHa": Kind(decomposed(_LOHA), lycoris("loha")),
    "DoRA on LoKr": Kind(decomposed(_LOKR), lycoris("lokr")),
    "GLoRA": Kind(halved(RECIPES["glora"]), lycoris("glora")),
    "GLoRA before 3.0": Kind(FORMS["glora-old"], lycoris("glora", "2024-01-15")),
    "OFT": Kind(RECIPES["oft"], lycoris("diag-oft")),
    "OFT, rescaled": Kind(FORMS["oft-rescaled"], lycoris("diag-oft")),
    "OFT, bound": Kind(FORMS["oft-bound"], lycoris("diag-oft")),
    "OFT of LyCORIS 2.0": Kind(FORMS["oft-diag"], lycoris("diag-oft", "2023-12-01")),
    "OFT on the input": Kind(FORMS["oft-input"], peft="oft", dotted=True),
    "BOFT": Kind(RECIPES["boft"], lycoris("boft")),
    "IA3": Kind(RECIPES["ia3"], lycoris("ia3")),
    "Full": Kind(RECIPES["full"], lycoris("full")),
    "Norm": Kind(RECIPES["norm"], lycoris("lora")),
    "T-LoRA": Kind(halved(FORMS["tlora"]), lycoris("tlora")),
    "ABBA": Kind(FORMS["abba"]),
}
