"""The interface of all algorithms: named tensors of one layer, and ΔW as a function of the original weight.

Axis letters, everywhere: o = out, i = in, r = rank, ... = kernel axes (none for linear layers).
`base` is always the pristine weight in float32, seen as the trainer's layer saw it: [o, i, ...kernel], [d] for norms.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.history import RS_LORA_NOMINAL_ALPHA
from lib_adapters.errors import CorruptFile, ShapeMismatch

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # leaf -> shape, as the header tells
Tensors = Mapping[str, Tensor]  # leaf -> tensor
Value = TypeVar("Value")


@dataclass(frozen=True)
class TrainingInfo:
    """What only the file as a whole can tell; it decides where the tensors of one module leave it open."""

    producer: str = ""  # "kohya", "lycoris", "peft", "onetrainer", "ai-toolkit", "hcp" ... or "" where nothing tells
    algo: str = ""  # LyCORIS `algo` of ss_network_args, lower case
    trained_at: float = 0.0  # ss_training_started_at, unix seconds; 0 = unknown
    block_size: int = 4  # LyCORIS DyLoRA
    rs_lora: bool = False
    split_qkv: bool = False  # kohya SD3/Flux block-diagonal files
    constraint_is_bound: bool = False  # kohya OFT: alpha 0 means "no rotation at all", not "no bound"
    bypass_mode: bool = False
    overrides: Mapping[str, float] | None = None  # per file, from the sidecar: e.g. {"scale": 1.0}

    @property
    def scale_override(self) -> float | None:
        """The user's own, in the place of whatever the file says."""
        return (self.overrides or {}).get("scale")


@dataclass(frozen=True)
class LowRankFactors:
    """ΔW seen as a matrix [o, i*kernel]: scale · up @ down. Tensors keep the file's dtype; nothing is folded in."""

    up: Tensor  # [o, r]
    down: Tensor  # [r, i*kernel]
    scale: float


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """The layers of one component that a file changes with one algorithm, with their sizes in this model.

    Some trainers generate tensors shared by all layers from a seed, sized by the largest layer, and do not save them.
    """

    shapes: tuple[Shape, ...]
    missing: int = 0  # layers of the file that this model lacks; the largest may be one of them
    shared: dict[Hashable, object] = field(default_factory=dict)  # results of `once`; may outlive the group

    @property
    def largest(self) -> tuple[int, int]:
        """The largest output and the largest input size, possibly of different layers."""
        return max(shape[0] for shape in self.shapes), max(shape[1] for shape in self.shapes)

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the result of `make`, which depends only on `key`; compute it once and share it between layers."""
        if key not in self.shared:
            self.shared[key] = make()
        return cast("Value", self.shared[key])


@dataclass(frozen=True, eq=False)
class Algorithm(ABC):
    """One adapter's effect on one layer. Subclasses are frozen dataclasses of named tensors."""

    label: ClassVar[str]  # the name users know: "LoKr"
    needs_weight: ClassVar[bool] = True  # False where ΔW does not depend on W: such a delta can run beside the layer

    @classmethod
    @abstractmethod
    def claims(cls, shapes: Shapes) -> bool:
        """Are these leaves mine? Exactly one algorithm may say so; the order of asking never matters."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        """Name the tensors. ShapeMismatch when they contradict each other, CorruptFile when the scale is absurd."""

    @abstractmethod
    def check_shape(self, shape: Shape) -> None:
        """Raise ShapeMismatch unless this fits a weight of `shape`. Equal element counts are not enough."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """ΔW at strength 1, float32, shaped like `base`. Reads `base`, writes nothing."""

    def delta_at(self, weight: Tensor, strength: float) -> Tensor:
        """ΔW at `strength`; linear unless the trainer's rule is another (BOFT)."""
        return self.delta(weight).mul_(strength)

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        """out += ΔW at `strength`, in place. `out` is float32 and may be any view; `base` stays as it is."""
        out.add_(self.delta_at(weight, strength))

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        """base + ΔW at `strength`, in `out` or as a new tensor; in one pass where that is possible."""
        out = weight.clone() if out is None else out.copy_(weight)
        self.add_delta_(out, weight, strength)
        return out

    def as_low_rank(self, weight: Tensor) -> LowRankFactors | None:
        """Return ΔW as a pair of thin factors, or None; the factors of several adapters become one product."""
        return None

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        """Δb at strength 1, float32 [o]. `bias` is the pristine bias, or zeros where the layer has none."""
        return None

    @property
    def has_weight(self) -> bool:
        """False for a module that changes the bias alone."""
        return True

    @property
    def has_bias(self) -> bool:
        """True where `bias_delta` may answer with more than None."""
        return False

    @property
    def rank(self) -> int | None:
        """r, or the block size of a rotation; None where there is neither."""
        return None

    def truncate(self, rank: int) -> Self:
        """The adapter cut to its first `rank` components (the tag's `dyn`); itself where that means nothing."""
        return self

    def in_group(self, shape: Shape, group: LayerGroup) -> Self:
        """Return the algorithm completed with what the file's layers share; itself if they share nothing.

        `shape`: that of the layer's own weight. Raise ShapeMismatch if it depends on a layer that this model lacks.
        """
        return self

    def precompute(self, weight: Tensor) -> Self:
        """With everything computed that depends on W alone, for one that is merged again and again."""
        return self

    def to(self, device: torch.device) -> Self:
        """The same tensors on `device`; itself if they are there."""
        parts = {name: part for name, part in vars(self).items() if not isinstance(part, _PLAIN)}
        moved = {name: there for name, part in parts.items() if (there := _on(part, device)) is not part}
        return replace(self, **moved) if moved else self


