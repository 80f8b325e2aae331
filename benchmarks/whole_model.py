"""What users feel: wall time and memory of whole models at full size.

Each round runs every implementation once, in rotated order and in a process of its own, so that no memory of one stands
in the numbers of another. The process measures its limit itself, right before: a clone of the touched weights into
fresh memory. All ratios are to that clone, and so to the state of the machine at that moment. A model larger than
GROUP_BYTES (SDXL, Flux) is measured in groups of layers, one after the other, whose seconds are added.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.adapter_case import Case, Setting, Shapes, adapter_file, make_model, touched
from benchmarks.markdown import table
from benchmarks.peer_implementations import contenders
from benchmarks.synthetic_adapters import RECIPES

KINDS = ("lora", "locon", "lokr", "loha", "dora-rows", "oft", "ia3", "full")
OPERATIONS = {
    "apply": "first",
    "strength": "change of strength",
    "switch": "other file",
    "restore": "off",
    "cold": "from disk",
}
GROUP_BYTES = 4 << 30
CLONES = 3
SETTLED = 2.0  # seconds after off


@dataclass(frozen=True)
class Job:
    """One implementation on one group of layers; what a child process is given."""

    kind: str
    setting: Setting
    shapes: Shapes
    files: tuple[Path, Path]
    who: str


@dataclass(frozen=True)
class Sample:
    """What one process measured; bytes are more than at its start, seconds are wall time."""

    clone: float
    copy: float  # of the same weights into memory that is in use already
    touched: int
    seconds: dict[str, float]
    peak: dict[str, int]
    after_off: int
    exact: bool  # were the weights after off what they had been, to the bit?


@dataclass(frozen=True)
class Row:
    """One implementation on one kind of file: (median, least, most) of ratios over the rounds."""

    family: str
    kind: str
    who: str
    layers: int
    touched: int
    clone_seconds: float
    gigabytes_per_second: float  # of a copy into memory in use: reading and writing
    ratios: Mapping[str, Sequence[float]]
    peak: float | None  # times the touched bytes, the most of all operations but `cold`
    after_off: float
    exact: bool


def run(setting: Setting, kinds: Sequence[str], rounds: int) -> Iterator[Row]:
    """Measure these kinds of files on one model."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            groups = [_jobs(kind, setting, shapes, Path(folder)) for shapes in _groups(kind, setting)]
            found: dict[str, list[Sample]] = {job.who: [] for job in groups[0]}
            for number in range(rounds):
                for turn in range(len(found)):
                    who = list(found)[(turn + number) % len(found)]
                    print(f"{setting.family}, {kind}: round {number + 1} of {rounds}, {who}", file=sys.stderr)
                    parts = [_in_child(next(job for job in jobs if job.who == who)) for jobs in groups]
                    if None not in parts:
                        found[who].append(_sum([part for part in parts if part is not None]))
            layers = sum(len(jobs[0].shapes) for jobs in groups)
            for who, samples in found.items():
                if samples:
                    yield _row(setting.family, kind, who, layers, samples)


def _groups(kind: str, setting: Setting) -> list[Shapes]:
    """Split the touched layers, in their order, into groups whose weights take at most GROUP_BYTES."""
    found: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for path, shape in touched(RECIPES[kind], setting).items():
        more = torch.Size(shape).numel() * torch.empty(0, dtype=setting.dtype).element_size()
        if found[-1] and size + more > GROUP_BYTES:
            found.append({})
            size = 0
        found[-1][path] = shape
        size += more
    return list(found)


def _jobs(kind: str, setting: Setting, shapes: Shapes, folder: Path) -> list[Job]:
    torch.manual_seed(0)
    number = len(list(folder.iterdir()))
    a, b = (
        adapter_file(folder / f"{kind}-{number}{letter}.safetensors", RECIPES[kind], shapes, setting.rank)
        for letter in "ab"
    )
    probe = Case(kind, RECIPES[kind], setting, shapes, torch.nn.Module(), (a, b))
    return [Job(kind, setting, shapes, (a, b), one.name) for one in contenders(probe)]


