"""Whatever stands in a prompt: nothing raises, what is refused is named, and the work grows no faster than the text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_adapters.prompt.aesthetic_tag import parse as parse_aesthetic
from lib_adapters.prompt.block_presets import parse_presets
from lib_adapters.prompt.block_weights import BlockWeightSpec
from lib_adapters.prompt.tags import TAG_KEYS, parse, quote_name
from tests.support.input_bounds import counted, patience
from tests.support.prompt_checks import check_problems, check_prompt, check_resolved

VALID = [
    "<lora:ink:0.8>",
    '<lyco:"a: ""b"" > c":0.5:0.7:8:mode=live:off>',
    "<lora:n:0.5:ROUT:0.7>",
    "<lora:n:1:lbw=IN05-OUT03:0.5,MID:0:start=5:stop=50%:x=2>",
    "<lyco:n:lbwe=IN05-OUT05:attn:0.8,NOT MID::0:step=0.2-4sigma>",
    "<lyco:n:0@0,1@50%;0.5@1:hr=1@0,0@9:hrlbw=1,R,U,X,X+0.2,1,1,1,1,1,1,1>",
    "<lora:n:1:INALL,M00:0.3:dyn=timestep:hrdyn=4~0,8~20>",
]
PIECES = ["<lora:", "<lyco:", ">", ":", "=", ",", ";", "@", "~", "%", '"', "*", "-", "NOT ", "IN05", "MID", "OUT", "R",
          "X+", "off", "[", "[", "]", "|", "(", ":3]", ":0.5]", "\\", "timestep", "sigma", "σ", "1e999",
          "٣", "\ud800", "\n", "\x00", "9" * 400, *(f":{key}=" for key in TAG_KEYS)]  # fmt: skip
CUTS = st.tuples(st.integers(0, 100), st.integers(0, 6), st.sampled_from(PIECES) | st.text(max_size=3))


def mutated(tag: str, cuts: list[tuple[int, int, str]]) -> str:
    for place, length, put in cuts:
        at = place * len(tag) // 100
        tag = tag[:at] + put + tag[at + length :]
    return tag


MUTATED = st.builds(mutated, st.sampled_from(VALID), st.lists(CUTS, min_size=1, max_size=4))
SOUP = st.lists(st.sampled_from(PIECES) | st.sampled_from(VALID) | st.text(max_size=3), max_size=12).map("".join)
WILD = st.text(st.characters())  # lone surrogates too
LBW = st.lists(st.sampled_from([*PIECES, "1", "0.5", "IN05-OUT03:0.5", "INS", "J05"]) | WILD, max_size=14).map("".join)


@given(MUTATED | SOUP | WILD)
@example("<lora:n:lbw=1,\ud800>")
def test_any_tag_is_read_or_named_and_what_is_read_can_be_used(prompt: str) -> None:
    check_prompt(prompt)


@given(LBW | WILD, LBW | WILD, st.floats(-9, 9))
def test_any_weights_are_read_or_named(blocks: str, elements: str, x: float) -> None:
    check_resolved(BlockWeightSpec(blocks, x=x))
    check_resolved(BlockWeightSpec(elements=elements))


@given(WILD, st.sampled_from(["1", "IN05:0.5,MID:0", "OUTS", "0@0,1@1"]))
def test_any_name_that_is_quoted_is_read_back(name: str, item: str) -> None:
    tags = parse(f"<lora:{quote_name(name)}:0.5:{item}>").tags
    assert [tag.name for tag in tags] == ([name] if name.strip() else [])


@given(st.lists(LBW | WILD | st.just("[lbwe]"), max_size=5).map("\n".join))
def test_any_file_of_presets_is_read(text: str) -> None:
    presets, problems = parse_presets(text)
    assert len(problems) + len(presets.blocks) + len(presets.elements) <= len(text.splitlines())


N = 100_000
LONG = {
    "digits": f"<lyco:a:{'1' * N}x>",
    "digits behind a point": f"<lyco:a:1.{'1' * N}x>",
    "a long number": f"<lyco:a:{'1' * N}>",
    "many ranks": f"<lyco:a:dyn={'1' * N}>",
    "a long position": f"<lyco:a:1@{'1' * N}x>",
    "a long window": f"<lyco:a:step={'1' * N}-{'1' * N}x>",
    "no end": "<lyco:" * (N // 2),
    "no end with quotes": '<lyco:"' * (N // 2),
    "quotes without an end": '<lyco:"""' * (N // 9) + ">",
    "no end but one": "<lyco:" * (N // 6) + ">",
    "quotes": f'<lyco:"{chr(34) * N}x>',
    "spaces behind a quote": f'<lyco:"a"{" " * N}x>',
    "empty keys": f"<lyco:a{':=' * (N // 2)}>",
    "positional values": f"<lyco:a{':1' * (N // 2)}>",
    "a long key": f"<lyco:a:{'k' * N}=1>",
    "a long word": f"<lyco:a:1:INS:0.5:{'k' * N}>",
    "colons": f"<lyco:a:lbwe={':' * N}>",
    "rules": f"<lyco:a:lbw={'MID:0,' * (N // 6)}MID:0>",
    "rules for kinds": f"<lyco:a:lbwe={'MID::0,' * (N // 7)}MID::0>",
    "a rule of many words": f"<lyco:a:lbw={'NOT ' * (N // 4)}:0>",
    "a long range": f"<lyco:a:lbw={'-' * N}>",
    "points": f"<lyco:a:{'1@0,' * (N // 4)}1@0>",
    "signs of points": f"<lyco:a:{'@' * N}>",
    "numbers": f"<lyco:a:1:{'1,' * (N // 2)}1>",
    "tags": "<lyco:a:=:x>" * (N // 12),
    "brackets": "[" * (N // 4) + "<lyco:a>" + ":3]" * (N // 4),
    "brackets of tags": "[<lyco:a>:" * (N // 13) + ":3]" * (N // 13),
    "alternating tags": "[<lyco:a>|" * (N // 11) + "]" * (N // 11),
    "brackets without an end": "[<lyco:a>:" * (N // 10),
    "brackets across": "([<lyco:a>:3" * (N // 12),
    "turns of many lengths": "[" * 300 + "<lyco:a>" + "".join("|" * n + "]" for n in range(1, 300)),
    "other tags without an end": "<a:" * (N // 6) + "<lyco:a>" + "<a:" * (N // 6),
}  # fmt: skip


def everything(prompt: str) -> None:
    for tag in parse(prompt).tags:
        check_resolved(tag.options.spec)
    parse_presets(f"{prompt}\n{prompt.replace(':', chr(10))}")


@pytest.mark.parametrize("prompt", LONG.values(), ids=LONG)
def test_long_texts_are_read_at_once(prompt: str) -> None:
    with patience(60):
        for read, text in ((parse, prompt), (parse_aesthetic, prompt.replace("<lyco:", "<aesthetic:"))):
            parsed = read(text)
            check_problems(text, parsed)
            assert sum(map(len, parsed.problems)) < 40 * len(text) + 2000
        counted(lambda: everything(prompt), 100 * len(prompt) + 5000)
