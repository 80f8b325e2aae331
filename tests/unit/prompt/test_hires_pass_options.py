"""The keys of the second (hires) pass, and what it takes over from the first."""

from __future__ import annotations

import pytest

from lib_adapters.prompt.schedule import parse_strength, parse_window
from lib_adapters.prompt.tag_options import constant_strength
from tests.support.prompt_checks import only

RISE = "0.5@0,1@1"


@pytest.mark.parametrize(
    ("items", "te", "unet", "hrte", "hrunet"),
    [
        ("1.0", "1", "1", "1", "1"),
        (f"{RISE}:hr=0.6", "0.5", RISE, "0.6", "0.6"),
        (f"te={RISE}", "0.5", RISE, "0.5", RISE),
        (f"unet={RISE}", "1", RISE, "1", RISE),
        (f"unet={RISE}:hrte=0.5", "1", RISE, "0.5", RISE),
        ("hr=0.6:hrte=0.5", "1", "1", "0.5", "0.6"),
        ("hrunet=0.2:hr=0.6", "1", "1", "0.6", "0.2"),
        ("0.8@0.15,0@0.3:hr=0", "0.8", "0.8@0.15,0@0.3", "0", "0"),
        (f"0.3:hr={RISE}", "0.3", "0.3", "0.5", RISE),
        ("0.3:0.4:hrlbw=MID", "0.3", "0.4", "0.3", "0.4"),
    ],
)
def test_the_second_pass_inherits_as_in_loractl(items: str, te: str, unet: str, hrte: str, hrunet: str) -> None:
    """The text encoder has the first value of a curve."""
    tag = only(f"<lora:loraname:{items}>")
    first, second = tag.for_pass(False), tag.for_pass(True)
    assert [first.te, first.unet, second.te, second.unet] == [parse_strength(text) for text in (te, unet, hrte, hrunet)]
    assert (tag.hires is None) == ("hr" not in items)


def test_the_second_pass_has_each_key_of_its_own_and_the_first_ones_otherwise() -> None:
    first = "0.3:0.4:8:lbw=INS:lbwe=::0:x=2:start=3:stop=9"
    for key, value in [("te", "1"), ("unet", "1"), ("dyn", "4"), ("lbw", "MID"), ("lbwe", "::1"), ("x", "5")]:
        tag = only(f"<lora:n:{first}:hr{key}={value}>")
        assert tag.options == only(f"<lora:n:{first}>").options
        assert tag.hires == only(f"<lora:n:{first}:{key}={value}>").options
    windows = {"hrstart=5": ("5", "9"), "hrstop=5": ("3", "5"), "hrstep=5-": ("5", None), "hrx=5": ("3", "9")}
    for item, (start, stop) in windows.items():
        assert only(f"<lora:n:{first}:{item}>").for_pass(True).window == parse_window(start, stop, None)


@pytest.mark.parametrize(
    ("items", "first", "second"),
    [
        ("te=0.5@0,1@1", "0.5@0,1@1 it takes the first value, 0.5", ""),
        ("0.5@0,0.5@1", "", ""),
        ("unet=0@0,1@1", "", ""),
        ("0.3:hr=1@0,0@1", "", "1@0,0@1 it takes the first value, 1"),
    ],
)
def test_a_curve_that_the_text_encoder_cannot_follow_is_told_of(items: str, first: str, second: str) -> None:
    tag = only(f"<lora:n:{items}>")
    for control, note in ((tag.options, first), (tag.hires, second)):
        notes = control.notes if control else ()
        assert len(notes) == bool(note)
        assert all(note in sentence for sentence in notes)


@pytest.mark.parametrize(
    ("items", "moves"),
    [
        ("0.5:8", False),
        ("INS:lbwe=::0", False),
        ("te=0@0,1@1:unet=1", False),
        ("0@0,1@1", True),
        ("start=0", True),
        ("dyn=timestep", True),
        ("dyn=1@0,8@1", True),
    ],
)
def test_what_changes_while_the_picture_is_drawn(items: str, moves: bool) -> None:
    assert only(f"<lora:n:1:{items}>" if "@" not in items else f"<lora:n:{items}>").options.is_dynamic == moves


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [("0.5", 0.5, False), ("unet=0.3@0,1@1", 0.3, True), ("0.5:stop=3", 0.5, True)]
    + [(f"0.5:{key}", 0.5, True) for key in ("lbw=MID:0.5", "lbwe=MID:attn:0", "dyn=4", "dyn=timestep")],
)
def test_what_has_one_strength_says_so_where_another_was_asked_for(keys, value, told):
    sentence = f"n has one strength for all layers and steps; {value:g} is used"
    assert constant_strength(only(f"<lyco:n:{keys}>").options, "n") == (value, sentence if told else "")
