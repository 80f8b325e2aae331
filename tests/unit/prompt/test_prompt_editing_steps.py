"""Tags inside prompt editing: in which steps they act, against the web UI's own reading of a word in their place.

The steps were computed with the prompt_parser of the web UI 1.10.1, with a word in the place of each `@`.
"""

from __future__ import annotations

import pytest

from lib_adapters.prompt.prompt_editing import Timeline, window_of
from lib_adapters.prompt.schedule import SamplingStep
from lib_adapters.prompt.tags import Tag, parse, unapplied_tag_messages, without_tags
from tests.support.prompt_checks import only

TEN = [
    ("[@:3]", ["0001111111"]),
    ("[@::3]", ["1110000000"]),
    ("[@:@:3]", ["1110000000", "0001111111"]),
    ("[@|@]", ["1010101010", "0101010101"]),
    ("[@|@|@]", ["1001001001", "0100100100", "0010010010"]),
    ("[@|]", ["1010101010"]),
    ("[@||b]", ["1001001001"]),
    ("[a cat @:a dog @:8]", ["1111111100", "0000000011"]),
    ("[@:0.5]", ["0000011111"]),
    ("[@:.25]", ["0011111111"]),
    ("[@::0.33]", ["1110000000"]),
    ("[@:1.0]", ["0000000000"]),
    ("[@:2.]", ["0000000000"]),
    ("[@:0]", ["1111111111"]),
    ("[@:-3]", ["1111111111"]),
    ("[@:99]", ["0000000000"]),
    ("[@:1e0]", ["0111111111"]),
    ("[@: 3 ]", ["0001111111"]),
    ("[ @ : b : 3 ]", ["1110000000"]),
    ("[[@::8]:3]", ["0001111100"]),
    ("[[@|b]:4]", ["0000101010"]),
    ("[[@:2]|b]", ["0010101010"]),
    ("[@:[b:@:7]:3]", ["1110000000", "0000000111"]),
    ("[[[@]]:2]", ["0011111111"]),
    ("([@:3]:1.2)", ["0001111111"]),
    ("[(@:1.3):3]", ["0001111111"]),
    ("(@:1.2)", ["1111111111"]),
    ("[@]", ["1111111111"]),
    ("[a @]", ["1111111111"]),
    ("@", ["1111111111"]),
    ("\\[@:3\\]", ["1111111111"]),
    ("\\[@:3]", ["1111111111"]),
    ("[a\\:@:3]", ["0001111111"]),
    ("[a\\|b @:3]", ["0001111111"]),
    ("[@:a\\]:3]", ["1110000000"]),
    ("[@", ["1111111111"]),
    ("@ :) [@:b:3] (", ["1111111111", "1110000000"]),
    ("[@:b", ["1111111111"]),
    ("[@:@]", ["1111111111", "1111111111"]),
    ("[@:b:c:3]", ["1111111111"]),
    ("[@|b:3]", ["1111111111"]),
    ("a | [@:3]", ["1111111111"]),
    ("[a|b:3] [@:3]", ["1111111111"]),
    ("(a|b) [@:3]", ["1111111111"]),
    ("[@:3] \\", ["1111111111"]),
    ("[a:b] [@:c:3]", ["1110000000"]),
    ("[(@:3]", ["1111111111"]),
    ("[@:3][@::3]", ["0001111111", "1110000000"]),
    ("a [@:3], [b|[@:5]]", ["0001111111", "0000010101"]),
    ("a | b AND [@:3]", ["0001111111"]),
    ("[@ AND b:3]", ["1111111111"]),
]
PASSES = [Timeline(10), Timeline(6, 10), Timeline(10, None, True), Timeline(6, 10, True)]
BOTH = [  # the first pass of 10 steps, a second one of 6; the same with the old timelines
    ("[@:3]", ["0001111111", "111111", "0001111111", "0001111111"]),
    ("[@:14]", ["0000000000", "000011", "0000000000", "0000000000"]),
    ("[@:1.5]", ["0000000000", "000111", "0111111111", "0111111111"]),
    ("[@::1.5]", ["1111111111", "111000", "1000000000", "1000000000"]),
    ("[@:0.5]", ["0000011111", "111111", "0000011111", "0000011111"]),
    ("[@::0.5]", ["1111100000", "000000", "1111100000", "1111100000"]),
    ("[@::1.0]", ["1111111111", "000000", "1000000000", "1000000000"]),
    ("[@::10]", ["1111111111", "000000", "1111111111", "1111111111"]),
    ("[@|b]", ["1010101010", "101010", "1010101010", "1010101010"]),
    ("[@:.25]", ["0011111111", "111111", "0011111111", "0011111111"]),
]


