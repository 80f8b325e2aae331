"""Where the time of a first apply and of a change of strength goes, in per cent, by part of the engine."""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.adapter_case import Setting, make_case, weights
from benchmarks.markdown import table
from lib_adapters import Request, Session, open_adapter

PARTS = {  # title -> functions whose cumulative time counts, by file and name; none calls another one
    "open and read the file": (("adapter.py", "open_adapter"), ("loading.py", "load_layers")),
    "find the layers": (
        ("plan.py", "match_adapter"),
        ("plan.py", "group_by_parameter"),
        ("components.py", "layer_table"),
    ),
    "checksum of the originals": (("checksum.py", "checksum"),),
    "merge (with the page faults of new memory)": (("merge.py", "merged_weight"), ("merge.py", "merged_bias")),
    "samples, check for overflow": (("overflow.py", "overflowing"), ("weight_patcher.py", "_finish_swaps")),
}


def table_of(setting: Setting, kind: str) -> str:
    """Return the table, with the machine's own limits below it."""
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(kind, setting, Path(folder))
        touched = [weight.data for weight in weights(case.model, case.shapes).values()]
        limits = _limits(touched)
        session = Session(unet=case.model)
        first = _parts(lambda: session.activate([Request(open_adapter(case.files[0]))]))
        adapter = open_adapter(case.files[0])
        session.activate([Request(adapter, unet=0.8)])
        change = _parts(lambda: session.activate([Request(adapter, unet=0.5)]))
    rows = [[kind, "first apply, from the file", "change of strength"]]
    rows += [[part, f"{first[part]:.0%}", f"{change[part]:.0%}"] for part in (*PARTS, "the rest")]
    rows += [["seconds", f"{first['seconds']:.3f}", f"{change['seconds']:.3f}"]]
    return f"{table(rows)}\n\n{limits}"


def _parts(work: Callable[[], object]) -> dict[str, float]:
    profiler = cProfile.Profile()
    started = time.perf_counter()
    profiler.runcall(work)
    seconds = time.perf_counter() - started
    found = dict.fromkeys(PARTS, 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in vars(pstats.Stats(profiler))["stats"].items():
        for part, functions in PARTS.items():
            found[part] += cumulative * ((Path(file).name, name) in functions)
    shares = {part: taken / seconds for part, taken in found.items()}
    return {**shares, "the rest": 1.0 - sum(shares.values()), "seconds": seconds}


def _limits(touched: list[torch.Tensor]) -> str:
    """The machine's copy bandwidth, on the same weights, and its matrix throughput."""
    size = sum(weight.nbytes for weight in touched)
    kept: list[torch.Tensor] = []
    clone = _quickest(lambda: kept.extend(weight.clone() for weight in touched), 1)
    copy = _quickest(lambda: [to.copy_(one) for to, one in zip(kept, touched, strict=True)], 3)
    up, down, out = torch.randn(1280, 32), torch.randn(32, 1280), torch.randn(1280, 1280)
    thin = _quickest(lambda: torch.addmm(out, up, down, out=out), 20)
    square = _quickest(lambda: torch.mm(out, out), 20)
    return (
        f"{size / 1e9:.2f} GB are touched. A clone into fresh memory {clone:.3f} s ({size / clone / 1e9:.1f} GB/s), a"
        f" copy into memory in use {copy:.3f} s ({size / copy / 1e9:.1f} GB/s); thin products [1280, 32] @ [32, 1280]"
        f" {2 * 32 * 1280**2 / thin / 1e9:.0f} GFlop/s, square ones {2 * 1280**3 / square / 1e9:.0f} GFlop/s."
    )


def _quickest(work: Callable[[], object], tries: int) -> float:
    found = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)
