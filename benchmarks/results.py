"""Measurements as rows: what JSON, table and chart show."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from benchmarks.case import Case
from benchmarks.measure import Tally

OPERATIONS = ("apply", "again", "strength", "switch", "restore", "cold")


@dataclass(frozen=True)
class Row:
    """One contender on one algorithm. Ratios are to clones of the touched weights: medians of pairs made in turn."""

    algorithm: str
    contender: str
    layers: int
    touched_bytes: int
    file_bytes: int
    seconds: Mapping[str, float]
    ratios: Mapping[str, float]
    kept_bytes: float  # tensors that are there after `apply` and were not before
    peak_bytes: float | None  # of the whole process during `apply`
    restores_exactly: bool | None  # None: it has nothing to restore
    difference: float | None  # of W' - W from the usual way's, relative


def rows(case: Case, tallies: Iterable[Tally]) -> list[Row]:
    by_name = {tally.contender: tally for tally in tallies}
    pristine, plain = by_name["clone"].applied, by_name["usual way"].applied
    return [_row(case, tally, pristine, plain) for tally in by_name.values()]


def _row(case: Case, tally: Tally, pristine: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> Row:
    seconds = {name: median for name in OPERATIONS if (median := tally.median(name)) is not None}
    return Row(
        algorithm=case.name,
        contender=tally.contender,
        layers=len(case.shapes),
        touched_bytes=case.touched_bytes,
        file_bytes=case.files[0].stat().st_size,
        seconds=seconds,
        ratios={name: tally.ratio(name) for name in seconds},
        kept_bytes=statistics.median(tally.kept),
        peak_bytes=statistics.median(tally.peak) if tally.peak else None,
        restores_exactly=tally.exact if "restore" in seconds else None,
        difference=None if tally.contender == "clone" else _difference(tally.applied, pristine, plain),
    )


def _difference(mine: Mapping[str, Tensor], pristine: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> float:
    """The largest over the sampled layers."""
    return max(
        float((mine[path].float() - plain[path].float()).norm() / (plain[path].float() - before.float()).norm())
        for path, before in pristine.items()
    )


def head() -> str:
    """Of a table in Markdown: everything as times the clone, which itself is given in seconds."""
    times = [f"{name} ×" for name in OPERATIONS]
    names = ["algorithm", "who", *times, "there and back ×", "apply s", "kept ×", "peak ×", "exact", "differs"]
    return f"{_line(names)}\n{_line('---' for _ in names)}"


def body(found: Iterable[Row]) -> str:
    return "\n".join(_line(_cells(row)) for row in found)


def _cells(row: Row) -> list[str]:
    ratios = [f"{row.ratios[name]:.3g}" if name in row.ratios else "" for name in OPERATIONS]
    back = f"{row.ratios['apply'] + row.ratios['restore']:.3g}" if "restore" in row.ratios else ""
    peak = "" if row.peak_bytes is None else f"{row.peak_bytes / row.touched_bytes:.2f}"
    exact = "" if row.restores_exactly is None else ("yes" if row.restores_exactly else "no")
    differs = "" if row.difference is None else f"{row.difference:.0e}"
    memory = [f"{row.kept_bytes / row.touched_bytes:.2f}", peak]
    return [row.algorithm, row.contender, *ratios, back, f"{row.seconds['apply']:.4f}", *memory, exact, differs]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
