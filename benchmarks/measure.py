"""Rounds in which everybody does everything once, each round in another order; medians over the rounds."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.case import Case
from benchmarks.contenders import Contender, Operation
from benchmarks.peers import contenders

CLONES = 3  # in each cycle, whose median counts
SAMPLED = 4  # layers whose result is compared


@dataclass
class Tally:
    """What one contender did in all rounds of one case."""

    contender: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # to the clone in the same cycle
    kept: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    applied: dict[str, Tensor] = field(default_factory=dict)  # a few weights after `apply`
    exact: bool = True  # were they what they had been after `restore`?

    def median(self, operation: str) -> float | None:
        return statistics.median(times) if (times := self.seconds.get(operation)) else None

    def ratio(self, operation: str) -> float:
        return statistics.median(self.ratios[operation])


def run(case: Case, rounds: int) -> list[Tally]:
    kinds = [kind for kind in contenders(case) if _can(case, kind)]
    tallies = [Tally(kind.name) for kind in kinds]
    for number in range(rounds):
        order = [(n + number) % len(kinds) for n in range(len(kinds))]
        for n in order:
            print(f"{case.name}: round {number + 1} of {rounds}, {kinds[n].name}", file=sys.stderr, flush=True)
            _cycle(case, kinds[n], tallies[n])
    return tallies


def _can(case: Case, kind: type[Contender]) -> bool:
    """Some peers can't load every file of the algorithms they know."""
    try:
        kind(case, case.twin() if kind.writes else case.model)
    except (RuntimeError, TypeError) as error:
        print(f"{case.name}: {kind.name} can't load the file: {error}", file=sys.stderr)
        return False
    return True


def _cycle(case: Case, kind: type[Contender], tally: Tally) -> None:
    gc.collect()
    contender = kind(case, case.twin() if kind.writes else case.model)
    pristine = _sample(contender.weights)
    limit = statistics.median(_seconds(partial(_clone, contender.weights), case) for _ in range(CLONES))
    for name, operation in contender.operations().items():
        if name == "apply":
            used = memory.of(partial(_timed, operation, name, tally, case), case.setting.device)
            tally.kept.append(used.kept)
            tally.peak += [] if used.peak is None else [used.peak]
            tally.applied = tally.applied or _sample(contender.weights)
        else:
            _timed(operation, name, tally, case)
        tally.ratios[name].append(tally.seconds[name][-1] / limit)
        if name == "restore":
            now = _sample(contender.weights)
            tally.exact &= all(torch.equal(now[path], pristine[path]) for path in pristine)
    contender.close()


def _clone(weights: Mapping[str, Tensor]) -> None:
    """The limit. A machine that others use makes something else of it every minute: so anew in each cycle, at its
    start, where all find memory alike."""
    kept = [weight.data.clone() for weight in weights.values()]
    kept.clear()


def _timed(operation: Operation, name: str, tally: Tally, case: Case) -> None:
    tally.seconds[name].append(_seconds(operation, case))


def _seconds(operation: Operation, case: Case) -> float:
    _wait(case)
    memory.hand_back()
    clock = time.process_time if case.setting.processor_time else time.perf_counter
    started = clock()
    operation()
    _wait(case)
    return clock() - started


def _wait(case: Case) -> None:
    if case.setting.device.type == "cuda":
        torch.cuda.synchronize()


def _sample(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    paths = list(weights)
    return {path: weights[path].data.clone() for path in paths[:: max(1, len(paths) // SAMPLED)]}
