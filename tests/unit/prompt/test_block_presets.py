"""The presets' file: lora-block-weight's own text keeps its meaning, and no line is lost without a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_adapters.prompt.block_layouts import LAYOUTS
from lib_adapters.prompt.block_presets import BUILT_IN, format_presets, merge_presets, parse_presets, preset_error
from lib_adapters.prompt.block_weights import BlockWeightSpec, Presets, resolve_block_weights

# what lora-block-weight writes into its two files when there are none: in each preset, by its meaning
LISTS_17 = {
    "NONE": {},
    "ALL": dict.fromkeys(range(17), 1.0),
    "INS": dict.fromkeys((0, 1, 2, 3), 1.0),
    "IND": dict.fromkeys((0, 4, 5, 6), 1.0),
    "INALL": dict.fromkeys(range(7), 1.0),
    "MIDD": dict.fromkeys((0, *range(4, 12)), 1.0),
    "OUTD": dict.fromkeys((0, 8, 9, 10, 11), 1.0),
    "OUTS": dict.fromkeys((0, 12, 13, 14, 15, 16), 1.0),
    "OUTALL": dict.fromkeys((0, *range(8, 17)), 1.0),
    "ALL0.5": dict.fromkeys(range(17), 0.5),
}
ELEMENTS = "ATTNDEEPON:IN05-OUT05:attn:1\n\nATTNDEEPOFF:IN05-OUT05:attn:0\n\nPROJDEEPOFF:IN05-OUT05:proj:0\n\nXYZ:::1"


def their_file() -> str:
    rows = (",".join(f"{row.get(n, 0):g}" for n in range(17)) for row in LISTS_17.values())
    lines = [f"{name}:{row}" for name, row in zip(LISTS_17, rows, strict=True)]
    return "\n".join([*lines, f"FLUXALL:{','.join(['1'] * 61)}"])


def test_their_default_files_are_read_with_their_meaning() -> None:
    presets, problems = parse_presets(f"{their_file()}\n[lbwe]\n{ELEMENTS}")
    assert problems == []
    for name, row in LISTS_17.items():
        assert resolve_block_weights(BlockWeightSpec(name), presets) == resolve_block_weights(
            BlockWeightSpec(name), BUILT_IN
        )
        assert dict(resolve_block_weights(BlockWeightSpec(name), presets).weights.factors) == {
            block: row.get(place, 0.0) for place, block in enumerate(LAYOUTS[17])
        }
    assert dict(resolve_block_weights(BlockWeightSpec("FLUXALL"), presets).weights.factors) == dict.fromkeys(
        LAYOUTS[61], 1.0
    )
    assert {name: value for name, value in presets.elements.items() if name != "XYZ"} == BUILT_IN.elements
    assert resolve_block_weights(BlockWeightSpec("NONE", "XYZ"), presets).weights.factor_for("OUT11", ["x"]) == 1.0


def test_the_built_in_ones_are_sound() -> None:
    assert parse_presets(format_presets(BUILT_IN)) == (BUILT_IN, [])


def test_comments_empty_lines_and_spaces() -> None:
    lines = [
        "\ufeff# mine",
        "",
        "  Soft face : IN05:0.5, MID:0 ",
        "#OLD:1,2",
        "ONE:BASE",
        "ONE:MID",
        " [LBWE] ",
        " E : MID::0",
    ]
    assert parse_presets("\r\n".join(lines)) == (
        Presets({"Soft face": "IN05:0.5, MID:0", "ONE": "MID"}, {"E": "MID::0"}),
        [],
    )


@pytest.mark.parametrize(
    ("line", "token"),
    [
        ("just words", "just words"),
        ("A:", "A has no weights"),
        ("A:1,2,3", "1,2,3"),
        ("A:OUTS", "'OUTS'"),  # a preset does not name another
        ("A:IN05:much", "'much'"),
        (":MID", "''"),
        ("0.5:MID", "'0.5'"),
        ("A,B:MID", "'A,B'"),
        ("A=B:MID", "'A=B'"),
        ('"A":MID', '"A"'),
        ("A:MID # mine", "'#'"),
    ],
)
def test_a_line_that_says_nothing_is_told_of_by_its_number(line: str, token: str) -> None:
    presets, (problem,) = parse_presets(f"# first\nGOOD:MID\n{line}\nALSO:BASE")
    assert presets == Presets({"GOOD": "MID", "ALSO": "BASE"})
    assert problem.startswith("line 3: ")
    assert problem.endswith(".")
    assert token in problem


def test_a_rule_without_its_weight_is_told_of_below_its_heading() -> None:
    presets, (problem,) = parse_presets("A:MID\n[lbwe]\nB:MID:attn\nC:MID:attn:0")
    assert presets == Presets({"A": "MID"}, {"C": "MID:attn:0"})
    assert problem.startswith("line 3: B: 'MID:attn'")


@pytest.mark.parametrize(
    "name", ["", " A", "A ", "#A", "\ufeffA", "A\nB", "A\rB", "A\x85B", "A\u2028B", "1e3", "a:b", "a>b", "a;b"]
)
def test_a_name_that_no_line_can_hold_is_refused(name: str) -> None:
    assert repr(name) in preset_error(name, "MID", False)
    assert repr(name) in preset_error(name, "::1", True)


def test_a_list_on_several_lines_is_refused_and_rules_are_brought_onto_one() -> None:
    assert "more than one line" in preset_error("A", "1,\n0", False)
    mine = Presets({}, {"A": "MID:attn:0\r\n\n IN05::1,\nBASE::2"})
    again, problems = parse_presets(format_presets(mine))
    assert problems == []
    assert resolve_block_weights(BlockWeightSpec(elements="A"), again) == resolve_block_weights(
        BlockWeightSpec(elements="A"), mine
    )


def test_later_presets_win() -> None:
    mine = Presets({"ALL": "MID", "mine": "BASE"}, {"XYZ": "::0"})
    found = merge_presets(BUILT_IN, mine)
    assert found.blocks == {**BUILT_IN.blocks, **mine.blocks}
    assert found.elements == {**BUILT_IN.elements, **mine.elements}
    assert merge_presets() == Presets()


NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(["MID", "NOT", "[lbwe]", "#x", "R", "off", "インク"])
LISTS = st.sampled_from([12, 17, 20, 26]).flatmap(
    lambda n: st.lists(st.sampled_from(["0", "1", "0.25", "R", "U", "X", "X-0.1"]), min_size=n, max_size=n).map(
        ",".join
    )
)
BLOCKS = LISTS | st.sampled_from(["MID", "IN05-OUT03:0.5,MID:0", "NOT BASE", "in5;mid"])
ELEMENT = st.sampled_from(
    ["::0", "IN05-OUT05:attn:0.8,MID::0", "NOT MID:NOT ff:2\nBASE::1", "a\x85b::0", "MID:a\x0cb:1"]
)


@given(st.dictionaries(NAMES, BLOCKS), st.dictionaries(NAMES, ELEMENT))
def test_what_is_written_is_read_as_the_same(blocks: dict[str, str], elements: dict[str, str]) -> None:
    mine = Presets(
        {name: value for name, value in blocks.items() if not preset_error(name, value, False)},
        {name: value for name, value in elements.items() if not preset_error(name, value, True)},
    )
    again, problems = parse_presets(format_presets(mine))
    assert problems == []
    assert again.blocks == mine.blocks
    assert again.elements.keys() == mine.elements.keys()
    for name in mine.elements:
        assert resolve_block_weights(BlockWeightSpec(elements=name), again) == resolve_block_weights(
            BlockWeightSpec(elements=name), mine
        )


LINES = st.tuples(NAMES, st.sampled_from([":", "", " : ", "::"]), st.text(max_size=9) | BLOCKS | ELEMENT).map("".join)


@given(st.text() | st.lists(LINES | st.just("[lbwe]"), max_size=6).map("\n".join))
def test_any_text_is_read_and_each_line_kept_or_told_of(text: str) -> None:
    presets, problems = parse_presets(text)
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
    said = [line for line in lines if line and not line.startswith("#") and line.lower() != "[lbwe]"]
    assert len(presets.blocks) + len(presets.elements) + len(problems) <= len(said)
    assert {line.partition(":")[0].strip() for line in said} >= {*presets.blocks, *presets.elements}
    for problem in problems:
        number = int(problem.removeprefix("line ").partition(":")[0])
        name = lines[number - 1].partition(":")[0].strip()
        assert name in problem or repr(name) in problem
    for name in presets.blocks:
        resolve_block_weights(BlockWeightSpec(name), presets)
    for name in presets.elements:
        resolve_block_weights(BlockWeightSpec(elements=name), presets)
