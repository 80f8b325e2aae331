"""Keep those inputs of a search (`--keep FOLDER`) that reach new code.

    python -m tests.robustness.fuzz.minimize_corpus FOLDER [TARGET...]

For each target the smallest inputs of which each reaches a step from line to line of lib_adapters that none before it
does. They replace those in corpus/, which are looked through with the others.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.robustness.fuzz.inputs import KEPT, kept
from tests.robustness.fuzz.registry import NAMES, Target, load

MOST = 24_000  # bytes for one target
OURS = str(Path(__file__).parents[3] / "lib_adapters")
Step = tuple[str, int, int]


def main(work: Path, names: Iterable[str]) -> None:
    for name in names:
        target = load(name)
        target.warm()
        found = [path.read_bytes() for path in (work / name / "corpus").glob("*")]
        chosen = least(target, [*kept(target), *found])
        shutil.rmtree(KEPT / name, ignore_errors=True)
        (KEPT / name).mkdir(parents=True)
        for number, data in enumerate(chosen):
            (KEPT / name / f"{number:03}").write_bytes(data)
        print(f"{name}: {len(chosen)} of {len(found)} inputs, {sum(map(len, chosen)):,} bytes", flush=True)


def least(target: Target, inputs: list[bytes]) -> list[bytes]:
    """What the seeds reach is reached anyway."""
    known: set[Step] = set()
    for data in target.seeds():
        known |= steps(target, data)
    chosen: list[bytes] = []
    for data in sorted({*inputs}, key=lambda one: (len(one), one)):
        new = steps(target, data) - known
        if new and sum(map(len, chosen)) + len(data) < MOST:
            known |= new
            chosen.append(data)
    return chosen


def steps(target: Target, data: bytes) -> set[Step]:
    found: set[Step] = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            found.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return trace

    threading.settrace(trace)  # routes are served beside the event loop
    sys.settrace(trace)
    try:
        target.run(data)
    except Exception as error:  # noqa: BLE001 - what does not hold has a place of its own
        print(f"{target.name}: {error!r} by {data[:60]!r}")
        return set()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or NAMES)
