"""A tag in which one thing is changed, many times over: it always says what it said but for that."""

from __future__ import annotations

from lib_adapters.prompt.tag_editor import edit_tag, pin_sampled
from lib_adapters.prompt.tag_lexer import OFF_TOKEN, tokenize
from lib_adapters.prompt.tags import Tag, parse, quote_name
from tests.robustness.fuzz.data_provider import Choices
from tests.support.input_bounds import Bound

DECIDES = True
BOUND = Bound(calls=60_000)
ITEMS = [
    "0.5", "0.7", "8", "IN02", "off", "te=0.1", "unet=0@0,1@1", "timestep", "lbw=MID:0.5", "lbw=IN05", "w=INS", "x=2",
    "lbwe=MID::0", "start=3", "stop=0.5", "step=2-8", "hr=0.5", "hrlbw=OUTS", "hrte=0.2", "mode=live", "1@0,0@1",
    "1,0,1,0,1,0,1,0,1,0,1,0", " te = 0.3 ", "lbw=NOT IN05-OUT03:0.5,MID:0", "lbwe=IN05:attn:1,:ff:0", "hrlbwe=::1",
    "dyn=4", "hrdyn=2", " off ", "INALL,M00:0.3",
]  # fmt: skip
VALUES = {
    "te": ["0.9", "1@0,0@1"], "unet": ["0.25", "0@0,1@50%"], "dyn": ["4", "timestep"],
    "lbw": ["NOT TIME LAST:0;IN05:0.3", "INS", "MID"], "lbwe": ["::1", "MID:attn:0;:ff:2"], "x": ["3"],
    "start": ["1"], "stop": ["7"], "hrlbw": ["MID", "IN05:0.5"], "off": ["off"], "mode": ["merged"], "hr": ["0.4"],
    "hrte": ["2"], "step": ["1-3"],
}  # fmt: skip
CHANGES = 4


def target(data: bytes) -> None:
    choices = Choices(data)
    name = quote_name(choices.one(["n", 'a:b"', "style/ink", "x>y"]))
    tag = only(
        ":".join([f"<{choices.one(['lora', 'lyco'])}:{name}", *choices.some(lambda: choices.one(ITEMS), 7)]) + ">"
    )
    for _ in range(1 + choices.number(0, CHANGES)):
        if tag is None:
            return
        tag = changed(choices, tag)


def changed(choices: Choices, tag: Tag) -> Tag | None:
    wanted = {
        key: None if choices.chance(3) else choices.one(VALUES[key])
        for key in choices.some(lambda: choices.one([*VALUES]), 2)
    }
    assert edit_tag(tag, {}) == tag.text
    values = {key: value for key, value in by_key(tag).items() if key not in wanted}
    values |= {key: value for key, value in wanted.items() if value is not None}
    named = "".join(f":{OFF_TOKEN}" if key == OFF_TOKEN else f":{key}={value}" for key, value in values.items())
    expected, found = only(f"<{tag.kind}:{quote_name(tag.name)}{named}>"), only(edit_tag(tag, wanted))
    assert (expected is None) == (found is None)
    assert expected is None or found is None or expected.identity == found.identity
    weights = "0.25,1,0,1,0,1,0,1,0,1,0,1"
    if tag.options.spec.blocks and (again := only(pin_sampled(tag, weights))) is not None:
        assert again.options.spec.blocks.replace(";", ",") == weights
    return found


def only(text: str) -> Tag | None:
    """None where something in it is no value of a tag."""
    parsed = parse(text)
    return parsed.tags[0] if parsed.tags and not parsed.problems else None


def by_key(tag: Tag) -> dict[str, str]:
    """What a tag says, each value by its key: named ones win."""
    inside = tag.text[len(tag.kind) + 2 : -1]
    found = sorted(tokenize(inside)[1], key=lambda one: "=" in one[1])
    return {key: item.partition("=")[2].strip() if "=" in item else item.strip() for key, item in found}


def seeds() -> list[bytes]:
    return [bytes(range(n, n + 16)) for n in range(0, 200, 25)]
