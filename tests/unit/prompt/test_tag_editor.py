"""A tag that is edited says what it said, but for what was changed."""

from __future__ import annotations

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st

from lib_adapters.prompt.tag_editor import edit_tag, pin_sampled
from lib_adapters.prompt.tag_lexer import OFF_TOKEN, tokenize
from lib_adapters.prompt.tags import parse
from tests.support.prompt_checks import only
from tests.support.trial_counter import Tried

SOME = [
    "0.5", "0.7", "8", "IN02", "off", "te=0.1", "unet=0@0,1@1", "timestep", "lbw=MID:0.5", "lbw=IN05", "w=INS", "x=2",
    "lbwe=MID::0", "start=3", "hr=0.5", "hrlbw=OUTS", "mode=live", "1@0,0@1", "1,0,1,0,1,0,1,0,1,0,1,0", " te = 0.3 ",
]  # fmt: skip
ITEMS = st.sampled_from(SOME)
VALUES = {  # of the block weights each could be the beginning of a rule
    "te": "0.9", "unet": "0.25", "dyn": "4", "lbw": "NOT TIME LAST:0;IN05", "lbwe": "MID", "x": "3", "start": "1",
    "stop": "7", "hrlbw": "MID", "hrlbwe": "IN05-MID", "off": "off", "mode": "merged",
}  # fmt: skip


def by_key(items: list[str]) -> dict[str, str]:
    """What a tag says, each value by its key: named ones win."""
    found = sorted(tokenize(":".join(["n", *items]))[1], key=lambda one: "=" in one[1])
    return {key: item.partition("=")[2].strip() if "=" in item else item.strip() for key, item in found}


@given(st.lists(ITEMS, max_size=6), st.dictionaries(st.sampled_from(sorted(VALUES)), st.booleans(), max_size=3))
@example(["0.5", "IN02"], {"dyn": False})
@example(["hrlbw=OUTS", "0.5"], {"hrlbw": False})
@example(["0.5", "unet=0@0,1@1", "timestep"], {"te": True})
@example([" te = 0.3 ", "0.5", "0.5"], {"te": False})
@example(["lbw=IN05", "x=2", "0.5"], {"x": True})
@example(["lbw=IN05", "off", "0.5"], {"off": True})
def test_values_are_set_or_taken_out_and_all_others_stay(items: list[str], changes: dict[str, bool]) -> None:
    check(items, changes)


def test_each_value_beside_every_one_or_two_others(tried: Tried) -> None:
    edits = tried("edits of tags", "edits")
    for items in (list(some) for count in range(3) for some in product(SOME, repeat=count)):
        for key, out in product(VALUES, (False, True)):
            check(items, {key: out})
            edits.add()


def check(items: list[str], changes: dict[str, bool]) -> None:
    """`changes`: which keys, and whether they are taken out."""
    tags = parse(":".join(["<lora:n", *items]) + ">")
    if tags.problems:
        return
    wanted = {key: None if out else VALUES[key] for key, out in changes.items()}
    expected = {key: value for key, value in (by_key(items) | wanted).items() if value is not None}
    named = "".join(f":{OFF_TOKEN}" if one == OFF_TOKEN else f":{one}={value}" for one, value in expected.items())
    found = only(edit_tag(tags.tags[0], wanted))
    assert found.identity == only(f"<lora:n{named}>").identity


def test_a_value_too_many_never_takes_the_place_of_another() -> None:
    for change, written in [
        ({"unet": "0.5"}, "<lyco:n:0.1:0.5:4:9>"),
        ({"te": None}, "<lyco:n:unet=0.2:dyn=4>"),
        ({"dyn": None}, "<lyco:n:0.1:0.2>"),
    ]:
        assert edit_tag(parse("<lyco:n:0.1:0.2:4:9>").tags[0], change) == written


def test_only_block_weights_have_colons_of_their_own() -> None:
    assert tokenize("n:foo=IN05:0.5") == ("n", [("foo", "foo=IN05"), ("te", "0.5")])
    assert tokenize("n:lbw=IN05:0.5") == ("n", [("lbw", "lbw=IN05:0.5")])


def test_what_is_not_changed_stays_as_it_was_written() -> None:
    tag = only('<lyco:"a: b" : 0.50 :0.7: MIDD :hr = 1:off>')
    assert edit_tag(tag, {"unet": "0.25"}) == '<lyco:"a: b" : 0.50 :0.25: MIDD :hr = 1:off>'
    assert edit_tag(tag, {"hr": "2", "off": None}) == '<lyco:"a: b" : 0.50 :0.7: MIDD :hr =2>'
    assert edit_tag(tag, {"mode": "live"}) == '<lyco:"a: b" : 0.50 :0.7: MIDD :hr = 1:off:mode=live>'
    assert edit_tag(tag, {}) == tag.text
    assert edit_tag(only("<lyco:n:mode=live: 0.5>"), {"mode": None}) == "<lyco:n:te=0.5>"
    assert edit_tag(only("<lyco:n>"), {"te": "0.5", "unet": "0.7"}) == "<lyco:n:0.5:0.7>"
    assert edit_tag(only("<lyco:n:1:1:OUTS:lbw=MIDD>"), {"lbw": "MID:0.5"}) == "<lyco:n:1:1:lbw=MID:0.5>"
    assert edit_tag(only("<lyco:n:1:off>"), {"off": "1"}) == "<lyco:n:1:off>"


def test_weights_that_were_drawn_stand_in_the_place_of_chance() -> None:
    numbers = "0.25,1,0,1,0,1,0,1,0,1,0,1"
    for text, key, first_pass, second_pass in [
        ("<lora:n:1:ROUT:0.7>", "lbw", numbers, numbers),
        ("<lora:n:lbw=ROUT:hrlbw=RIN:0.7>", "lbw", numbers, "RIN"),
        ("<lora:n:lbw=ROUT:hrlbw=RIN:0.7>", "hrlbw", "ROUT", numbers),
        ("<lora:n:lbw=ROUT:hrx=2:0.7>", "hrlbw", "ROUT", numbers),
    ]:
        tag, before = only(pin_sampled(only(text), numbers, key)), only(text)
        assert "," not in tag.text
        assert pin_sampled(only(text), numbers) == pin_sampled(only(text), numbers, "lbw")
        assert [tag.for_pass(late).spec.blocks.replace(";", ",") for late in (False, True)] == [first_pass, second_pass]
        assert (tag.te, tag.unet) == (before.te, before.unet)


def test_a_value_that_counts_no_more_is_not_read_as_the_end_of_a_rule() -> None:
    tag = parse("<lora:n:stop=0.5:0.7:lbw=INS:stop=0.5:IN02:lbw=IN05>").tags[0]
    assert only(edit_tag(tag, {"stop": "7", "lbw": "MID"})).identity == only("<lora:n:0.7:lbw=MID:stop=7>").identity
