"""The benchmark of applying: every algorithm, everybody who can compute it, the results in three forms."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import chart, measure, results
from benchmarks.case import Setting, make_case
from benchmarks.results import Row


def run(setting: Setting, algorithms: Sequence[str], rounds: int) -> Iterator[list[Row]]:
    """The rows of one algorithm after the other; a long run that is stopped has not been for nothing."""
    for name in algorithms:
        with tempfile.TemporaryDirectory() as folder:
            case = make_case(name, setting, Path(folder))
            yield results.rows(case, measure.run(case, rounds))


def save(rows: Sequence[Row], setting: Setting, rounds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = {**machine(setting), "rounds": rounds, "rows": [asdict(row) for row in rows]}
    name = f"apply-{setting.family}-{setting.device.type}-{str(setting.dtype).removeprefix('torch.')}"
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1), "utf-8")
    title = f"Applying, times a clone of the touched weights ({setting.family}, {about['dtype']}, {about['device']})"
    (folder / f"{name}.svg").write_text(chart.draw(rows, title), "utf-8")


def machine(setting: Setting) -> dict[str, str | int]:
    gpu = setting.device.type == "cuda"
    return {
        "family": setting.family,
        "rank": setting.rank,
        "one_layer_in": setting.every,
        "clock": "processor" if setting.processor_time else "wall",
        "dtype": str(setting.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
