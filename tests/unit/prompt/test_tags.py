"""The grammar of the tags: what the web UI accepts, what it stumbles over, and that nothing makes the parser raise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_adapters.prompt.aesthetic_tag import parse as parse_aesthetic
from lib_adapters.prompt.block_weights import BlockWeightSpec
from lib_adapters.prompt.schedule import Strength, parse_curve, parse_window
from lib_adapters.prompt.tag_options import TagOptions
from lib_adapters.prompt.tags import TAG_KEYS, parse, quote_name
from tests.support.prompt_checks import only

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)
PLAIN_TEXT = st.text(st.characters(exclude_characters="<["))  # a bracket before a tag may be prompt editing
STRENGTHS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("prompt", "te", "unet", "dyn"),
    [
        ("<lyco:ink>", 1.0, 1.0, None),
        ("<lora:ink:0.8>", 0.8, 0.8, None),
        ("<lyco:ink:0.5:0.7>", 0.5, 0.7, None),
        ("<lyco:ink:0.5:0.7:8>", 0.5, 0.7, 8),
        ("<lyco:ink:0.5:0.7:+008>", 0.5, 0.7, 8),
        ("<lyco:ink:0.5:0.7:timestep>", 0.5, 0.7, "timestep"),
        ("<lyco:ink:dyn=timestep>", 1.0, 1.0, "timestep"),
        ("<lyco:ink:dyn=1@0,8@20>", 1.0, 1.0, parse_curve("1@0,8@20")),
        ("<lyco:ink:te=0.5:0:0@0,1@1>", 0.5, parse_curve("0@0,1@1"), None),
        ("<lyco:ink:0.5:0~3;1~6>", 0.5, parse_curve("0@3,1@6"), None),
        ("<lyco:ink:te=0.5>", 0.5, 0.5, None),  # as in the web UI
        ("<lyco:ink:unet=0.5>", 1.0, 0.5, None),
        ("<lyco:ink:0.9:unet=0.5>", 0.9, 0.5, None),
        ("<lyco:ink:0.9:te=0.2:unet=0.5:dyn=4>", 0.2, 0.5, 4),
        ("<lyco:ink: te = -1.5e-1 : +2.>", -0.15, -0.15, None),
        ("<lyco:ink:-.5:1E3>", -0.5, 1000.0, None),
    ],
)
def test_strengths(prompt: str, te: float, unet: Strength, dyn: object) -> None:
    tag = only(prompt)
    assert (tag.name, tag.te, tag.unet, tag.dyn) == ("ink", te, unet, dyn)


@pytest.mark.parametrize(
    "name",
    [
        "my ink v1.0",
        "a,b",
        "(FATA)_[v1.0]",
        "a=b",
        "te=0.5",
        "style/ink",
        "style\\ink",
        "インク é",
        "it's",
        'half"quoted',
        '"half',
        "a&b;c",
    ],
)
def test_names_are_taken_as_they_are(name: str) -> None:
    assert only(f"<lyco:{name}:0.5>").name == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"a:b, c"', "a:b, c"),
        ('"x > y"', "x > y"),
        ('"say ""hi"""', 'say "hi"'),
        ('"te=1" ', "te=1"),
        ('" "":"', ' ":'),
    ],
)
def test_quoted_names(written: str, name: str) -> None:
    tag = only(f"a <lora:{written}:0.5:te=1> b")
    assert (tag.name, tag.te, tag.unet) == (name, 1.0, 1.0)
    assert only(f"<lora:{written}>").name == name


def test_a_name_is_quoted_only_where_it_must_be() -> None:
    names = {"a b": "a b", "a=1": "a=1", 'a"b"': 'a"b"', "": '""', '"a': '"""a"', "a:b": '"a:b"', 'a>"': '"a>"""'}
    assert {name: quote_name(name) for name in names} == names