_PLAIN = (float, int, str, tuple, type(None))  # asked thousands of times at every change: an ABC's isinstance is slow


def _on(part: Tensor | Algorithm, device: torch.device) -> Tensor | Algorithm:
    return part.to(device)


def shape_mismatch(what: Shape, weight: Shape) -> ShapeMismatch:
    """The error to raise where a delta of one shape meets a weight of another."""
    return ShapeMismatch(f"a delta of {list(what)} does not fit a weight of {list(weight)}")


def same_up_to_1x1(mine: Shape, weight: Shape) -> bool:
    """Equal, or one is the 1x1-convolution spelling of the other's linear layer."""
    return _without_unit_kernel(mine) == _without_unit_kernel(weight)


def _without_unit_kernel(shape: Shape) -> Shape:
    return shape[:2] if all(k == 1 for k in shape[2:]) else shape


MAX_UNFOLDED = 1 << 28  # numbers: 1 GB; the largest real ones are a tenth of it
MAX_SCALE = 1e9  # of a scale or a strength; GLoRA squares the one and multiplies by the other


def scale_of(leaves: Tensors, rank: int, facts: TrainingInfo) -> float:
    """alpha / rank; 1 where the file has no alpha. A `scale` leaf is the whole factor. CorruptFile beyond LARGEST."""
    if facts.scale_override is not None:
        return check_scale(facts.scale_override)
    if "scale" in leaves:
        return check_scale(to_scalar(leaves["scale"]))
    alpha = to_scalar(leaves["alpha"]) if "alpha" in leaves else rank
    return check_scale(alpha / rank * (math.sqrt(rank) if stores_nominal_alpha(facts) else 1.0))


def check_scale(scale: float) -> float:
    """CorruptFile beyond LARGEST: float32 overflows soon behind this; torch then raises in the middle of a sum."""
    if not abs(scale) <= MAX_SCALE:
        raise CorruptFile(f"a scale of {scale:g} is beyond anything that was trained: its alpha is damaged")
    return scale


def stores_nominal_alpha(facts: TrainingInfo) -> bool:
    """True where the trainer used alpha/sqrt(r) but the file says alpha."""
    if not facts.rs_lora:
        return False
    return facts.producer == "peft" or RS_LORA_NOMINAL_ALPHA[0] <= facts.trained_at < RS_LORA_NOMINAL_ALPHA[1]


def to_scalar(tensor: Tensor) -> float:
    """A scalar of any dtype and of shape [] or [1]; ShapeMismatch for more than one number."""
    if tensor.numel() != 1:
        raise ShapeMismatch(f"one number was expected, not {list(tensor.shape)}")
    return float(tensor.double().item())


def rng_seed(tensor_name: Tensor) -> int:
    """Return the number as a seed. Raise CorruptFile unless it is an integer that float64 represents exactly."""
    value = to_scalar(tensor_name)
    if not abs(value) <= 1 << 53:
        raise CorruptFile(f"{value:g} is no seed of random numbers")
    return int(value)


def check_count(count: int, what: str) -> None:
    """Raise CorruptFile if a small file would expand to more than MAX_UNFOLDED numbers."""
    if count > MAX_UNFOLDED:
        raise CorruptFile(f"{what} would be {count:.1e} numbers, more than any trained adapter has")
