"""Tags as people and machines write them, at random but the same in every run, and what both readers make of one."""

from __future__ import annotations

import random
from typing import Any

from lib_adapters.prompt.schedule import Curve, Position, Strength
from lib_adapters.prompt.tag_options import TagOptions
from lib_adapters.prompt.tags import PASS_KEYS, Tag

NAMES = [
    "ink",
    "style/ink v1.0",
    "a=b",
    '"a:b > c"',
    '"say ""hi"""',
    "インク",
    'half"',
    '"te=1" ',
    "it's, (x)",
    " ",
    "off",
]
NUMBERS = ["0.8", "1", "-0.5", "+2.", ".5", "1e-1", "0", "12"]
CURVES = ["0@0,1@1", "0@0, 1@50%,0@100%", "1~0;0~0.5", "0@5,1@15", "1@14sigma,0@2", "0.3@10%", "1@1,0@0"]
PRESETS = ["OUTS", "ALL0.5", "my preset", "1,0,0,1", "X,R,U", "IN05", "MID", "off", "IN@D", "a,b"]
RULES = ["IN05-OUT03:0.5,MID:0", "IN05-OUT03", "NOT MID:0", "OUTD,IN05:0.5", "te:0.3", "IN04:0.5;m00"]
ELEMENTS = ["ATTNDEEPON", "IN05-OUT05:attn:1", ":attn:0.5", "IN05:NOT attn:0", "OUT03:proj", ""]
POSITIONS = ["5", "0.5", "50%", "4.2sigma", "1.5", "0", "3σ"]
BAD = ["abc", "", "1,5", "nan", "1e999", "1@", "1@x", "1@50%,2@5sigma", "@", "5-10", "\x1d0.5\ufeff", "1@3e5"]
RANKS = ["4", "+8", "timestep", "4@0,8@1", "0", "2.5", "1234567890"]


def _named(chance: random.Random, key: str) -> str:
    key = key if chance.random() < 0.9 else f" {key} "
    bare = key.strip().removeprefix("hr") or "hr"
    pools: dict[str, list[str]] = {
        **dict.fromkeys(("te", "unet", "hr"), NUMBERS + CURVES),
        **dict.fromkeys(("lbw", "w"), PRESETS + RULES),
        "lbwe": ELEMENTS,
        **dict.fromkeys(("start", "stop"), POSITIONS),
        "step": ["5-10", "-10", "5-", "20%-0.8", "-", "1-2-3"],
        "mode": ["auto", "merged", "LIVE", "fast"],
        "dyn": RANKS,
        "x": NUMBERS,
    }
    pool = BAD if chance.random() < 0.03 else pools.get(bare, ["1", "x"])
    return f"{key}={chance.choice(pool)}"


def _item(chance: random.Random) -> str:
    keys = [*PASS_KEYS, "w", "mode", "hr", *(f"hr{key}" for key in PASS_KEYS)]
    kind = chance.random()
    if kind < 0.3:
        return chance.choice(NUMBERS)
    if kind < 0.38:
        return chance.choice(CURVES)
    if kind < 0.48:
        return chance.choice(PRESETS)
    if kind < 0.56:
        return chance.choice(["off", " off ", "OFF"])
    if kind < 0.59:
        return chance.choice([*BAD, "foo=1", "off=1", "te==1"])
    return _named(chance, chance.choice(keys))


def tags(count: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        items = [chance.choice(NUMBERS)] if chance.random() < 0.7 else []
        items += [_item(chance) for _ in range(chance.choice([0, 0, 1, 1, 2, 3, 5, 8]))]
        made.append(f"<{chance.choice(['lyco', 'lora'])}:{':'.join([chance.choice(NAMES), *items])}>")
    return made


def strength(value: Strength) -> Any:
    if not isinstance(value, Curve):
        return value
    return {"unit": value.unit, "points": [list(point) for point in value.points]}


def _pass(control: TagOptions) -> dict[str, Any]:
    window = control.window
    return {
        "te": control.te,
        "unet": strength(control.unet),
        "dyn": strength(control.dyn) if isinstance(control.dyn, Curve) else control.dyn,
        "window": window and {"start": _end(window.start), "stop": _end(window.stop)},
        "x": control.spec.x,
    }


def _end(position: Position | None) -> Any:
    return position and {"value": position.value, "unit": position.unit}


def told(tag: Tag) -> dict[str, Any]:
    """The parser's tag in the words of the page's."""
    return {
        "kind": tag.kind,
        "name": tag.name,
        "lbw": tag.options.spec.blocks,
        "lbwe": tag.options.spec.elements,
        "first": _pass(tag.options),
        "second": _pass(tag.hires) if tag.hires else None,
        "mode": tag.mode,
        "off": tag.disabled,
    }


READ = """texts => texts.map(text => {
    const found = lycoris.tags(text);
    if (found.length !== 1 || found[0].text !== text) return 'not one tag';
    const [tag] = found;
    if (tag.problem) return null;
    const strength = value => value && value.points
        ? {unit: value.unit, points: value.points.map(one => [one.position, one.value])} : value;
    const pass = one => one && {
        te: one.te, unet: strength(one.unet), dyn: strength(one.dyn), window: one.window, x: one.x};
    return {kind: tag.kind, name: tag.name, lbw: tag.values.lbw || '', lbwe: tag.values.lbwe || '', first: pass(tag),
        second: pass(tag.second), mode: tag.mode, off: tag.off};
})"""
