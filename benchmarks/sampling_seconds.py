"""One stack of adapters whose strength changes while sampling: what each way to follow it takes.

The pure ways and the automatic choice take turns on one model; what a layer does more than its plain self is timed
layer by layer, turn by turn with its plain self, for that is a small part of a run.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import memory
from benchmarks.adapter_case import weights
from benchmarks.bench_model import ROWS, BenchModel, Kind, noise
from lib_adapters import Request, Session
from lib_adapters.algorithms.base import Shape
from lib_adapters.prompt.schedule import Position, SamplingStep, Window, parse_curve

STEPS, START = 20, 5
RAMP: dict[str, Any] = {"unet": parse_curve("0.2@0,1@1")}
LATE: dict[str, Any] = {"window": Window(Position(START, "step"))}
NEVER: dict[str, Any] = {"window": Window(Position(STEPS, "step"))}
TRIES = 2  # of each layer
Times = dict[str, list[float]]
Run = Callable[[Tensor], object]


@dataclass(frozen=True)
class Found:
    """Medians of seconds by what was done, and bytes."""

    name: str
    layers: int
    touched_bytes: int
    seconds: Mapping[str, float]
    kept_bytes: int  # by a run with an adapter on one of the rows
    peak_bytes: int | None


class Follower:
    def __init__(self, name: str, kind: Kind, bench_model: BenchModel, folder: Path, *, calls: bool = True) -> None:
        """Without `calls` no whole runs are timed: layers alone."""
        self._name, self._kind, self._bench_model, self._calls = name, kind, bench_model, calls
        self._adapters = bench_model.adapters(kind, folder)
        self._alike = bench_model.alike(list(bench_model.touched(kind)))
        self._seconds: Times = defaultdict(list)
        self._bytes = memory.Bytes(0, None)

    def found(self, rounds: int) -> Found:
        for number in range(rounds):
            print(f"{self._name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            self._round()
        medians = {what: statistics.median(times) for what, times in self._seconds.items()}
        touched = weights(self._bench_model.unet, self._bench_model.touched(self._kind))
        size = sum(weight.nbytes for weight in touched.values())
        return Found(self._name, len(touched), size, medians, self._bytes.kept, self._bytes.peak)

    def _round(self) -> None:
        touched = weights(self._bench_model.unet, self._bench_model.touched(self._kind))
        self._time("clone", lambda: [weight.data.clone() for weight in touched.values()])
        self._run("plain")
        with Session(unet=self._bench_model.unet) as session:  # a new one has not measured anything yet
            session.activate(self._requests(NEVER))  # the files are read from here on
            self._way(session, "merged", RAMP, mode="merged")
            self._way(session, "live", RAMP, mode="live")
            self._way(session, "auto", RAMP)
            self._way(session, "late", LATE)
            self._rows(session)

    def _way(self, session: Session, name: str, schedule: Mapping[str, Any], **more: Any) -> None:
        session.deactivate()
        requests = self._requests(schedule, **more)
        first, step = SamplingStep(0, STEPS), START if name == "late" else 1
        self._time(f"{name} first", lambda: session.activate(requests, first))
        self._time(f"{name} choice", self._bench_model.hooks)
        for now in range(step, step + (1 if name == "late" else TRIES)):
            self._time(f"{name} change", partial(session.set_step, SamplingStep(now, STEPS)))
        self._more(name)
        self._run(name)

    def _rows(self, session: Session) -> None:
        session.deactivate()
        now, rows = SamplingStep(0, STEPS), list(range(ROWS))
        session.activate(self._requests({"unet": 0.8}, rows=frozenset({0})), now)
        session.set_step(now, rows)
        self._bench_model.hooks()
        self._bytes = memory.of(self._each, self._bench_model.setting.device)
        self._more("rows")
        session.set_step(now, rows)
        self._run("rows")

    def _each(self) -> None:
        """All touched layers once: what the first run makes stays for the next ones."""
        with torch.no_grad():
            for (_, shape), modules in self._alike.items():
                x = noise(shape, self._bench_model.setting)
                for module in modules:
                    module(x)

    def _requests(self, schedule: Mapping[str, Any], **more: Any) -> list[Request]:
        return [Request(adapter, **schedule, **more) for adapter in self._adapters]

    def _time(self, what: str, work: Any) -> None:
        self._seconds[what].append(self._bench_model.timed(work))

    def _run(self, name: str) -> None:
        if self._calls:
            self._time(f"{name} run", self._bench_model.call)

    def _more(self, name: str) -> None:
        """Of all layers with something beside them, what they take more in one run; merged ones take nothing more."""
        more = plain = 0.0
        for (_, shape), modules in self._alike.items():
            if live := [module for module in modules if "forward" in module.__dict__]:
                one, other = self._pair(live, shape)
                more, plain = more + one * len(live), plain + other * len(live)
        self._seconds[f"{name} more"].append(more - plain)
        self._seconds[f"{name} layers"].append(plain)

    def _pair(self, modules: Sequence[nn.Module], shape: Shape) -> tuple[float, float]:
        """One layer's run, and what it would be without anything: of several alike each in its turn."""
        x, taken, plain = noise(shape, self._bench_model.setting), list[float](), list[float]()
        with torch.no_grad():
            for number in range(TRIES + 1):
                module = modules[number % len(modules)]
                as_is: Run = partial(type(module).forward, module)
                turns: list[tuple[list[float], Run]] = [(taken, module), (plain, as_is)]
                for times, work in turns if number % 2 else turns[::-1]:  # who comes second finds x in the cache
                    times.append(self._bench_model.timed(partial(work, x)))
        return min(taken[1:]), min(plain[1:])
