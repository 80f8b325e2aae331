"""Requests: one adapter with its strengths, block weights, schedule and batch rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lib_adapters.algorithms.base import MAX_SCALE
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter
from lib_adapters.prompt.block_weights import BlockWeights, Presets, resolve_block_weights
from lib_adapters.prompt.prompt_editing import Timeline, window_of
from lib_adapters.prompt.schedule import Curve, SamplingStep, Strength, Window
from lib_adapters.prompt.tag_options import Mode, Ranks
from lib_adapters.prompt.tags import Tag

ALL_BLOCKS = BlockWeights()
MAX_STEPS_NAMED = 8  # steps in a sentence


@dataclass(frozen=True)
class Request:
    """Strengths may be any finite number, up to where float32 ends; `dyn` cuts the adapter to its first ranks.

    `rows`: the rows of a batch that it acts on, by the numbers that the host gives them; None for all.
    AdapterError for a strength that is not finite or beyond LARGEST, and for `dyn` below 1.
    """

    adapter: Adapter
    unet: Strength = 1.0
    te: float = 1.0
    dyn: Ranks | None = None
    blocks: BlockWeights = ALL_BLOCKS
    window: Window | None = None
    mode: Mode = "auto"
    rows: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.unet, Curve) and len(set(self.unet.values)) == 1:
            object.__setattr__(self, "unet", self.unet.values[0])  # it does not move
        strengths = (self.te, *(self.unet.values if isinstance(self.unet, Curve) else (self.unet,)))
        if not all(abs(strength) <= MAX_SCALE for strength in strengths):  # NaN is never <=
            numbers = f"{self.unet} / {self.te}"
            raise AdapterError(
                f"{self.adapter.name}: a strength must be a finite number, at most {MAX_SCALE:g}, not {numbers}."
            )
        if isinstance(self.dyn, int) and self.dyn < 1:
            raise AdapterError(f"{self.adapter.name}: dyn is a number of ranks, at least 1, not {self.dyn}.")

    @property
    def key(self) -> tuple[str, str]:
        """Sorts and compares requests without looking into the file."""
        rest = (self.unet, self.te, self.dyn, self.window, self.mode, sorted(self.rows or ()), self.rows is None)
        return self.adapter.cache_key, f"{rest} {_text(self.blocks)}"

    def is_dynamic(self, component: str) -> bool:
        """Does the strength in this part depend on the step, the row, or the text that is encoded?"""
        if component != "unet":
            return self.rows is not None
        scheduled = self.window is not None or isinstance(self.unet, Curve) or isinstance(self.dyn, Curve | str)
        return scheduled or self.rows is not None

    def is_bypass(self, component: str) -> bool:
        """True for `mode=live` with a static, nonzero strength: nothing of this component is merged."""
        return self.mode == "live" and not self.is_dynamic(component) and self.strength(component) != 0

    def strength(self, component: str) -> float:
        """Where it does not move."""
        strength = self.unet if component == "unet" else self.te
        assert not isinstance(strength, Curve)
        return float(strength)


@dataclass(frozen=True)
class ResolvedTag:
    """The request that a tag makes in one pass, and what its user must know of it."""

    request: Request
    sampled_blocks: str = ""  # block weights that chance chose, written so that they are chosen again
    notes: tuple[str, ...] = ()
    steps: str = ""  # the steps to which prompt editing limits the tag, in words; "" if it does not


def resolve_tag(adapter: Adapter, tag: Tag, presets: Presets, *, hires: bool = False, seed: str = "") -> ResolvedTag:
    """`second`: in the second pass, where the tag may ask for something else. BadTag names the token."""
    control = tag.for_pass(hires)
    drawn = resolve_block_weights(control.spec, presets, f"{seed} {adapter.name}")
    request = Request(adapter, control.unet, control.te, control.dyn, drawn.weights, control.window, tag.mode)
    return ResolvedTag(request, drawn.sampled_text, control.notes)


def limit_to_editing(resolved: ResolvedTag, tag: Tag, timeline: Timeline) -> ResolvedTag:
    """Limit a request to the steps in which prompt editing around the tag lets it act; disable it if there are none."""
    if not tag.edits:
        return resolved
    around = window_of(tag.edits, timeline)
    held = _held(around, timeline.steps)
    request = _within(resolved.request, around) if held else replace(resolved.request, unet=0.0, te=0.0, window=None)
    return replace(resolved, request=request, steps=f"{_acts(held, timeline)} (prompt editing)")


def _within(request: Request, around: Window | None) -> Request:
    """Limit the request to both windows: its own and that of the prompt editing around it."""
    own = request.window
    return replace(request, window=around if own is None else replace(own, within=around))


def _held(window: Window | None, steps: int) -> list[int]:
    """Return the steps inside the window, counted from 1."""
    return [step + 1 for step in range(steps) if window is None or window.contains(SamplingStep(step, steps))]


def _acts(steps: Sequence[int], timeline: Timeline) -> str:
    """Return the steps in words, such as `acts in steps 11 to 20 of 20`."""
    whole = f"of {timeline.steps}"
    if not steps:
        return f"acts in none {whole} steps"
    if len(steps) == 1:
        return f"acts in step {steps[0]} {whole}"
    apart = {right - left for left, right in pairwise(steps)}
    if apart == {1}:
        return f"acts in steps {steps[0]} to {steps[-1]} {whole}"
    if apart == {2}:
        return f"acts in every second step, {steps[0]} to {steps[-1]} {whole}"
    if len(apart) == 1:
        return f"acts once every {apart.pop()} steps, {steps[0]} to {steps[-1]} {whole}"
    named = ", ".join(str(step) for step in steps[:MAX_STEPS_NAMED])
    return f"acts in steps {named}{', ...' if len(steps) > MAX_STEPS_NAMED else ''} {whole}"


def _text(blocks: BlockWeights) -> str:
    """Equal for equal weights; a set has no order of its own."""
    if blocks == ALL_BLOCKS:
        return ""
    rules = [(sorted(r.blocks), r.invert_blocks, r.kinds, r.invert_kinds, r.weight) for r in blocks.rules]
    factors: Mapping[str, float] = dict(blocks.factors)
    return f"{sorted(factors.items())} {blocks.default} {rules}"