def _in_child(job: Job) -> Sample | None:
    """Run the job in a fresh process; None if the implementation cannot load the file."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = f"the process ended with {process.exitcode}"
    process.join()
    if isinstance(found, str):
        print(f"{job.kind}: {job.who}: {found}", file=sys.stderr)
        return None
    return Sample(**found)


def _send(job: Job, pipe: Any) -> None:
    try:
        pipe.send(asdict(measure(job)))
    except (RuntimeError, TypeError, ValueError) as error:  # a peer that cannot load such a file
        pipe.send(str(error)[:200])


def measure(job: Job) -> Sample:
    """Do everything once, in this process."""
    device = job.setting.device
    case = Case(job.kind, RECIPES[job.kind], job.setting, job.shapes, make_model(job.shapes, job.setting), job.files)
    kind = next(one for one in contenders(case) if one.name == job.who)
    contender = kind(case, case.model)
    weights = [parameter.data for parameter in contender.weights.values()]
    before = [weight.clone() for weight in weights[:: max(1, len(weights) // 8)]]
    clone, copy = _limits(weights, device)
    memory.hand_back()
    start, seconds, peak, after_off, exact = memory.resident(device), {}, {}, 0, True
    for name, operation in contender.operations().items():
        if name == "cold":
            _forget_file(job.files[0])
        memory.reset_peak(device)
        seconds[name] = _seconds(operation, device)
        peak[name] = memory.peak(device) - start
        if name == "restore":
            time.sleep(SETTLED)
            after_off = memory.resident(device) - start
            now = [parameter.data for parameter in contender.weights.values()][:: max(1, len(weights) // 8)]
            exact = all(torch.equal(one, other) for one, other in zip(now, before, strict=True))
    contender.close()
    return Sample(clone, copy, sum(weight.nbytes for weight in weights), seconds, peak, after_off, exact)


def _limits(weights: Sequence[Tensor], device: torch.device) -> tuple[float, float]:
    """Seconds of a clone into fresh memory, and of a copy into memory that is in use."""
    times = []
    for _ in range(CLONES):
        memory.hand_back()
        kept: list[Tensor] = []
        times.append(_seconds(partial(_clone, weights, kept), device))
        copy = _seconds(partial(_copy, weights, kept), device)
        kept.clear()
    return statistics.median(times), copy


def _clone(weights: Sequence[Tensor], kept: list[Tensor]) -> None:
    kept.extend(weight.clone() for weight in weights)


def _copy(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for to, weight in zip(kept, weights, strict=True):
        to.copy_(weight)


def _seconds(operation: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    operation()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget_file(path: Path) -> None:
    """Drop the file from the page cache, where the system can, so that it is read from the disk."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sum(parts: Sequence[Sample]) -> Sample:
    """Add the groups of one model; their memory is scaled to the whole (`_scaled`)."""
    return Sample(
        clone=sum(part.clone for part in parts),
        copy=sum(part.copy for part in parts),
        touched=sum(part.touched for part in parts),
        seconds={name: sum(part.seconds[name] for part in parts) for name in parts[0].seconds},
        peak={name: _scaled([part.peak[name] for part in parts], parts) for name in parts[0].peak},
        after_off=_scaled([part.after_off for part in parts], parts),
        exact=all(part.exact for part in parts),
    )


def _scaled(values: Sequence[int], parts: Sequence[Sample]) -> int:
    """Return what the whole model would take if every group were as the one that takes most for its size."""
    total = sum(part.touched for part in parts)
    return round(max(value / part.touched for value, part in zip(values, parts, strict=True)) * total)


def _row(family: str, kind: str, who: str, layers: int, samples: Sequence[Sample]) -> Row:
    ratios = {name: _spread([sample.seconds[name] / sample.clone for sample in samples]) for name in samples[0].seconds}
    touched_bytes = samples[0].touched
    peaks = [max(most for name, most in one.peak.items() if name != "cold") / touched_bytes for one in samples]
    return Row(
        family=family,
        kind=kind,
        who=who,
        layers=layers,
        touched=touched_bytes,
        clone_seconds=statistics.median(sample.clone for sample in samples),
        gigabytes_per_second=statistics.median(2 * touched_bytes / sample.copy for sample in samples) / 1e9,
        ratios=ratios,
        peak=statistics.median(peaks),
        after_off=statistics.median(sample.after_off for sample in samples) / touched_bytes,
        exact=all(sample.exact for sample in samples),
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def markdown(rows: Sequence[Row]) -> str:
    """Return all rows as a table: medians of ratios to the clone, with the least and the most."""
    lines = [["model", "file", "who", *(f"{name} ×" for name in OPERATIONS.values()), *_MORE]]
    for row in rows:
        cells = [_cell(row.ratios.get(name)) for name in OPERATIONS]
        memory_cells = ["" if row.peak is None else f"{row.peak:.2f}", f"{row.after_off:.2f}"]
        size = [f"{row.touched / 1e9:.2f} GB", f"{row.clone_seconds:.2f} s", f"{row.gigabytes_per_second:.0f} GB/s"]
        lines.append([row.family, row.kind, row.who, *cells, *memory_cells, "yes" if row.exact else "no", *size])
    return table(lines)


_MORE = ["peak ×", "2 s after off ×", "exact", "touched", "clone", "copy"]


def _cell(spread: Sequence[float] | None) -> str:
    if spread is None:
        return ""
    middle, least, most = spread
    return f"{middle:.2g} ({least:.2g}-{most:.2g})"
