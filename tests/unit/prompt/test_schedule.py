"""Curves and windows against a plain definition of them, and against loractl's own examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_adapters.errors import BadTag
from lib_adapters.prompt.schedule import (
    Curve,
    Position,
    SamplingStep,
    Window,
    count_changes,
    format_strength,
    initial_value,
    looks_like_curve,
    parse_curve,
    parse_number,
    parse_position,
    parse_strength,
    parse_window,
    strength_at,
)
from tests.support.prompt_checks import read_or_named

NUMBERS = st.floats(-1e6, 1e6)
STEPS = st.integers(1, 60)
SHARES = st.integers(0, 100).map(lambda n: n / 100)


def moments(steps: int) -> list[SamplingStep]:
    """A run whose noise falls from 14 to almost none."""
    return [SamplingStep(step, steps, 14.0 * (1 - step / steps)) for step in range(steps)]


def run(strength: str, steps: int) -> list[float]:
    return [strength_at(parse_strength(strength), None, moment) for moment in moments(steps)]


def written_out(points: Sequence[tuple[float, float]], unit: str) -> str:
    return ",".join(f"{value!r}@{position!r}{unit}" for position, value in points)


@pytest.mark.parametrize(
    ("text", "unit", "points"),
    [
        ("1@0,0.5@3,1@6", "step", [(0, 1), (3, 0.5), (6, 1)]),  # loractl's examples
        ("0.5@3,1@6,1@0", "step", [(0, 1), (3, 0.5), (6, 1)]),
        ("0.5@0,0.5@0.5,0@1", "share", [(0, 0.5), (0.5, 0.5), (1, 0)]),
        ("1@0;0.5@3;1@6", "step", [(0, 1), (3, 0.5), (6, 1)]),
        ("1~0,.5~3 , 1 ~ 6", "step", [(0, 1), (3, 0.5), (6, 1)]),
        ("0.8@0.15,0@0.3", "share", [(0.15, 0.8), (0.3, 0)]),
        ("1@1", "share", [(1, 1)]),
        ("1@1,0@2", "step", [(1, 1), (2, 0)]),
        ("1@50%,0@1", "share", [(0.5, 1), (1, 0)]),
        ("1@1.5%,-2e-1@150%", "share", [(0.015, 1), (1.5, -0.2)]),
        ("0@1sigma,1@4.2σ", "sigma", [(4.2, 1), (1, 0)]),
        ("1@14sigma,0@0", "sigma", [(14, 1), (0, 0)]),
    ],
)
def test_a_curve_has_its_points_in_the_order_they_are_passed(text: str, unit: str, points: list[object]) -> None:
    assert parse_curve(text) == Curve(unit, tuple(points))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.0", {0: 1.0, 15: 1.0, 29: 1.0}),
        ("0.75@0;0.5@3;1@6", {0: 0.75, 3: 0.5, 6: 1.0, 9: 1.0}),
        ("0.5@5,1.0@10", {0: 0.5, 5: 0.5, 8: 0.8, 15: 1.0}),
    ],
)
def test_loractls_own_values(text: str, expected: dict[int, float]) -> None:
    values = run(text, 30)
    assert {step: values[step] for step in expected} == pytest.approx(expected)


@given(st.dictionaries(st.integers(0, 7000).map(lambda n: n / 100), NUMBERS, min_size=1, max_size=6), STEPS)
@example({1.25: 1e-08, 1.7: 10035.0}, 56)
def test_a_curve_is_numpys_interpolation(points: dict[float, float], steps: int) -> None:
    places = sorted(points)
    heights = [points[place] for place in places]
    shares = np.arange(steps) / max(steps - 1, 1)
    by_step = run(written_out([*points.items()], ""), steps)
    by_share = run(written_out([*points.items()], "%"), steps)
    small = 1e-12 * max(1.0, *map(abs, heights))  # beside the other end of a line
    by_place = np.interp(np.arange(steps) if max(places) > 1 else shares, places, heights)
    assert by_step == pytest.approx(by_place, abs=small)
    assert by_share == pytest.approx(np.interp(shares, [place / 100 for place in places], heights), abs=small)
    by_noise = run(written_out([*points.items()], "sigma"), steps)
    sigmas = [moment.sigma or 0 for moment in moments(steps)]
    assert by_noise == pytest.approx(np.interp(sigmas, places, heights), abs=small)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0@2,1@2", [0, 0, 1, 1, 1]),
        ("1@0,0@0,1@3,0.5@3", [0, 1 / 3, 2 / 3, 0.5, 0.5]),
        ("0@50%,1@50%", [0, 0, 1, 1, 1]),
        ("0@0,1@1", [0, 0.25, 0.5, 0.75, 1]),
        ("0@0,1@2", [0, 0.5, 1, 1, 1]),
        ("0@0,1@200%", [0, 0.125, 0.25, 0.375, 0.5]),
        ("0@8.4sigma,1@8.4sigma", [0, 0, 1, 1, 1]),
    ],
)
def test_jumps_and_units(text: str, values: list[float]) -> None:
    assert run(text, 5) == pytest.approx(values)


def test_a_single_step_is_the_start_and_noise_that_is_not_known_is_the_first_value() -> None:
    assert run("0.25@0,1@1", 1) == [0.25]
    assert initial_value(parse_strength("1@9,0.25@2")) == parse_curve("0.25@2,1@9").value_at(SamplingStep(0, 0)) == 0.25
    assert initial_value(0.5) == 0.5
    assert parse_curve("0@9sigma,1@0sigma").value_at(SamplingStep(3, 9)) == 0.0
    assert not Window(Position(3.0, "sigma")).contains(SamplingStep(3, 9))


@pytest.mark.parametrize(
    ("start", "stop", "step", "of_ten"),
    [
        ("3", None, None, range(3, 10)),
        (None, "3", None, range(3)),
        ("2", "5", None, range(2, 5)),
        (None, None, "2-5", range(2, 5)),
        (None, None, " 2 - 5 ", range(2, 5)),
        ("9", "9", "2-5", range(2, 5)),  # step= wins
        (None, None, "-5", range(5)),
        (None, None, "5-", range(5, 10)),
        ("0.3", "0.6", None, range(3, 6)),
        (None, None, "30%-60%", range(3, 6)),
        ("1", None, None, range(1, 10)),  # a step ...
        ("1.0", None, None, range(0)),  # ... a share
        ("1.5", None, None, range(2, 10)),
        ("5", "5", None, range(0)),
        ("7", "3", None, range(0)),
        ("99", None, None, range(0)),
        ("0", "0.0", None, range(0)),
        ("7sigma", None, None, range(5, 10)),
        (None, None, "7σ-2.8sigma", range(5, 8)),
        ("0.2", "7sigma", None, range(2, 5)),
    ],
)
def test_a_window_holds_in_these_steps(start: str | None, stop: str | None, step: str | None, of_ten: range) -> None:
    window = parse_window(start, stop, step)
    assert window is not None
    assert [moment.step for moment in moments(10) if window.contains(moment)] == [*of_ten]
    assert [strength_at(0.5, window, moment) for moment in moments(10)] == [0.5 * (n in of_ten) for n in range(10)]


def test_no_end_is_no_window() -> None:
    assert parse_window(None, None, None) is None


@given(st.lists(SHARES.map(repr) | st.integers(0, 60).map(str), max_size=5), STEPS)
def test_windows_from_each_position_to_the_next_cover_each_step_once(ends: list[str], steps: int) -> None:
    def reached(end: str) -> int:
        return sum(not parse_position(end).is_reached(moment) for moment in moments(steps))

    ends.sort(key=reached)
    windows = [parse_window(start, stop, None) for start, stop in pairwise([None, *ends, None])]
    for moment in moments(steps):
        assert sum(window is None or window.contains(moment) for window in windows) == 1


@given(SHARES, STEPS)
def test_a_share_begins_at_the_first_step_with_so_much_behind_it(share: float, steps: int) -> None:
    held = [parse_position(f"{share:.2f}").is_reached(moment) for moment in moments(steps)]
    assert held == [100 * step >= round(100 * share) * steps for step in range(steps)]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.3, 0.7])), min_size=1, max_size=4),
    st.sampled_from(["", "%", "0%"]),
    st.sampled_from([None, "2-5", "0.3-", "-4", "0-99"]),
    st.integers(0, 20),
)
def test_changes_are_counted(points: list[tuple[int, float]], unit: str, step: str | None, steps: int) -> None:
    curve, window = parse_curve(written_out(points, unit)), parse_window(None, None, step)
    for strength in (curve, 0.5):
        values = [strength_at(strength, window, moment) for moment in moments(steps)]
        assert count_changes(strength, window, steps) == sum(a != b for a, b in pairwise(values))


def test_noise_is_taken_to_change_in_each_step() -> None:
    assert (
        count_changes(parse_curve("0@9sigma,1@1sigma"), None, 20)
        == count_changes(1.0, parse_window("3sigma", None, None), 20)
        == 19
    )
    assert (
        count_changes(parse_curve("0@9sigma,1@1sigma"), None, 0) == count_changes(parse_curve("0@0,1@1"), None, 0) == 0
    )


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=5))
def test_what_is_written_is_read_as_the_same(points: list[tuple[float, float]]) -> None:
    texts = [",".join(f"{v!r}@{p:.30f}{unit}" for p, v in points) for unit in ("", "%", "sigma")]
    for strength in (*map(parse_strength, texts), points[0][1]):
        assert parse_strength(format_strength(strength)) == strength


@pytest.mark.parametrize(
    ("value", "text"), [("1.0", "1"), ("0.30", "0.3"), ("0@0,1@0.5", "0@0%,1@50%"), ("1@4σ,0@20", "0@20sigma,1@4sigma")]
)
def test_what_is_written_is_short(value: str, text: str) -> None:
    assert format_strength(parse_strength(value)) == text


@pytest.mark.parametrize(
    ("bad", "token"),
    [
        ("", "''"),
        ("abc", "'abc'"),
        ("nan", "'nan'"),
        ("-inf", "'-inf'"),
        ("1e999", "'1e999'"),
        ("1_0", "'1_0'"),
        ("٣", "'٣'"),
        ("0x1", "'0x1'"),
        ("1@", "'1@'"),
        ("@1", "''"),
        ("~", "'~'"),
        ("x@1", "'x'"),
        ("1@x", "'1@x'"),
        ("1@2@3", "'1@2@3'"),
        ("1@-2", "'1@-2'"),
        ("1@1e2", "'1@1e2'"),
        ("1@2 %", "'1@2 %'"),
        ("1@5,0.5", "'0.5'"),
        ("1@5,", "''"),
        ("1@50%,0@4sigma", "'1@50%,0@4sigma'"),
        ("1@50%,0@20", "'1@50%,0@20'"),
        ("1@50%,0@2", "'1@50%,0@2'"),
        ("1e999@0", "'1e999'"),
        ("1@" + "9" * 400, "'" + "9" * 400),
        ("1@0," * 64 + "1@1", "'1@0,1@0"),
    ],
)
def test_a_strength_that_cannot_be_read_names_its_token(bad: str, token: str) -> None:
    with pytest.raises(BadTag) as caught:
        parse_strength(bad)
    assert token in str(caught.value)


@pytest.mark.parametrize(
    ("end", "token"),
    [("", "''"), ("x", "'x'"), ("-1", "'-1'"), ("1e2", "'1e2'"), ("5steps", "'5steps'"), ("5.%%", "'5.%%'")],
)
def test_a_position_that_cannot_be_read_names_its_token(end: str, token: str) -> None:
    for start, stop in ((end, None), (None, end)):
        with pytest.raises(BadTag) as caught:
            parse_window(start, stop, None)
        assert token in str(caught.value)


@pytest.mark.parametrize(
    ("step", "token"), [("", "''"), ("5", "'5'"), ("-", "'-'"), ("1-2-3", "'1-2-3'"), ("a-2", "'a'")]
)
def test_a_range_of_steps_that_cannot_be_read_names_its_token(step: str, token: str) -> None:
    with pytest.raises(BadTag) as caught:
        parse_window("1", "2", step)
    assert token in str(caught.value)


@given(st.text() | st.text("0123456789.@~,;%sigmaσeE+- "))
def test_anything_is_read_or_refused_by_name(text: str) -> None:
    for read in (
        parse_strength,
        parse_curve,
        parse_number,
        parse_position,
        lambda step: parse_window(None, None, step),
    ):
        read_or_named(partial(read, text), text)
    assert looks_like_curve(text) == ("@" in text or "~" in text)


def test_how_much_of_a_picture_lies_behind() -> None:
    assert [SamplingStep(step, 5).progress for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [SamplingStep(step, 2).progress for step in range(2)] == [0, 1]
    assert [SamplingStep(0, steps).progress for steps in (0, 1)] == [0, 0]
    assert [SamplingStep(0, 0).completed, SamplingStep(2, 5).completed] == [0, 0.4]
    noise = [SamplingStep(1, 4, timestep=noise).denoised for noise in (1500.0, 1000.0, 999.0, 250.0, 0.0, -1.0)]
    assert noise == pytest.approx([0, 0, 0.001, 0.75, 1, 1])
    assert [SamplingStep(step, 4).denoised for step in (0, 1, 4, 5)] == [0, 0.25, 1, 1]