def test_text_and_spans() -> None:
    prompt = "a <b:c> (x:1.2) <lyco:one:1>,  <hypernet:h:1><lora:two>\nz"
    parsed = parse(prompt)
    assert parsed.text == "a <b:c> (x:1.2) ,  <hypernet:h:1>\nz"
    assert [(t.kind, t.name) for t in parsed.tags] == [("lyco", "one"), ("lora", "two")]
    assert (
        [prompt[slice(*t.span)] for t in parsed.tags] == [t.text for t in parsed.tags] == ["<lyco:one:1>", "<lora:two>"]
    )


def test_only_the_kinds_asked_for() -> None:
    parsed = parse("<lyco:a><lora:b>", names=("lyco",))
    assert parsed.text == "<lora:b>"
    assert [tag.name for tag in parsed.tags] == ["a"]


@pytest.mark.parametrize(
    ("bad", "token"),
    [
        ("<lyco:ink:abc>", "abc"),
        ("<lyco:ink:nan>", "nan"),
        ("<lyco:ink:te=-inf>", "-inf"),
        ("<lyco:ink:1e999>", "1e999"),
        ("<lyco:ink:1,5>", "1,5"),
        ("<lyco:ink:1_0>", "1_0"),
        ("<lyco:ink:1.0.0>", "1.0.0"),
        ("<lyco:ink::0.5>", "''"),
        ("<lyco:ink:te=>", "''"),
        ("<lyco:ink:1:1:0>", "'0'"),
        ("<lyco:ink:dyn=2.5>", "2.5"),
        ("<lyco:ink:unet==1>", "=1"),
        ("<lyco:ink:1:timestep>", "'timestep'"),
        ("<lyco:ink:1:@>", "'@'"),
        ("<lyco:ink:0@0,1@50%,1@9>", "'0@0,1@50%,1@9'"),
        ("<lyco:ink:dyn=0>", "'0'"),
        ("<lyco:ink:dyn=9999999999>", "'9999999999'"),
        ("<lyco:ink:dyn=①>", "'①'"),
        ("<lyco:ink:1:INS:x=X>", "'X'"),
        ("<lyco:ink:start=soon>", "'soon'"),
        ("<lyco:ink:stop=>", "''"),
        ("<lyco:ink:step=9>", "'9'"),
        ("<lyco:ink:mode=fast>", "'fast'"),
        ("<lyco:ink:hr=much>", "'much'"),
        ("<lyco:ink:hrte=0.5:hrunet=1@x>", "'1@x'"),
        ("<lyco:ink:hrstep=->", "'-'"),
        ("<lyco:ink" + ":1" * 70 + ">", "70 values"),
        ("<lyco:>", "no adapter"),
        ("<lyco: :1>", "no adapter"),
        ('<lyco:"":1>', "no adapter"),
    ],
)
def test_a_bad_tag_names_its_token_and_is_the_only_one_skipped(bad: str, token: str) -> None:
    parsed = parse(f"x {bad} y <lora:good:0.5>")
    (problem,) = parsed.problems
    assert bad in problem
    assert token in problem
    assert parsed.text == "x  y "
    assert [tag.name for tag in parsed.tags] == ["good"]


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ("foo=1", "'foo'"),
        ("TE=3", "'TE'"),
        ("lbw2=OUTS", "'lbw2'"),
        ("hrmode=live", "'hrmode'"),
        ("=1", "'=1'"),
        ("off=1", "'off'"),
        ("0.9:1:4:7", "'7'"),
        ("0.9:INS:0.7:0.8", "'0.8'"),
        ("0.9:INS:OUTS", "'OUTS'"),
    ],
)
def test_what_is_not_known_is_reported_and_the_tag_still_works(item: str, named: str) -> None:
    parsed = parse(f"<lyco:ink:0.5:{item}>" if "=" in item else f"<lyco:ink:{item}>")
    (problem,) = parsed.problems
    assert named in problem
    assert [tag.name for tag in parsed.tags] == ["ink"]


