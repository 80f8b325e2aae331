"""Strengths that change while sampling: what following them adds to a run of the UNet and to a whole picture."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.adapter_case import Setting, machine
from benchmarks.bench_model import KINDS, make_bench_model
from benchmarks.sampling_seconds import START, STEPS, Follower, Found

Cell = tuple[str, Callable[[Found], float | str]]


def run(setting: Setting, size: int, names: Sequence[str], rounds: int, *, calls: bool = True) -> Iterator[Found]:
    bench_model = make_bench_model(setting, size)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            yield Follower(name, KINDS[name], bench_model, Path(folder), calls=calls).found(rounds)


def tables(found: Sequence[Found]) -> str:
    columns = [*_RUNS] if all("plain run" in one.seconds for one in found) else []
    parts = [
        ("One run of the UNet, times the plain run", columns),
        ("What the touched layers take more in one run, times what they take plainly", _LAYERS),
        ("Merging anew at a step, times a clone of the touched weights", _CHANGES),
        (f"Added to a picture of {STEPS} steps whose strength is a ramp, in seconds", _schedule(ramp)),
        (f"The same with start={START}", _schedule(late)),
        ("On one row of two", _ROWS if columns else _ROWS[1:]),
    ]
    return "\n\n".join(f"{title}\n\n{_table(cells, found)}" for title, cells in parts if cells)


def ramp(one: Found) -> Mapping[str, float]:
    """Seconds that each way adds to a picture."""
    s = one.seconds
    changes = STEPS - 1
    return {
        "merged": s["merged first"] + changes * s["merged change"],
        "live": s["live first"] + changes * s["live change"] + STEPS * max(0.0, s["live more"]),
        "auto": s["auto first"] + changes * s["auto change"] + STEPS * max(0.0, s["auto more"]),
        "choice": s["auto choice"],
    }


def late(one: Found) -> Mapping[str, float]:
    """The choice has been made by then: what was measured once is remembered."""
    s, left = one.seconds, STEPS - START
    return {
        "merged": s["merged first"],
        "live": s["live first"] + s["live change"] + left * max(0.0, s["live more"]),
        "auto": s["late first"] + s["late change"] + left * max(0.0, s["late more"]),
        "choice": s["late choice"],
    }


def _schedule(of: Callable[[Found], Mapping[str, float]]) -> list[Cell]:
    def better(one: Found) -> float:
        return min(of(one)["merged"], of(one)["live"])

    names: list[Cell] = [(name, lambda one, name=name: of(one)[name]) for name in ("merged", "live", "auto", "choice")]  # type: ignore[misc]
    ratio: Cell = ("auto / better", lambda one: of(one)["auto"] / better(one))
    with_choice: Cell = ("with the choice", lambda one: (of(one)["auto"] + of(one)["choice"]) / better(one))
    return [*names, ratio, with_choice]


def _times(what: str, of: str) -> Callable[[Found], float]:
    return lambda one: one.seconds[what] / one.seconds[of]


_WAYS = ("merged", "live", "auto", "late")
_RUNS: list[Cell] = [
    ("plain s", lambda one: one.seconds["plain run"]),
    *((f"{way} ×", _times(f"{way} run", "plain run")) for way in _WAYS),
    ("live / merged", _times("live run", "merged run")),
]
_LAYERS: list[Cell] = [
    ("layers", lambda one: str(one.layers)),
    ("plain s", lambda one: one.seconds["live layers"]),
    *((f"{way} +", _times(f"{way} more", "live layers")) for way in _WAYS[1:]),
]
_CHANGES: list[Cell] = [
    ("touched MB", lambda one: f"{one.touched_bytes / 1e6:.0f}"),
    ("clone s", lambda one: one.seconds["clone"]),
    ("first merge ×", _times("merged first", "clone")),
    ("anew ×", _times("merged change", "clone")),
    ("live ×", _times("live change", "clone")),
]
_ROWS: list[Cell] = [
    ("run ×", _times("rows run", "plain run")),
    ("touched layers +", _times("rows more", "rows layers")),
    ("kept MB", lambda one: f"{one.kept_bytes / 1e6:.0f}"),
    ("peak MB", lambda one: "" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}"),
]


def _table(cells: Sequence[Cell], found: Sequence[Found]) -> str:
    heads = ["adapters", *(name for name, _ in cells)]
    rows = [[one.name, *(_text(value(one)) for _, value in cells)] for one in found]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def save(found: Sequence[Found], setting: Setting, size: int, rounds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = {**machine(setting), "size": size, "rounds": rounds, "found": [asdict(one) for one in found]}
    name = f"live-{setting.family}-{setting.device.type}-{str(setting.dtype).removeprefix('torch.')}"
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1), "utf-8")
