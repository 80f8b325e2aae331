"""`lbw=` and `lbwe=`: strengths by block, and by kind of layer within blocks.

`lbw=` is a preset's name, a list of 12, 17, 20, 25, 26 or 61 numbers, blocks (`IN05-OUT03`: only these) or rules
(`IN05-OUT03:0.5`: these at a half, the others as they were). In lists `R` is random from 0 to 1, `U` from -0.5 to 1.5,
`X` the tag's `x=`. `lbwe=` is a preset of rules or the rules themselves: `blocks:kinds of layers:weight`.
Grammar: hako-mikan/sd-webui-lora-block-weight; blocks that a list leaves out are at 0, as there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lib_adapters.errors import BadTag
from lib_adapters.prompt.block_layouts import BLOCKS, LAYOUTS, OUTSIDE, block_range, parse_block
from lib_adapters.prompt.schedule import NUMBER, format_number, parse_number

_INHERITED = re.compile(r"X(?:([+-])([0-9.]+))?")
MAX_TERMS = 256


@dataclass(frozen=True)
class ElementRule:
    """In these blocks (none: all) the layers of these kinds (none: all) have this weight; `but_*`: in all but these."""

    blocks: frozenset[str]
    invert_blocks: bool
    kinds: tuple[str, ...]
    invert_kinds: bool
    weight: float

    def matches(self, block: str, names: Sequence[str]) -> bool:
        """Does it say the weight of this layer? `names` as for `BlockWeights.of`."""
        there = not self.blocks or (block in self.blocks) != self.invert_blocks
        alike = any(kind in name for kind in self.kinds for name in names)
        return there and (not self.kinds or alike != self.invert_kinds)


@dataclass(frozen=True)
class BlockWeights:
    """The factor of each layer. Hashable, and equal where it says the same."""

    factors: tuple[tuple[str, float], ...] = ()  # by block
    default: float = 1.0  # blocks that `factors` leaves out; what lies outside all blocks stays at 1
    rules: tuple[ElementRule, ...] = ()  # the last one that holds wins over all else

    def factor_for(self, block: str, names: Sequence[str]) -> float:
        """The factor of one layer. `names`: how it is called, in each spelling, with `_` for `.`."""
        usual = 1.0 if block in ("", *OUTSIDE) else self.default
        found = dict(self.factors).get(block, usual)
        for rule in self.rules:
            if rule.matches(block, names):
                found = rule.weight
        return found


@dataclass(frozen=True)
class Presets:
    """Names that stand for what could be written out; looked up as written, then in any case."""

    blocks: Mapping[str, str] = field(default_factory=dict)
    elements: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockWeightSpec:
    """`lbw`, `lbwe` and `x` of one tag, not yet looked up."""

    blocks: str = ""
    elements: str = ""
    x: float = 1.0

    def __bool__(self) -> bool:
        return bool(self.blocks or self.elements)


@dataclass(frozen=True)
class ResolvedBlockWeights:
    """The weights, and how to write them so that they are the same again where chance had a part; "" where not."""

    weights: BlockWeights
    sampled_text: str = ""


def resolve_block_weights(spec: BlockWeightSpec, presets: Presets, seed: str = "") -> ResolvedBlockWeights:
    """BadTag names the token. The same seed draws the same numbers."""
    text = _found(spec.blocks, presets.blocks)
    rules = element_rules(_found(spec.elements, presets.elements))
    if not text:
        return ResolvedBlockWeights(BlockWeights(rules=rules))
    values = [value.strip() for value in re.split("[,;]", text)]
    if len(values) > MAX_TERMS:
        raise BadTag(f"lbw={text[:40]!r} ... is too long")
    if any(_is_value(value) for value in values[:2]):
        chance = random.Random(f"{seed} {text}".encode("utf-8", "surrogatepass"))
        numbers = _numbers(values, text, spec.x, chance)
        ids = LAYOUTS[len(values)]
        drawn = ",".join(map(format_number, numbers)) if any(v in ("R", "U") for v in values) else ""
        return ResolvedBlockWeights(BlockWeights(tuple(zip(ids, numbers, strict=True)), 0.0, rules), drawn)
    return _by_name(values, presets if text == spec.blocks else Presets(), spec, rules, seed)  # no preset names another


def _found(word: str, names: Mapping[str, str]) -> str:
    if word in names:
        return names[word]
    alike = [name for name in names if name.casefold() == word.casefold()]
    return names[alike[0]] if len(alike) == 1 else word


def _is_value(word: str) -> bool:
    return word in ("R", "U") or bool(NUMBER.fullmatch(word)) or bool(_INHERITED.fullmatch(word))


def _numbers(values: Sequence[str], text: str, x: float, chance: random.Random) -> list[float]:
    if len(values) not in LAYOUTS:
        counts = ", ".join(map(str, LAYOUTS))
        raise BadTag(f"lbw={text!r} has {len(values)} numbers; known are lists of {counts}")
    return [_number(value, x, chance) for value in values]


def _number(word: str, x: float, chance: random.Random) -> float:
    if word in ("R", "U"):
        return round(chance.uniform(*((0.0, 1.0) if word == "R" else (-0.5, 1.5))), 3)
    if match := _INHERITED.fullmatch(word):
        return x + (parse_number(f"{match[1]}{match[2]}") if match[1] else 0.0)
    return parse_number(word)


def _by_name(
    terms: Sequence[str], presets: Presets, spec: BlockWeightSpec, rules: tuple[ElementRule, ...], seed: str
) -> ResolvedBlockWeights:
    """Blocks and rules, perhaps behind a preset that they change."""
    factors: dict[str, float] = {}
    others, drawn = 1.0, False
    if (first := _found(terms[0], presets.blocks)) != terms[0]:
        base = resolve_block_weights(BlockWeightSpec(first, x=spec.x), Presets(), seed)
        factors, others, terms = dict(base.weights.factors), base.weights.default, terms[1:]
        drawn = bool(base.sampled_text)
    pairs = [(*_range(term), term) for term in terms]
    if not factors and all(weight is None for _, weight, _ in pairs):
        named = sorted({block for blocks, _, _ in pairs for block in blocks})
        return ResolvedBlockWeights(BlockWeights(tuple((block, 1.0) for block in named), 0.0, rules))
    for blocks, weight, term in pairs:
        if weight is None:
            raise BadTag(f"{term!r} in lbw= has no weight: write {term}:0.5")
        factors |= dict.fromkeys(blocks, weight)
    weights = BlockWeights(tuple(sorted(factors.items())), others, rules)
    return ResolvedBlockWeights(weights, _as_rules(weights) if drawn else "")


def _as_rules(weights: BlockWeights) -> str:
    """A list of numbers that rules have changed: what neither names is at 0."""
    named = [f"{block}:{format_number(factor)}" for block, factor in weights.factors if factor or block in OUTSIDE]
    return ",".join([f"NOT {' '.join(OUTSIDE)}:0", *named])


def _range(term: str) -> tuple[list[str], float | None]:
    """`IN05-OUT03:0.5`, `NOT MID:0`, `BASE`; `*` does for `:`."""
    where, sign, weight = (part.strip() for part in term.replace("*", ":").partition(":"))
    blocks, turned = block_list(where, "lbw")
    if turned:
        blocks = BLOCKS - blocks
    return sorted(blocks), parse_number(weight) if sign else None


def block_list(text: str, key: str) -> tuple[frozenset[str], bool]:
    """`NOT IN01 IN04-MID`: blocks, and whether all others are meant; BadTag names the word."""
    words = text.split()
    turned = bool(words) and words[0] == "NOT"
    found: set[str] = set()
    for word in words[turned:]:
        first, dash, last = word.partition("-")
        blocks = block_range(first, last) if dash else ([name] if (name := parse_block(word)) else None)
        if blocks is None:
            raise BadTag(f"{word!r} in {key}= is neither a preset nor a block (IN05, MID, IN05-OUT03, BASE ...)")
        found.update(blocks)
    if not found and key == "lbw":
        raise BadTag(f"{text!r} in lbw= names no block")
    return frozenset(found), turned


def element_rules(text: str) -> tuple[ElementRule, ...]:
    """`blocks:kinds:weight`, parted by commas or line ends; BadTag names the rule that cannot be read."""
    rules = [_element(rule.strip()) for line in text.splitlines() for rule in re.split("[,;]", line) if rule.strip()]
    if len(rules) > MAX_TERMS:
        raise BadTag(f"lbwe={text[:40]!r} ... is too long")
    return tuple(rules)


def _element(rule: str) -> ElementRule:
    parts = [part.strip() for part in rule.replace("*", ":").split(":")]
    if len(parts) != 3:
        raise BadTag(f"{rule!r} in lbwe= is neither a preset nor a rule such as IN05-OUT05:attn:0.5")
    blocks, turned = block_list(parts[0], "lbwe")
    kinds = parts[1].split()
    but = bool(kinds) and kinds[0] == "NOT"
    return ElementRule(blocks, turned, tuple(kind.lower() for kind in kinds[but:]), but, parse_number(parts[2]))