@pytest.mark.parametrize(
    ("items", "lbw", "x"),
    [
        ("1:IN02", "IN02", 1.0),
        ("1:lbw=IN02", "IN02", 1.0),
        ("1:w=IN02", "IN02", 1.0),
        ("1:ROUT:0.7", "ROUT", 0.7),
        ("1:ROUT:x=0.7", "ROUT", 0.7),
        ("1:lbw=ROUT:x=0.7", "ROUT", 0.7),
        ("1:1:ROUT:-0.7", "ROUT", -0.7),
        ("1:0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0", "0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0", 1.0),
        ("1:X,R,U,0,0,0,0,0,0,0,0,0:0.7", "X,R,U,0,0,0,0,0,0,0,0,0", 0.7),
        ("1:ALL0.5:lbw=INS", "INS", 1.0),
        ("1:lbw=IN05-OUT03:0.5,MID:0", "IN05-OUT03:0.5,MID:0", 1.0),
        ("1:lbw=INS,NOT IN05 mid:0.5;BASE:0:1", "INS,NOT IN05 mid:0.5;BASE:0", 1.0),
        ("1:lbw=INS, NOT  BASE:0:1:x=3", "INS, NOT  BASE:0", 3.0),
        ("1:lbw=IN05*0.5:1", "IN05*0.5", 1.0),
        ("1: lbw = MID : 0 ", "MID : 0", 1.0),
        ("1:lbw=MID", "MID", 1.0),
        ("1:lbw=MID:off", "MID", 1.0),
    ],
)
def test_block_weights(items: str, lbw: str, x: float) -> None:
    tag = only(f"<lora:n:{items}:step=5->")
    assert (tag.te, tag.unet, tag.dyn, tag.options.spec) == (1.0, 1.0, None, BlockWeightSpec(lbw, x=x))
    assert tag.options.window == parse_window("5", None, None)
    assert tag.disabled == items.endswith("off")


@pytest.mark.parametrize(
    "lbwe",
    ["ATTNDEEPON", "IN05-OUT05:attn:0.8", "::0", ":attn:1", "NOT IN05 IN06:NOT attn ff:2,MID::0", "MID*attn*1,BASE::0"],
)
def test_rules_for_kinds_of_layers(lbwe: str) -> None:
    tag = only(f"<lora:n:lbwe={lbwe}:0.5:hrlbwe={lbwe}:0.7:stop=10:off>")
    assert (tag.te, tag.unet, tag.disabled) == (0.5, 0.7, True)
    assert tag.options.spec == tag.for_pass(True).spec == BlockWeightSpec(elements=lbwe)
    assert tag.options.window == tag.for_pass(True).window == parse_window(None, "10", None)


@pytest.mark.parametrize("key", ["lbw", "w", "lbwe", "hrlbw", "hrlbwe"])
def test_a_rule_ends_where_it_is_whole_and_what_follows_is_a_strength(key: str) -> None:
    rule = "IN05:attn:0.5" if key.endswith("e") else "IN05:0.5"
    tag = only(f"<lora:n:0.3:{key}={rule}:0.7>")
    assert (tag.te, tag.unet) == (0.3, 0.7)
    wish = tag.for_pass(key.startswith("hr")).spec
    assert (wish.elements if key.endswith("e") else wish.blocks) == rule
    assert only(f"<lora:n:0.3:{key}:0.7>").options.spec == BlockWeightSpec(
        key, x=0.7
    )  # a preset of that name, and its x


@pytest.mark.parametrize(
    ("items", "off"), [("0.5:off", True), ("off:0.5", True), ("0.5: off :INS:2", True), ("0.5", False)]
)
def test_off_keeps_the_tag_and_its_numbers(items: str, off: bool) -> None:
    tag = only(f"<lora:off:{items}>")
    assert (tag.name, tag.te, tag.unet, tag.disabled) == ("off", 0.5, 0.5, off)