def tagged(text: str) -> str:
    """The prompt with a tag for each `@`; a tag's own signs are no brackets."""
    return text.replace("@", "<lora:ink[1]|(a):0.5:x=1>")


def acts(tag: Tag, timeline: Timeline, steps: int) -> str:
    window = window_of(tag.edits, timeline)
    return "".join(str(int(window is None or window.contains(SamplingStep(n, steps)))) for n in range(steps))


@pytest.mark.parametrize(("text", "steps"), TEN)
def test_a_tag_acts_where_a_word_in_its_place_is_written(text, steps):
    assert [acts(tag, Timeline(10), 10) for tag in parse(tagged(text)).tags] == steps


@pytest.mark.parametrize(("text", "steps"), BOTH)
def test_steps_are_counted_as_the_web_ui_counts_them_in_each_pass(text, steps):
    tag = only(tagged(text))
    assert [acts(tag, one, len(held)) for one, held in zip(PASSES, steps, strict=True)] == steps


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("a [@:3] b", "a  b"),
        ("fe[@|@]male", "female"),
        ("[[@::8]:3]", ""),
        ("a, [ @ : @ : 3 ], b", "a, , b"),
        ("cat[ @ :3]dog", "cat[  :3]dog"),  # the web UI parts these words from step 3 on
        ("a [@ b:3]", "a [ b:3]"),
        ("[cat [@:3]:5] x", "[cat :5] x"),
        ("[:3] a @", "[:3] a "),
        ("[@]", "[]"),
        ("[(@:1.2):3]", "[(:1.2):3]"),
        ("[@:@]", "[:]"),
        ("a | [@:3]", "a | [:3]"),
        ("[@<other:x>:3]", "[<other:x>:3]"),
    ],
)
def test_brackets_that_only_tags_stood_in_leave_the_text(text, rest):
    assert parse(tagged(text)).text == rest


@pytest.mark.parametrize("text", ["[@:@]", "[@:b", "a | [@:3]", "[@:b:c:3]", "[a:@3]", "[@:3] \\", "[(@:3]"])
def test_brackets_that_are_no_prompt_editing_are_reported(text):
    parsed = parse(tagged(text))
    assert len(parsed.problems) == len(parsed.tags)
    assert all("does not read the brackets around it as prompt editing" in one for one in parsed.problems)


@pytest.mark.parametrize("text", ["[@:3]", "[@", "[@]", "(@:1.2)", "@ :)", "a:b @", "[@|b]", "\\[@:3\\]", "(@"])
def test_nothing_is_reported_of_other_brackets(text):
    assert parse(tagged(text)).problems == ()


def test_commands_of_composable_lora_are_reported():
    (line,) = parse("[<lora:x:1> #increment:10] [<lora:x:1> #increment|]").problems
    assert line.startswith("#increment ... is a composable-lora command")
    assert parse("#increment <lora:x:1>").problems == ()


def test_words_beside_tags_in_brackets_are_named():
    assert parse("[a <lora:x:1>:b:3] [<lora:x:1>:4] [c:d:5]").messages == ("[a :b:3]",)


def test_a_tag_in_brackets_means_something_else():
    one, two, three = parse("[<lora:x:1>:3]<lora:x:1>[<lora:x:1>:3.0]").tags
    assert len({one.identity, two.identity, three.identity}) == 3


def test_other_tags_are_no_words_of_a_bracket():
    assert without_tags("a<hypernet:x:1>b<y:z> <lora:q") == "ab <lora:q"
    assert acts(only("[<hypernet:[:1><lora:x:1>:<other:]>3]"), Timeline(4), 4) == "0001"


def test_what_has_one_strength_for_all_steps_says_so():
    (line,) = unapplied_tag_messages("<hypernet:a:1> [<hypernet:b:1>:3]", "hypernet", "a hypernetwork")
    assert line.startswith("<hypernet:b:1>: a hypernetwork has one strength in all steps")
