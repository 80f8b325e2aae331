"""Block weights: lora-block-weight's tables and rules restated, and what is added to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_adapters.errors import BadTag
from lib_adapters.prompt.block_layouts import BLOCKS, EDITOR_ROWS, LAYOUTS, block_range, parse_block
from lib_adapters.prompt.block_presets import BUILT_IN
from lib_adapters.prompt.block_weights import (
    MAX_TERMS,
    BlockWeights,
    BlockWeightSpec,
    ElementRule,
    Presets,
    ResolvedBlockWeights,
    element_rules,
    resolve_block_weights,
)

TABLES = {
    12: "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    20: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08",
    25: "BASE J00 J01 J02 J03 J04 J05 J06 J07 J08 J09 J10 J11 J12 J13 J14 J15 J16 J17 J18 J19 J20 J21 J22 J23",
    26: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 M00"
    " OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    61: "CLIP T5 IN D00 D01 D02 D03 D04 D05 D06 D07 D08 D09 D10 D11 D12 D13 D14 D15 D16 D17 D18"
    " S00 S01 S02 S03 S04 S05 S06 S07 S08 S09 S10 S11 S12 S13 S14 S15 S16 S17 S18 S19 S20 S21 S22 S23 S24 S25 S26 S27"
    " S28 S29 S30 S31 S32 S33 S34 S35 S36 S37 OUT",
}
UNET = TABLES[26].split()
EVERY = sorted({block for table in TABLES.values() for block in table.split()})


def weights(text: str, presets: Presets = BUILT_IN, x: float = 1.0, seed: str = "") -> BlockWeights:
    return resolve_block_weights(BlockWeightSpec(text, x=x), presets, seed).weights


def by_block(found: BlockWeights) -> dict[str, float]:
    return {block: found.factor_for(block, []) for block in (*EVERY, "TIME", "LAST", "")}


def only(names: str, value: float = 1.0, others: float = 0.0) -> dict[str, float]:
    """These blocks are at `value`, what lies outside all blocks is as it was."""
    named = names.split()
    assert {*named} <= {*EVERY}
    return {block: value if block in named else others for block in EVERY} | {"TIME": 1.0, "LAST": 1.0, "": 1.0}


@pytest.mark.parametrize("length", TABLES)
def test_a_list_gives_each_block_of_its_table_its_number(length: int) -> None:
    numbers = [n / 64 for n in range(1, length + 1)]
    expected = only("") | dict(zip(TABLES[length].split(), numbers, strict=True))
    for parting in (",", " , ", ";"):
        assert by_block(weights(parting.join(map(str, numbers)))) == expected
    assert LAYOUTS.keys() == TABLES.keys()
    assert sorted(BLOCKS) == EVERY
    assert all(" ".join(blocks) in TABLES.values() for blocks in EDITOR_ROWS.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIDD", only("BASE IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06")),
        ("OUTS", only("BASE OUT07 OUT08 OUT09 OUT10 OUT11")),
        ("outs", only("BASE OUT07 OUT08 OUT09 OUT10 OUT11")),
        ("ALL0.5", only(TABLES[17], 0.5)),
        ("OUTS,M00:0.5,OUT11:0", only("BASE OUT07 OUT08 OUT09 OUT10") | {"M00": 0.5}),
        ("NONE,MID:-1", only("M00", -1)),
        ("IN05", only("IN05")),
        ("in5, Middle", only("IN05 M00")),
        ("MID", only("M00")),
        ("BASE", only("BASE")),
        ("TE", only("BASE")),
        ("IN10-OUT01", only("IN10 IN11 M00 OUT00 OUT01")),
        ("OUT1-IN10", only("IN10 IN11 M00 OUT00 OUT01")),
        ("BASE-IN01;OUT11", only("BASE IN00 IN01 OUT11")),
        ("IN01 IN03-IN04", only("IN01 IN03 IN04")),
        ("J02-J04", only("J02 J03 J04")),
        ("S01-D18", only("D18 S00 S01")),
        ("CLIP-T5", only("CLIP T5")),
        ("NOT IN00-OUT11", only(" ".join({*EVERY} - {*UNET[1:]}))),
        ("IN10-OUT01:0.5", only("IN10 IN11 M00 OUT00 OUT01", 0.5, 1)),
        ("IN10-OUT01*0.5,MID:0", only("IN10 IN11 OUT00 OUT01", 0.5, 1) | {"M00": 0.0}),
        ("MID:0,IN10-OUT01:0.5", only("IN10 IN11 M00 OUT00 OUT01", 0.5, 1)),  # the last one wins
        ("NOT MID BASE:0", only("M00 BASE")),
        ("NOT TIME LAST:0.5,D03:2", only("", others=0.5) | {"D03": 2.0}),
        ("TIME:0", only("", others=1) | {"TIME": 0.0}),
        ("", only("", others=1)),
    ],
)
def test_presets_blocks_and_rules(text: str, expected: dict[str, float]) -> None:
    assert by_block(weights(text)) == expected


def test_a_preset_is_found_as_written_then_in_any_case_if_only_one_is_meant() -> None:
    presets = Presets({"soft": "MID", "Soft": "BASE", "Hard": "NOT MID:2", "MID": "OUT00"})
    found = [by_block(weights(word, presets)) for word in ("soft", "Soft", "HARD", "MID")]
    assert found == [only("M00"), only("BASE"), only("M00", 1, 2), only("OUT00")]
    with pytest.raises(BadTag, match="'SOFT'"):
        weights("SOFT", presets)


@pytest.mark.parametrize(
    ("word", "x", "value"), [("X", 0.7, 0.7), ("X+0.2", 0.7, 0.9), ("X-.5", 0.25, -0.25), ("X", 1, 1)]
)
def test_x_is_the_number_of_the_tag(word: str, x: float, value: float) -> None:
    found = resolve_block_weights(BlockWeightSpec(f"{word},1" + ",0" * 10, x=x), BUILT_IN)
    assert by_block(found.weights) == pytest.approx(only("IN04") | {"BASE": value})
    assert found.sampled_text == ""


def drawn(word: str, seed: str) -> list[float]:
    return [value for _, value in weights(",".join([word] * 61), seed=seed).factors]


@pytest.mark.parametrize(("word", "low", "high"), [("R", 0.0, 1.0), ("U", -0.5, 1.5)])
def test_chance_has_three_decimals_fills_its_range_and_follows_the_seed(word: str, low: float, high: float) -> None:
    numbers = [number for seed in range(20) for number in drawn(word, f"{seed}")]
    assert all(number == round(number, 3) for number in numbers)
    margin = 0.02 * (high - low)
    assert low <= min(numbers) < low + margin
    assert high - margin < max(numbers) <= high
    assert drawn(word, "7") == drawn(word, "7") != drawn(word, "8")
    assert len(set(drawn(word, "7"))) > 30  # each number is drawn anew


WORDS = st.sampled_from(["R", "U", "X", "X+0.1", "X-0.03", "1", "0.123456789", "-1e-9", "0"])
RANDOM = st.sampled_from([12, 17, 20, 25, 26, 61]).flatmap(
    lambda length: st.lists(WORDS, min_size=length, max_size=length)
)


@given(
    RANDOM, st.floats(-10, 10), st.text(max_size=3), st.sampled_from(["", "MID:0.5", "NOT IN05:U2", "TIME:0,D03:0.1"])
)
def test_the_text_of_what_was_drawn_is_read_as_the_same(values: list[str], x: float, seed: str, more: str) -> None:
    more = more.replace("U2", repr(x))
    presets = Presets({"mine": ",".join(values)})
    found = resolve_block_weights(BlockWeightSpec(f"mine,{more}".rstrip(","), x=x), presets, seed)
    assert bool(found.sampled_text) == bool({"R", "U"} & {*values})
    if found.sampled_text:
        again = resolve_block_weights(BlockWeightSpec(found.sampled_text), Presets())
        assert by_block(again.weights) == by_block(found.weights)
        assert again.sampled_text == ""


KEYS = [
    ("BASE", "transformer_text_model_encoder_layers_3_self_attn_q_proj"),
    ("IN00", "diffusion_model_input_blocks_0_0"),
    ("IN05", "diffusion_model_input_blocks_5_1_transformer_blocks_0_attn1_to_q"),
    ("IN11", "diffusion_model_input_blocks_11_0_in_layers_2"),
    ("M00", "diffusion_model_middle_block_1_proj_in"),
    ("OUT03", "diffusion_model_output_blocks_3_1_transformer_blocks_0_attn2_to_out_0"),
    ("OUT10", "diffusion_model_output_blocks_10_1_transformer_blocks_0_ff_net_0_proj"),
]
PLACES = st.sampled_from(["IN05", "M00", "BASE", "IN04-M00", "OUT11-OUT03", "BASE-OUT11", "OUT10", "IN00-IN00"])
KINDS = st.sampled_from(["attn", "attn1", "proj", "ff", "layers", "to_q", "nothing"])


def several(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from(["", "NOT "]), st.lists(words, min_size=1, max_size=3).map(" ".join)).map("".join)


def listed(word: str) -> list[str]:
    first, dash, last = word.partition("-")
    low, high = sorted([UNET.index(first), UNET.index(last)]) if dash else (0, -1)
    return UNET[low : high + 1] if dash else [word]


def by_lora_block_weight(rules: str, block: str, key: str, weight: float) -> float:
    """Blocks and kinds are looked for in the layer's name with its block behind it; the last rule that holds wins."""

    def meant(words: list[str]) -> bool:
        turned = words[0] == "NOT"
        return turned != any(word in key + block for word in words[turned:])

    for rule in rules.split(","):
        places, kinds, value = rule.split(":")
        blocks = [name for place in places.split(" ") for name in (listed(place) if place != "NOT" else [place])]
        if meant(blocks) and meant(kinds.split(" ")):
            weight = float(value)
    return weight


