"""What a machine asks for: drawn by hypothesis, handed over as a Request, and worked out plainly without any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from lib_adapters import Adapter, Request
from lib_adapters.prompt.block_weights import BlockWeights, ElementRule
from lib_adapters.prompt.schedule import Curve, Position, SamplingStep, Window
from tests.support.state_machines.versioned_adapters import LETTERS, Layers, bias_delta, delta
from tests.support.tiny_model_pair import Weights

STRENGTHS = (1.0, 0.5, -0.7, 0.0, 1.3)
START = SamplingStep(0, 1)
BLOCKS = (
    BlockWeights(),
    BlockWeights((("IN01", 0.5), ("M00", 0.0))),
    BlockWeights((("OUT01", 1.0), ("BASE", 0.3)), default=0.0),
    BlockWeights(rules=(ElementRule(frozenset(), False, ("attn",), False, 0.25),)),
)


@dataclass(frozen=True)
class Want:
    """`unet`: one number, or one for the first step and one for the last. `window`: steps done, from and until."""

    file: str  # a letter, or a letter with the number of its content
    unet: float | tuple[float, float] = 1.0
    te: float = 1.0
    dyn: int | None = None
    blocks: int = 0
    window: tuple[int, int] | None = None
    rows: frozenset[int] | None = None
    mode: str = "auto"

    def of(self, content: str) -> Want:
        return replace(self, file=content)

    def request(self, adapter: Adapter) -> Request:
        curve = Curve("share", tuple(zip((0.0, 1.0), self.unet, strict=True))) if self.curved else self.unet
        ends = None if self.window is None else Window(*(Position(float(step), "step") for step in self.window))
        return Request(adapter, curve, self.te, self.dyn, BLOCKS[self.blocks], ends, self.mode, self.rows)

    @property
    def curved(self) -> bool:
        return isinstance(self.unet, tuple)

    @property
    def moves(self) -> bool:
        return self.curved or self.window is not None or self.rows is not None

    @property
    def stays(self) -> bool:
        """Is it in the weights, and the same in all steps and rows?"""
        return not self.moves and self.mode != "live"

    def strength(self, name: str, at: At) -> float:
        """Of the layer of this name, then and there."""
        if name.startswith("te."):
            heard = self.rows is None or at.voice in self.rows
            return self.te * _factor(self.blocks, name) if heard else 0.0
        if self.rows is not None and at.row is not None and at.row not in self.rows:
            return 0.0
        if self.window is not None and not self.window[0] <= at.moment.step < self.window[1]:
            return 0.0
        return self._in_unet(at.moment) * _factor(self.blocks, name)

    def _in_unet(self, moment: SamplingStep) -> float:
        if not self.curved:
            return self.unet
        share = moment.step / (moment.total_steps - 1) if moment.total_steps > 1 else 0.0
        return self.unet[0] + (self.unet[1] - self.unet[0]) * share


@dataclass(frozen=True)
class At:
    """When, in which row (None: the host tells of none), and for whose text."""

    moment: SamplingStep = START
    row: int | None = None
    voice: int | None = None


def _factor(blocks: int, name: str) -> float:
    starts = {"unet.input_blocks.1.": 0.5, "unet.middle_block.": 0.0}
    only = {"unet.output_blocks.1.": 1.0, "te.": 0.3, "unet.time_embed.": 1.0}
    if blocks == 1:
        return next((factor for start, factor in starts.items() if name.startswith(start)), 1.0)
    if blocks == 2:
        return next((factor for start, factor in only.items() if name.startswith(start)), 0.0)
    return 0.25 if blocks == 3 and "attn" in name else 1.0


def plainly(weights: Weights, wants: Iterable[tuple[Want, Layers]], at: At) -> dict[str, Tensor]:
    """W + Σ s·ΔW(W) for each parameter that is not as it was."""
    found: dict[str, Tensor] = {}
    for want, layers in wants:
        for name, leaves in layers.items():
            strength = want.strength(name, at)
            weight = weights[f"{name}.weight"]
            if strength and _fits(leaves, weight):
                _add(found, f"{name}.weight", weight, strength * delta(leaves, weight.float(), want.dyn))
                bias = weights.get(f"{name}.bias", torch.zeros(len(weight)))
                if (shift := bias_delta(leaves, bias)) is not None and shift.any():
                    _add(found, f"{name}.bias", bias, strength * shift)
    return found


def _add(found: dict[str, Tensor], name: str, base: Tensor, change: Tensor) -> None:
    found[name] = found.get(name, base.float()) + change


def _fits(leaves: Mapping[str, Tensor], weight: Tensor) -> bool:
    """A narrow model has other widths in some layers: files are left out there."""
    shapes = {leaf: tensor.shape for leaf, tensor in leaves.items()}
    if "lora_down.weight" in shapes:
        return (shapes["lora_up.weight"][0], *shapes["lora_down.weight"][1:]) == tuple(weight.shape)
    if "lokr_w1" in shapes:
        (a, c), (b, d, *kernel) = shapes["lokr_w1"], shapes["lokr_w2"]
        return (a * b, c * d, *kernel) == tuple(weight.shape)
    if "p_layer.weight" in shapes:
        return (shapes["p_layer.weight"][0], shapes["q_layer.weight"][1]) == tuple(weight.shape)
    if "diff" in shapes:
        return shapes["diff"] == weight.shape
    rows = shapes["oft_blocks"][0] * 4 if "oft_blocks" in shapes else next(iter(shapes.values()))[0]
    return rows == len(weight)


numbers = st.sampled_from(STRENGTHS)
wants = st.builds(
    Want,
    file=st.sampled_from(sorted(LETTERS)),
    unet=st.one_of(numbers, numbers, st.tuples(numbers, numbers)),
    te=numbers,
    dyn=st.sampled_from((None, None, None, 1, 2)),
    blocks=st.integers(0, len(BLOCKS) - 1),
    window=st.sampled_from((None, None, (0, 1), (1, 3))),
    rows=st.sampled_from((None, None, None, frozenset({0}), frozenset({1, 2}), frozenset({0, 2}))),
    mode=st.sampled_from(("auto", "auto", "merged", "live")),
)
