"""PEFT's patterns for rank and alpha match what PEFT's own expression matches, in a bounded time."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_adapters.files.peft_patterns import PatternTable, UnsupportedPattern

NAMES = (
    "to_q",
    "mid_block.attentions.0.attn1.to_k",
    "down_blocks.10.attn2.to_out.0",
    "text_model.encoder.layers.3.self_attn.q_proj",
)
PATTERNS = (
    "to_q", "to.q", "^to_q", "to_q$", "mid", ".*", "", "a|to_q", r"to\_q", r".*attn\d.to_k", r"attn[12]\.to_(k|v)$",
    r"(down|up)_blocks\.\d+\..*", r"(?!.*attn2).*to_.*", r"(?=mid)m.*k", "[^.]*", "[a-z_]+", r"\w+", r"\W*.*",
    r"\w+\.\d{2}\.attn2.to_out.0", r"blocks.1?0?.*", r"attn1\.to_k$", r"^mid_block\.attentions\.0\.attn1\.to_k$",
    r"to\.q", "^to.q$", "(?:layers.[0-3]|x).*", "o??ut.0", r"[\d.]+", "to_[k-q]",
)  # fmt: skip
PIECES = st.recursive(
    st.sampled_from(["a", "b", r"\.", ".", "[ab]", "[^b]", r"\w", "^a", "b$", "(?=a)", "(?!b)"]),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{})".format, inner, inner),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{,2}", "*?", "+?"])),
    ),
    max_leaves=8,
)


def pefts(pattern: str, name: str) -> bool:
    """`get_pattern_key` of PEFT."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_peft_matches(pattern, name):
    assert PatternTable({pattern: 5}).lookup(name) == (5 if pefts(pattern, name) else None)


@given(PIECES, st.text("ab.", max_size=7))
def test_any_pattern_matches_what_peft_matches(pattern, name):
    assert PatternTable({pattern: 5}).lookup(name) == (5 if pefts(pattern, name) else None)


def test_the_first_match_counts():
    assert PatternTable({"x": 1, r".*to_\w": 2, "to_q": 3}).lookup("a.to_q") == 2
    assert PatternTable({"to_q": 3, ".*to_q": 2}).lookup("a.to_q") == 3
    assert PatternTable({"to_q": 3, r"(?<=x)y": 2}).lookup("a.to_q") == 3


def test_a_table_with_every_layer_of_a_model_is_read():
    """As diffusers and `convert` write it where ranks differ; each entry alone is cheap, all with all would not be."""
    names = [f"down_blocks.{n}.attentions.0.transformer_blocks.{n}.attn1.to_out.0" for n in range(900)]
    for form in ("^{}", "{}", "^{}$"):
        table = PatternTable({form.format(name): n for n, name in enumerate(names)})
        assert [table.lookup(name) for name in names] == list(range(900))


@pytest.mark.parametrize(
    "pattern", [r"(?<=a)b", r"(a)\1", "(?P<x>a)", "(a", "a)", "*a", r"\bto", "[a", "a" * 3000 + "*"]
)
def test_a_pattern_beyond_what_is_followed_is_an_error(pattern):
    with pytest.raises(UnsupportedPattern, match="is not supported"):
        PatternTable({pattern: 1}).lookup("to_q")


@pytest.mark.parametrize(
    "pattern", ["(a+)+$x", "(a|aa)+$x", "((((a?){900}){900}){900}b){900}", "(?:(?=.*(?=.*(?=.*a))).)*b", "(" * 400]
)
def test_a_hostile_pattern_ends(pattern):
    """Backtracking would not end here: the test itself would not."""
    table = PatternTable({pattern: 1})
    with contextlib.suppress(UnsupportedPattern):
        assert [table.lookup("a" * 200) for _ in range(20)] == [None] * 20