RULES = st.lists(
    st.tuples(several(PLACES) | st.just(""), several(KINDS) | st.just(""), st.sampled_from(["0", "0.5", "2"])).map(
        ":".join
    ),
    min_size=1,
    max_size=4,
).map(",".join)


@given(RULES, st.sampled_from(["OUTS", "", "NOT MID:0.3"]))
def test_rules_for_kinds_of_layers_hold_as_in_lora_block_weight(rules: str, lbw: str) -> None:
    for text in (rules, rules.replace(",", "\n"), rules.replace(":", " * "), rules.replace(",", " ;\r\n, ")):
        found = resolve_block_weights(BlockWeightSpec(lbw, text), BUILT_IN).weights
        for block, key in KEYS:
            assert found.factor_for(block, [key]) == by_lora_block_weight(
                rules, block, key, weights(lbw).factor_for(block, [key])
            )


def test_presets_of_rules_and_each_spelling_of_a_layer() -> None:
    off = resolve_block_weights(BlockWeightSpec("NONE", "attndeepon"), BUILT_IN).weights
    assert [off.factor_for(block, [key]) for block, key in KEYS] == [0, 0, 1, 0, 0, 1, 0]
    assert off.factor_for("IN05", ["mid_block_x", "y_attn1_z"]) == 1.0
    outside = resolve_block_weights(BlockWeightSpec("", ":time:0.5,NOT IN00-OUT11:ff:0.25"), BUILT_IN).weights
    assert [
        outside.factor_for("TIME", ["time_embed_0"]),
        outside.factor_for("", ["ff"]),
        outside.factor_for("M00", ["ff"]),
    ] == [0.5, 0.25, 1.0]


