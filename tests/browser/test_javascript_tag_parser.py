"""The page reads and changes tags by itself: it means what the parser means, and changes nothing but what is asked."""

from __future__ import annotations

import random
import re

import pytest

from lib_adapters.prompt.prompt_editing import Switch, Timeline
from lib_adapters.prompt.schedule import SamplingStep, strength_at
from lib_adapters.prompt.tag_lexer import QUOTED_NAME, tokenize
from lib_adapters.prompt.tags import Tag, _arguments, parse
from tests.support import random_tags
from tests.unit.prompt.test_prompt_editing_steps import BOTH, TEN, acts, tagged

MANY = random_tags.tags(1500)
REWRITE = "pairs => pairs.map(([text, changes]) => lycoris.rewritten(text, changes))"


@pytest.fixture
def page(hundred, visit):
    return visit(hundred).ready().page


def only(text: str) -> Tag | None:
    found = parse(text).tags
    assert len(found) <= 1
    return found[0] if found else None


def test_both_readers_agree(page):
    read = page.evaluate(random_tags.READ, MANY)
    told = [(tag := only(text)) and random_tags.told(tag) for text in MANY]
    assert sum(one is not None for one in told) > 500
    for text, mine, theirs in zip(MANY, told, read, strict=True):
        assert theirs == mine, text


def test_a_prompt_of_many_tags(page):
    prompt = "a <b:c>, ".join(MANY[:200]) + "<lyco:never closed"
    read = page.evaluate("prompt => lycoris.tags(prompt).map(tag => [tag.text, tag.start, tag.end])", prompt)
    assert [text for text, _, _ in read] == MANY[:200]
    assert all(prompt[start:end] == text for text, start, end in read)


CHANGES: list[dict[str, str | None]] = [
    {"te": "0.25"},
    {"unet": "0.25"},
    {"unet": "0@0%,1@100%"},
    {"unet": None},
    {"lbw": "OUTS"},
    {"lbw": "1st, odd"},
    {"lbw": "off"},
    {"lbw": None},
    {"lbwe": "ATTNDEEPON"},
    {"lbwe": None},
    {"start": "5"},
    {"stop": "80%"},
    {"start": None},
    {"mode": "live"},
    {"mode": None},
    {"off": "off"},
    {"off": None},
    {"hr": "0.5"},
]


def values_of(text: str) -> tuple[str, dict[str, str]]:
    """The name and the values by key, as the parser sees them before it reads any: they decide all that follows."""
    inside = re.fullmatch(rf"<(?:lyco|lora):({QUOTED_NAME}[^>]*|[^>]*)>", text)
    assert inside
    name, items = tokenize(inside[1])
    return name, _arguments(items, text, [])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_change_changes_nothing_else(page, seed):
    chance = random.Random(seed)
    pairs = [(text, chance.choice(CHANGES)) for text in random_tags.tags(1500, seed + 10) if only(text)]
    made = page.evaluate(REWRITE, pairs)
    for (text, change), after in zip(pairs, made, strict=True):
        assert after is not None, (text, change)
        name, values = values_of(text)
        wanted = {key: value for key, value in (values | change).items() if value is not None}
        assert values_of(after) == (name, wanted), (text, change, after)
        assert only(after) is not None, (text, change, after)


