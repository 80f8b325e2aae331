"""The results as pictures that can be read on a light and on a dark page: no ground, grey letters, middle colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.correctness import Verdict
from benchmarks.whole_model import Row

INK = "#7d7d7d"
COLOURS = {
    "lib_adapters": "#2f81c7",
    "built-in's way": "#8a8a8a",
    "peft merge": "#9a63b8",
    "diffusers fuse_lora": "#3f9a6b",
}
LONGEST = 13.0  # a longer bar is cut; its number says how long it is
RIGHT, WRONG, REFUSED = "#2f8f5b", "#c9543f", "#8a8a8a"


def draw(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if "whole" in results:
        rows = [Row(**row) for row in results["whole"]["rows"]]
        shown = [row for row in rows if row.who in COLOURS]
        clone = "times a clone of the touched weights"
        _bars(shown, _change, f"a change of strength, {clone}", folder / "speed.png")
        _bars(shown, _peak, "most memory, times the touched weights", folder / "memory.png")
    if "correctness" in results:
        _grid([Verdict(**row) for row in results["correctness"]["rows"]], folder / "correctness.png")


def _change(row: Row) -> float | None:
    return row.ratios["strength"][0] if "strength" in row.ratios else None


def _peak(row: Row) -> float | None:
    return row.peak


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style = {"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK}
    with mpl.rc_context({**style, "font.size": 9, "savefig.transparent": True}):
        figure, axes = pyplot.subplots(figsize=(width, height), dpi=90, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, transparent=True, metadata={"Software": None}, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def _bars(rows: Sequence[Row], value: Any, label: str, path: Path) -> None:
    """Lying bars in groups by algorithm; the line at 1 is the limit."""
    places = _places(rows)
    figure, axes = _axes(8, 0.9 + 0.16 * (max(places) + 1))
    named: set[str] = set()
    for row, place in zip(rows, places, strict=True):
        if (length := value(row)) is None:
            continue
        text = row.who if row.who not in named else None
        named.add(row.who)
        axes.barh(place, min(length, LONGEST), 0.9, color=COLOURS[row.who], label=text)
        axes.text(min(length, LONGEST), place, f" {length:.2f}", va="center", fontsize=7, color=INK)
    axes.axvline(1, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(*_ticks(rows, places))
    axes.set_ylim(max(places) + 1, -1)
    axes.set_xlabel(label, color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, ncols=len(COLOURS), loc="lower left", bbox_to_anchor=(0, 1))
    _save(figure, path)


def _places(rows: Sequence[Row]) -> list[int]:
    """One below the other, with room between algorithms."""
    gaps = [int(row.kind != before.kind) for before, row in pairwise(rows)]
    return [n + sum(gaps[:n]) for n in range(len(rows))]


def _ticks(rows: Sequence[Row], places: Sequence[int]) -> tuple[list[float], list[str]]:
    """Each algorithm's name at the middle of its bars."""
    own: dict[str, list[int]] = {}
    for row, place in zip(rows, places, strict=True):
        own.setdefault(row.kind, []).append(place)
    return [sum(each) / len(each) for each in own.values()], list(own)


def _grid(verdicts: Sequence[Verdict], path: Path) -> None:
    """One field for each reader and kind of file: the error in it, its colour what that means."""
    kinds = list(dict.fromkeys(verdict.kind for verdict in verdicts))
    who = list(dict.fromkeys(verdict.who for verdict in verdicts))
    figure, axes = _axes(8, 0.8 + 0.24 * len(kinds))
    for verdict in verdicts:
        x, y = who.index(verdict.who), kinds.index(verdict.kind)
        text, colour = _field(verdict)
        axes.barh(y, 0.94, 0.86, x - 0.47, color=colour, alpha=0.35 if colour == REFUSED else 1.0)
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color=INK if colour == REFUSED else "white")
    axes.set_xticks(range(len(who)), [name.replace(", ", ",\n") for name in who])
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlim(-0.5, len(who) - 0.5)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    _save(figure, path)


def _field(verdict: Verdict) -> tuple[str, str]:
    if verdict.error is None:
        return "not read", REFUSED
    wrong = not verdict.right
    text = f"{verdict.error:.0%} off" if wrong else f"{verdict.error:.0e}"
    return text, WRONG if wrong else RIGHT
