"""The grammar of the tags: what the web UI accepts, what it stumbles over, and that nothing makes the parser raise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_adapters.prompt.tags import Tag, parse, quoted

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)
PLAIN_TEXT = st.text(st.characters(exclude_characters="<"))
STRENGTHS = st.floats(allow_nan=False, allow_infinity=False)


def only(prompt: str) -> Tag:
    parsed = parse(prompt)
    assert parsed.problems == ()
    (tag,) = parsed.tags
    return tag


@pytest.mark.parametrize(
    ("prompt", "te", "unet", "dyn"),
    [
        ("<lyco:ink>", 1.0, 1.0, None),
        ("<lora:ink:0.8>", 0.8, 0.8, None),
        ("<lyco:ink:0.5:0.7>", 0.5, 0.7, None),
        ("<lyco:ink:0.5:0.7:8>", 0.5, 0.7, 8),
        ("<lyco:ink:te=0.5>", 0.5, 0.5, None),  # as in the web UI
        ("<lyco:ink:unet=0.5>", 1.0, 0.5, None),
        ("<lyco:ink:0.9:unet=0.5>", 0.9, 0.5, None),
        ("<lyco:ink:0.9:te=0.2:unet=0.5:dyn=4>", 0.2, 0.5, 4),
        ("<lyco:ink: te = -1.5e-1 : +2.>", -0.15, -0.15, None),
        ("<lyco:ink:-.5:1E3>", -0.5, 1000.0, None),
    ],
)
def test_strengths(prompt: str, te: float, unet: float, dyn: int | None) -> None:
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
    ("item", "named"), [("foo=1", "foo"), ("lbw=OUTS", "lbw"), ("TE=3", "TE"), ("0.9:1:4:7", "'7'")]
)
def test_what_is_not_known_is_reported_and_the_tag_still_works(item: str, named: str) -> None:
    parsed = parse(f"<lyco:ink:0.5:{item}>" if "=" in item else f"<lyco:ink:{item}>")
    (problem,) = parsed.problems
    assert named in problem
    assert [tag.name for tag in parsed.tags] == ["ink"]


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
    prompt = "".join(f"{text}<lyco:{quoted(name)}:{te!r}:{unet!r}>" for text, name, te, unet in pieces) + tail
    parsed = parse(prompt)
    assert parsed.problems == ()
    assert parsed.text == "".join(text for text, *_ in pieces) + tail
    assert [(tag.name, tag.te, tag.unet) for tag in parsed.tags] == [piece[1:] for piece in pieces]
