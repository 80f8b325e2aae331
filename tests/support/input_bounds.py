"""What holds for every input of every target: an end, a count of calls, a peak of memory, no code, no foreign file."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 30  # a thousand times what is needed: against what never ends, not against a busy machine
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class", "exec",
             "socket.connect", "ctypes.dlopen", "shutil.rmtree")  # fmt: skip
OWN = (sys.prefix, os.path.realpath(sys.prefix), sys.base_prefix, str(Path(__file__).parents[2]))  # where modules are


@dataclass(frozen=True)
class Bound:
    """How much one input may cost; both grow with its size alone."""

    calls: int = 20_000
    calls_per_byte: int = 100
    memory: int = 64 << 20  # bytes
    memory_per_byte: int = 2_000


class Broken(AssertionError):
    """An input that costs or does too much."""


@dataclass
class Watch:
    """What Python itself says is being done (sys.audit). A hook cannot be taken out again, so it is switched."""

    inside: Path | None = None
    seen: str = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event == "exec" and arguments[0].co_filename.startswith(OWN):
            return  # a module that is imported only now
        if event in FORBIDDEN or (event == "open" and not self._allowed(arguments[0])):
            self.seen = f"{event} {arguments[0]!r:.200}"

    def _allowed(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a file that was opened before
        real = os.path.realpath(os.fsdecode(path))
        return real.startswith((str(self.inside), "/proc/self/", "/dev/", *OWN))


@functools.cache
def _hook() -> Watch:
    watch = Watch()
    sys.addaudithook(watch)
    return watch


@contextmanager
def watched(inside: Path) -> Iterator[None]:
    """Files of this folder only, and nothing that starts something."""
    watch = _hook()
    watch.inside, watch.seen = Path(os.path.realpath(inside)), ""
    try:
        yield
    finally:
        watch.inside = None
    if watch.seen:
        raise Broken(f"it does {watch.seen}")


@contextmanager
def patience(seconds: int = SECONDS) -> Iterator[None]:
    def over(*_: object) -> None:
        raise Broken(f"it is not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def counted(work: Callable[[], None], most: int) -> None:
    """`most`: calls of functions, Python's own among them."""
    count = 0

    def called(*_: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(before)
    if count > most:
        raise Broken(f"{count} calls where {most} may be")


@contextmanager
def within(most: int) -> Iterator[None]:
    """`most`: bytes that the process may grow by meanwhile. Linux tells; elsewhere nothing does."""
    tells = _forget_peak()
    start = _resident("VmRSS") if tells else 0
    yield
    grown = _resident("VmHWM") - start if tells else 0
    if grown > most:
        raise Broken(f"{grown >> 20} MB of memory where {most >> 20} may be")


def _forget_peak() -> bool:
    """Is the peak of memory that of now?"""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) << 10
