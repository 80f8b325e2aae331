"""The lines that a user reads of each adapter: how much was applied, why not all, and what else there is to know."""

from __future__ import annotations

from lib_adapters.patching.report import ROWS_UNRESOLVED, AdapterReport, Report
from lib_adapters.prompt.schedule import parse_curve


def test_one_line_says_what_of_it_is_where():
    report = AdapterReport("ink", 0.5, 1.0, matched=7, total=9, algorithms={"LoRA": 5, "LoKr": 2})
    assert report.summary() == "ink: 7 of 9 layers (LoRA 5, LoKr 2), te 1, unet 0.5"
    report.unet = parse_curve("0@0,1@1")
    assert report.summary() == "ink: 7 of 9 layers (LoRA 5, LoKr 2), te 1, unet 0@0%,1@100%"
    report.disabled_by_blocks = 2
    assert report.summary().endswith(", 2 at a block weight of 0")
    report.error = "ink cannot be used."
    assert report.summary() == "ink cannot be used."


def test_reasons_are_counted_and_named_with_an_example_as_far_as_a_line_goes():
    report = AdapterReport("ink", 1.0, 1.0, 1, 6, {"LoRA": 1})
    plain = report.summary()
    report.unmatched = [("a", "one"), ("b", "two"), ("c", "one")]
    assert report.summary() == f"{plain}; 2 not applied (one), e.g. a; 1 not applied (two), e.g. b"
    report.unmatched += [("d", "three")]
    assert report.summary().endswith("; 1 not applied (two), e.g. b; 1 not applied (three), e.g. d")
    report.unmatched += [("e", "four"), ("f", "five")]
    assert report.summary().endswith("; 1 not applied (three), e.g. d; and 2 other reasons")


def test_all_lines_in_their_order():
    one, two = AdapterReport("a", 1.0, 1.0, notes=["first", "second"]), AdapterReport("b", 1.0, 1.0, error="no b")
    report = Report([one, two])
    plain = [one.summary(), "a: first", "a: second", "no b"]
    assert report.lines() == plain
    assert str(report) == "\n".join(plain)
    report.schedule_note, report.rows_unresolved = "it moves", True
    assert report.lines() == [*plain, "it moves.", ROWS_UNRESOLVED]