EXACT = [
    ("<lyco:ink>", {"te": "0.5"}, "<lyco:ink:0.5>"),
    ("<lyco:ink:1>", {"te": "0.5"}, "<lyco:ink:0.5>"),
    ("<lora:ink: 1 : .5 :8:foo=x>", {"unet": "0.7"}, "<lora:ink: 1 : 0.7 :8:foo=x>"),
    ("<lyco:ink:te=1:unet = 2 >", {"unet": "0.7"}, "<lyco:ink:te=1:unet = 0.7 >"),
    ("<lyco:ink:0.8>", {"unet": "0.5"}, "<lyco:ink:0.8:0.5>"),
    ("<lyco:ink:te=0.8:dyn=4>", {"unet": "0.5"}, "<lyco:ink:te=0.8:unet=0.5:dyn=4>"),
    ("<lyco:ink:0.8:OUTS>", {"unet": "0.5"}, "<lyco:ink:0.8:0.5:OUTS>"),
    ("<lyco:ink:unet=0.5>", {"te": "0.2"}, "<lyco:ink:te=0.2:unet=0.5>"),
    ("<lyco:ink:0.8>", {"off": "off"}, "<lyco:ink:0.8:off>"),
    ("<lyco:ink:0.8:lbw=IN05>", {"off": "off"}, "<lyco:ink:0.8:lbw=IN05:off>"),
    ("<lyco:ink:off:0.8: OFF=1>", {"off": None}, "<lyco:ink:0.8: OFF=1>"),
    ("<lyco:ink:0.8:OUTS:0.3>", {"lbw": None}, "<lyco:ink:0.8:x=0.3>"),
    ("<lyco:ink:0.8:lbw=IN05-OUT03:0.5,MID:0:te=1>", {"lbw": "OUTS"}, "<lyco:ink:0.8:lbw=OUTS:te=1>"),
    ("<lyco:ink:0.8:lbw=IN05-OUT03:0.5:te=1>", {"lbw": None}, "<lyco:ink:0.8:te=1>"),
    ("<lyco:ink:0.8:0.5:4>", {"unet": None}, "<lyco:ink:0.8:dyn=4>"),
    ('<lora:"a:b > ""c""":0.8>', {"mode": "live"}, '<lora:"a:b > ""c""":0.8:mode=live>'),
    ("<lyco:ink:1:OUTS:0.5:MID:foo=1>", {"lbw": None}, "<lyco:ink:te=1:x=0.5:foo=1>"),
]


def test_the_rest_stays_character_for_character(page):
    made = page.evaluate(REWRITE, [[before, change] for before, change, _ in EXACT])
    assert made == [after for _, _, after in EXACT]


def test_a_value_that_cannot_be_written_changes_nothing(page):
    changes = [{"lbw": "a>b"}, {"lbw": " a"}, {"te": "abc"}, {"start": "soon"}]
    assert page.evaluate(REWRITE, [["<lyco:ink:1>", change] for change in changes]) == [None] * 4


POINTS = [
    ("movedPoint", ["0@0,1@50%", 1, {"value": 0.25}], "0@0,0.25@50%"),
    ("movedPoint", ["0@0, 1 @ 0.5 ;0@1", 1, {"position": 0.25, "value": 0.5}], "0@0, 0.5 @ 0.25 ;0@1"),
    ("movedPoint", ["0@0,1@10", 1, {"position": 1}], None),
    ("movedPoint", ["1@14sigma,0@2σ", 1, {"position": 1.5}], "1@14sigma,0@1.5σ"),
    ("movedPoint", ["1@1,0@0", 0, {"value": 0.5}], "1@1,0.5@0"),
    ("addedPoint", ["0@0%,1@100%", {"position": 0.5, "value": 0.3}], "0@0%,0.3@50%,1@100%"),
    ("addedPoint", ["0~5;1~10", {"position": 7, "value": 0.3}], "0~5;0.3~7;1~10"),
    ("addedPoint", ["1@0.5", {"position": 0.25, "value": 0.3}], "0.3@0.25,1@0.5"),
    ("removedPoint", ["0@0,1@50%,0@1", 0], "1@50%,0@1"),
    ("removedPoint", ["0@0,1@10", 1], "0@0"),
    ("removedPoint", ["0.75@10", 0], "0.75"),
]


@pytest.mark.parametrize(("work", "given", "wanted"), POINTS)
def test_points_of_a_curve(page, work, given, wanted):
    assert page.evaluate("([work, given]) => lycoris[work](...given)", [work, given]) == wanted