def test_the_same_said_otherwise_is_equal_and_nothing_is_nothing() -> None:
    assert resolve_block_weights(BlockWeightSpec(), BUILT_IN) == ResolvedBlockWeights(BlockWeights(), "")
    assert weights("MID,IN05,in05") == weights("IN05 M00")
    assert not BlockWeightSpec(x=2.0)
    assert BlockWeightSpec("MID")
    assert BlockWeightSpec(elements="::0")


def test_names_of_blocks() -> None:
    assert [parse_block(word) for word in ("in5", " IN05 ", "mid", "M0", "OUT", "D7", "IN12", "IN٣", "", "5")] == [
        "IN05", "IN05", "M00", None, "OUT", "D07", None, None, None, None,
    ]  # fmt: skip
    assert block_range("MID", "in11") == ["IN11", "M00"]
    assert block_range("IN00", "OUT") is None


@pytest.mark.parametrize(
    ("lbw", "lbwe", "token"),
    [
        ("OUTZ", "", "'OUTZ'"),
        ("IN12", "", "'IN12'"),
        ("IN05-", "", "'IN05-'"),
        ("IN05-OUT12", "", "'IN05-OUT12'"),
        ("IN05:", "", "''"),
        ("IN05:x", "", "'x'"),
        ("IN05:0.5:1", "", "'0.5:1'"),
        ("IN05:nan", "", "'nan'"),
        ("IN05:0.5,MID", "", "'MID'"),
        ("OUTS,MID", "", "'MID'"),
        ("OUTS,INS", "", "'INS'"),
        (",", "", "''"),
        ("NOT", "", "'NOT'"),
        (":0.5", "", "''"),
        ("1", "", "'1'"),
        ("1,0,1", "", "'1,0,1'"),
        (",".join("1" * 18), "", "18 numbers"),
        (",".join(["1"] * 16 + ["r"]), "", "'r'"),
        (",".join(["1"] * 16 + [""]), "", "''"),
        (",".join(["1"] * 16 + ["X+1.2.3"]), "", "'+1.2.3'"),
        (",".join(["1"] * 16 + ["X*2"]), "", "'X*2'"),
        (",".join(["1"] * 16 + ["inf"]), "", "'inf'"),
        ("1,\ud800", "", "ud800"),
        ("", "ATTNDEEPONN", "'ATTNDEEPONN'"),
        ("", "IN05:attn", "'IN05:attn'"),
        ("", "IN05:attn:1:2", "'IN05:attn:1:2'"),
        ("", "IN5O:attn:1", "'IN5O'"),
        ("", "IN05:attn:one", "'one'"),
        ("", "::0,IN05:attn", "'IN05:attn'"),
        ("MID:0," * 300, "", "'MID:0,MID:0"),
        ("1," * 50000, "", "'1,1,1,1"),
        ("", "::0," * 20000, "'::0,::0"),
        ("Z" * 100000, "", "'ZZZZZZ"),
        ("NOT " * 25000, "", "'NOT'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(lbw: str, lbwe: str, token: str) -> None:
    with pytest.raises(BadTag) as caught:
        resolve_block_weights(BlockWeightSpec(lbw, lbwe), BUILT_IN)
    assert token in str(caught.value)
    assert len(str(caught.value)) < 3 * len(lbw + lbwe) + 200


def test_a_value_and_the_kinds_are_read_as_they_are_meant() -> None:
    with pytest.raises(BadTag, match=r"^'1' in lbw= is neither"):
        weights("IN05:0.5,MID:0.5,1")  # a list of blocks with a slip, not a list of numbers
    assert element_rules("IN05:NOT FF:0.5") == (ElementRule(frozenset({"IN05"}), False, ("ff",), True, 0.5),)
    some = Presets({"A": "1,R,0,0,0,0,0,0,0,0,0,0"})
    assert (
        resolve_block_weights(BlockWeightSpec("A,IN05:0.5"), some, "s").sampled_text
        == "NOT TIME LAST:0,BASE:1,IN04:0.189,IN05:0.5"
    )


@pytest.mark.parametrize(("read", "rule"), [(weights, "IN05:1"), (element_rules, "IN05:attn:1")])
def test_as_many_rules_as_may_be(read, rule: str) -> None:
    read(",".join([rule] * MAX_TERMS))
    with pytest.raises(BadTag, match="too long"):
        read(",".join([rule] * (MAX_TERMS + 1)))