def test_a_quoted_name_with_all_keys() -> None:
    values = {
        "te": "0.1", "unet": "0.2", "dyn": "8", "lbw": "MID:0", "lbwe": "::0", "x": "2", "start": "1", "stop": "9",
        "step": "2-8", "w": "IN05:0.5,MID:0", "mode": "Live", "hr": "0.5",
    }  # fmt: skip
    text = "".join(f":{key}={values[key if key in values else key[2:]]}" for key in TAG_KEYS)
    tag = only(f'<lyco:"a: ""b"" > c" {text}:off>')
    wish, window = BlockWeightSpec("IN05:0.5,MID:0", "::0", 2.0), parse_window("2", "8", None)
    assert tag.options == TagOptions(0.1, 0.2, 8, wish, window)
    assert tag.hires == TagOptions(0.1, 0.2, 8, BlockWeightSpec("MID:0", "::0", 2.0), window)
    assert (tag.name, tag.mode, tag.disabled) == ('a: "b" > c', "live", True)


def test_tags_that_ask_for_the_same_are_told_from_those_that_do_not() -> None:
    assert only("<lora:n:1:0.5:IN02>").identity == only('<lora:"n":unet=.5:w=IN02>').identity
    others = ["", ":0.5", ":hr=1", ":off", ":mode=live", ":IN02", ":start=1", ":dyn=8", ":lbwe=::0"]
    assert len({only(f"<lora:n:1{more}>").identity for more in others} | {only("<lyco:n:1>").identity}) == 10


def test_an_open_tag_is_reported_and_stays() -> None:
    parsed = parse("a <lyco:ink:1 b")
    assert parsed.text == "a <lyco:ink:1 b"
    assert len(parsed.problems) == 1
    assert "never closed" in parsed.problems[0]


@given(st.text() | st.text('<lycora:">= 01.te-').map(lambda rest: f"<lyco:{rest}"))
def test_never_raises_and_keeps_all_other_text(prompt: str) -> None:
    parsed = parse(prompt)
    for tag in parsed.tags:
        assert prompt[slice(*tag.span)] == tag.text
        assert math.isfinite(tag.te)
        assert math.isfinite(tag.unet)
    assert len(parsed.text) <= len(prompt)
    assert parse(parsed.text.replace("<", "")).text == parsed.text.replace("<", "")


@given(st.lists(st.tuples(PLAIN_TEXT, NAMES, STRENGTHS, STRENGTHS)), PLAIN_TEXT)
def test_what_is_written_is_read_back(pieces: list[tuple[str, str, float, float]], tail: str) -> None:
    prompt = "".join(f"{text}<lyco:{quote_name(name)}:{te!r}:{unet!r}>" for text, name, te, unet in pieces) + tail
    parsed = parse(prompt)
    assert parsed.problems == ()
    assert parsed.text == "".join(text for text, *_ in pieces) + tail
    assert [(tag.name, tag.te, tag.unet) for tag in parsed.tags] == [piece[1:] for piece in pieces]


@pytest.mark.parametrize(("read", "kind"), [(parse, "lora"), (parse_aesthetic, "aesthetic")])
def test_what_stands_together_only_without_a_tag_is_no_tag_that_is_not_closed(read, kind):
    parsed = read(f"<{kind}<{kind}:n>:m>")
    assert (parsed.text, parsed.problems) == (f"<{kind}:m>", ())
    assert len(read(f"<{kind}:n> <{kind}:m").problems) == 1


def test_as_many_values_and_points_as_may_be():
    points = ",".join(f"{n}@{n}" for n in range(64))
    for tag, more in ((f"<lyco:n{':x=1' * 64}", ":x=1>"), (f"<lyco:n:unet={points}", ",64@64>")):
        assert len(parse(f"{tag}>").tags) == 1
        assert len(parse(tag + more).tags) == 0