def test_a_schedule_has_the_same_values_in_every_step(page):
    texts = [
        text
        for text in random_tags.tags(600, 5)
        if (tag := only(text)) and tag.options.is_dynamic and "s" not in text[5:]
    ]
    steps = 12
    code = """([texts, steps]) => texts.map(text => { const [tag] = lycoris.tags(text);
        return Array.from({length: steps}, (_, step) =>
            lycoris.holds(tag.window, step, steps) ? lycoris.valueAt(tag.unet, step, steps) : 0); })"""
    assert len(texts) > 20
    for text, values in zip(texts, page.evaluate(code, [texts, steps]), strict=True):
        control = parse(text).tags[0].options
        mine = [strength_at(control.unet, control.window, SamplingStep(step, steps)) for step in range(steps)]
        assert values == pytest.approx(mine), text


SIGNS = ["[", "[", "[", "]", "]:", ":3]", ":0.5]", ": 12 ]", "::2]", "|", "]", "(", ")", ":1.2)", "\\", "a", " ",
         "@", "@", "\n", "<other:[|x>", " AND ", "éAND", "😀"]  # fmt: skip


def soup(count: int) -> list[str]:
    chance = random.Random(8)
    return ["".join(chance.choices(SIGNS, k=chance.randint(3, 14))) for _ in range(count)]


def test_both_read_the_same_brackets_around_tags(page):
    texts = [tagged(text) for text in [*(text for text, _ in (*TEN, *BOTH)), *soup(3000)] if "@" in text]
    code = """texts => texts.map(text => lycoris.tags(text).map(({edits}) => edits.map(one =>
        one.count === undefined ? [one.after, one.when, one.share] : [one.place, one.count])))"""

    def plain(edit):
        return (
            [edit.in_after, edit.when, edit.when_is_fraction]
            if isinstance(edit, Switch)
            else [edit.offset, edit.period]
        )

    some = 0
    for text, found in zip(texts, page.evaluate(code, texts), strict=True):
        mine = [sorted(map(plain, tag.edits), key=str) for tag in parse(text).tags]
        assert [sorted(edits, key=str) for edits in found] == mine, text
        some += any(mine)
    assert some > 80


def test_brackets_have_the_same_steps_on_the_page(page):
    texts = [tagged(text) for text, _ in (*TEN, *BOTH)]
    code = """texts => texts.map(text => lycoris.tags(text).map(tag =>
        Array.from({length: 10}, (_, step) => Number(lycoris.acts(tag, step, 10))).join("")))"""
    for text, found in zip(texts, page.evaluate(code, texts), strict=True):
        assert found == [acts(tag, Timeline(10), 10) for tag in parse(text).tags], text


REMOVED = [
    ("a cat, [<lyco:x:1>:10], b", "a cat, b"),
    ("a [[<lyco:x:1>::8]: 3 ] b", "a b"),
    ("a [ | <lyco:x:1>] b", "a b"),
    ("[<lyco:x:1>:word:10]", "[:word:10]"),
    ("[<lyco:x:1> word|b]", "[word|b]"),
    ("\\[<lyco:x:1>:10]", "\\[:10]"),
    ("[<lyco:x:1>]", "[]"),
]


@pytest.mark.parametrize(("before", "after"), REMOVED)
def test_a_tag_takes_brackets_of_its_own_with_it(page, before, after):
    code = """text => { const [tag] = lycoris.tags(text);
        return lycoris.applied(text, lycoris.removal(text, tag.start, tag.end)); }"""
    assert page.evaluate(code, before) == after


def test_the_page_says_what_brackets_do(page):
    code = "text => lycoris.scheduleText(lycoris.tags(text)[0])"
    assert page.evaluate(code, "[[<lyco:x:1>|b]:0.5]").endswith("; prompt editing: from 50% on, alternating, 1 of 2")
    assert page.evaluate(code, "<lyco:x:1>") == "1 in every step"
