"""Raises at every point of a piece of work in turn: at each call and return of ours, and at each operation of torch.

A point is a place in our code where something is called (Python's, torch's or C's functions: reads, allocations, swaps,
hooks, plain list appends) or has just come back, so a fault meets a thing undone and a thing done. In loops the first
round stands for all, or, with FAULTS=all in the environment, the first two and the last. Only where something is called
can an error or an interruption come from; leaving a generator is left out, because Python itself, not the code, would
lose what a `finally` there does.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.torch_modes import Modes

OURS = str(Path(__file__).resolve().parents[2] / "lib_adapters")
Place = tuple[str, int, str, str]  # file, line, event, what is called
Work = Callable[[], object]
Result = TypeVar("Result")


class Interruption(BaseException):
    """As `KeyboardInterrupt` and the web UI's `InterruptedException`: no error, and not to be swallowed."""


KINDS: dict[str, type[BaseException]] = {
    "MemoryError": MemoryError,
    "RuntimeError": RuntimeError,
    "OSError": OSError,
    "interruption": Interruption,
}


LOCKS = (type(threading.Lock()), type(threading.RLock()))
MOVING = frozenset(
    {
        "parameters.py",
        "weight_patcher.py",
        "forward_patcher.py",
        "hooks.py",
        "weight_substitution.py",
        "trainable_copy.py",
        "hypernetwork_patcher.py",
    }
)


class Calls:
    """Sees every call of our code; raises at one of them, once."""

    def __init__(self, at: int | None = None, error: type[BaseException] = Interruption) -> None:
        self.places: list[Place] = []
        self._left, self._error = -1 if at is None else at, error
        self._ours: dict[CodeType, bool] = {}

    def __enter__(self) -> Calls:
        sys.setprofile(self._record if self._left < 0 else self._count_down)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _is_ours(self, frame: FrameType | None) -> bool:
        if frame is None:
            return False
        code = frame.f_code
        if (ours := self._ours.get(code)) is None:
            ours = self._ours[code] = code.co_filename.startswith(OURS)
        return ours

    def _is_point(self, frame: FrameType, event: str, argument: Any) -> bool:
        """Of ours, or called by ours."""
        if event.startswith("c_"):
            return event != "c_exception" and self._is_ours(frame) and not _is_of_lock(argument)
        if frame.f_code.co_flags & inspect.CO_GENERATOR:
            return False
        return self._is_ours(frame) or self._is_ours(frame.f_back)

    def _record(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_point(frame, event, argument):
            called = getattr(argument, "__name__", "") if event.startswith("c_") else frame.f_code.co_name
            where = frame if self._is_ours(frame) or frame.f_back is None else frame.f_back
            self.places.append((where.f_code.co_filename, where.f_lineno, event, called))

    def _count_down(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._is_point(frame, event, argument):
            return
        if self._left == 0:
            sys.setprofile(None)  # one fault: what it sets off is left alone
            raise self._error("a fault of the test")
        self._left -= 1


def _is_of_lock(called: Any) -> bool:
    """Python enters and leaves `with lock` uninterrupted: a fault there would hold the lock for ever."""
    return isinstance(getattr(called, "__self__", None), LOCKS)


class Operations(TorchDispatchMode):
    """Sees every operation of torch, whoever asks for it; raises before or after one of them."""

    def __init__(self, at: int | None = None, error: type[BaseException] = RuntimeError, after: bool = False) -> None:
        super().__init__()
        self.count = 0
        self._at, self._error, self._after = at, error, after

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        now, self.count = self.count == self._at, self.count + 1
        if now and not self._after:
            raise self._error("a fault of the test")
        result = function(*args, **(kwargs or {}))
        if now:
            raise self._error("a fault of the test")
        return result


def is_exhaustive() -> bool:
    """True if every point is tried with every kind of fault, which takes many minutes."""
    return os.environ.get("FAULTS") == "all"


def chosen(places: list[Place]) -> list[int]:
    """Return the first time that each place is met; if exhaustive, the first two times and the last one."""
    met: dict[Place, list[int]] = defaultdict(list)
    for n, place in enumerate(places):
        met[place].append(n)
    if is_exhaustive():
        return sorted({n for numbers in met.values() for n in (*numbers[:2], numbers[-1])})
    return sorted(numbers[0] for numbers in met.values())


def kinds_at(file: str, turn: int) -> list[tuple[str, type[BaseException]]]:
    """Return all kinds where something moves or if exhaustive; elsewhere they take turns."""
    kinds = list(KINDS.items())
    return kinds if Path(file).name in MOVING or is_exhaustive() else [kinds[turn % len(kinds)]]


def faults(prepare: Work, work: Work) -> Iterator[tuple[str, Callable[[], BaseException | None]]]:
    """Every fault of `work` by a name, and what makes it happen: it prepares, works, and gives what came out of it."""
    prepare()
    with Calls() as seen:
        work()
    for turn, at in enumerate(chosen(seen.places)):
        file, line, event, called = seen.places[at]
        for kind, error in kinds_at(file, turn):
            name = f"{kind} at {Path(file).name}:{line} {event} {called} ({at})"
            yield name, _bound(prepare, work, lambda at=at, error=error: Calls(at, error))
    prepare()
    with Operations() as operations:
        work()
    for at in range(operations.count):
        for after in (False, True) if is_exhaustive() else (at % 2 == 0,):
            name = f"out of memory {'after' if after else 'before'} operation {at}"
            yield name, _bound(prepare, work, lambda at=at, after=after: Operations(at, MemoryError, after))


def _bound(prepare: Work, work: Work, injector: Callable[[], Any]) -> Callable[[], BaseException | None]:
    def run() -> BaseException | None:
        prepare()
        return attempt(work, injector())[1]

    return run


def attempt(
    work: Callable[[], Result], injector: AbstractContextManager[Any]
) -> tuple[Result | None, BaseException | None]:
    """Return what `work` returns or raises, with the modes of torch as they were.

    A fault inside the `__exit__` of torch.no_grad leaves gradients off. One that keeps a generator from being left is
    worse: its modes end only when the frames of the error are freed, after those around it, and set back what was
    there inside of these. So the frames are freed here, within an inference mode that restores all of it.
    """
    before, result, caught = Modes.now(), None, None
    with torch.inference_mode(before.inference), torch.set_grad_enabled(before.grad):
        try:
            with injector:
                result = work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at
            caught = error
        if caught is not None:
            caught.__traceback__ = caught.__context__ = caught.__cause__ = None
    before.restore()
    return result, caught
