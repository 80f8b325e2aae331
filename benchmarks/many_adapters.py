"""Many adapters at once: time grows with what changes, memory does not grow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import memory
from benchmarks.adapter_case import Setting, adapter_file, make_case
from benchmarks.markdown import table
from benchmarks.synthetic_adapters import RECIPES
from lib_adapters import Adapter, Request, Session, open_adapter
from lib_adapters.prompt.schedule import SamplingStep, parse_curve

Timed = Callable[[str, Callable[[], object]], None]
ADAPTERS, SCHEDULES, SWITCHES, STEPS = 20, 10, 50, 10
CPU = torch.device("cpu")


def table_of(setting: Setting) -> str:
    """Return seconds of each operation, and the memory of the process after it."""
    with tempfile.TemporaryDirectory() as folder:
        case = make_case("lora", setting, Path(folder))
        adapters = []
        for number in range(ADAPTERS):
            torch.manual_seed(number)
            path = Path(folder) / f"{number}.safetensors"
            adapters.append(open_adapter(adapter_file(path, RECIPES["lora"], case.shapes, setting.rank)))
        session = Session(unet=case.model)
        rows = [["what", "seconds", "memory of the process"]]

        def timed(what: str, work: Callable[[], object]) -> None:
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            rows.append([what, f"{seconds:.3f}", f"{memory.resident(CPU) / 1e9:.2f} GB"])

        _together(session, adapters, timed)
        _switches(session, adapters, timed)
        _schedules(session, adapters, timed)
    return table(rows)


def _together(session: Session, adapters: list[Adapter], timed: Timed) -> None:
    for count in (1, 5, 10, ADAPTERS):
        used = adapters[:count]
        timed(f"{count} adapters", partial(session.activate, [Request(one, unet=0.3) for one in used]))
        changed = [Request(one, unet=0.4 if one is used[0] else 0.3) for one in used]
        timed(f"{count} adapters, one strength changed", partial(session.activate, changed))
    timed("off", session.deactivate)


def _switches(session: Session, adapters: list[Adapter], timed: Timed) -> None:
    for number in range(1, SWITCHES + 1):
        request = Request(adapters[number % len(adapters)])
        if number % 10 == 0:
            timed(f"switch {number}", partial(session.activate, [request]))
        else:
            session.activate([request])
    timed("off", session.deactivate)


def _schedules(session: Session, adapters: list[Adapter], timed: Timed) -> None:
    for count in (1, SCHEDULES):
        curves = [parse_curve(f"{number / 10}@0,1@1") for number in range(count)]
        requests = [Request(one, unet=curve) for one, curve in zip(adapters, curves, strict=False)]
        timed(f"{count} schedules, first step", partial(session.activate, requests, SamplingStep(0, STEPS)))
        for step in (1, STEPS - 1):
            timed(f"{count} schedules, step {step + 1}", partial(session.set_step, SamplingStep(step, STEPS)))
        session.deactivate()
