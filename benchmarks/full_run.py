"""Measures all numbers, part by part, into results.json, from which the pages and images in docs/ are written."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks import correctness, library_listing, plots, render, scheduled_strength, whole_model
from benchmarks.adapter_case import Setting, machine
from benchmarks.checked_formats import KINDS

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("lycoris-lora", "peft", "diffusers")
Part = Mapping[str, Any]
Results = Mapping[str, Part]


@dataclass(frozen=True)
class Plan:
    """How much is measured. The quick one is there to see that everything works; nobody should quote it."""

    family: str = "sd1"
    rank: int = 32
    every: int = 8
    rounds: int = 3
    files_of: Sequence[str] = whole_model.KINDS
    whole_every: int = 1  # of the layers in the part `whole`, one in so many
    whole_rounds: int = 5
    kinds: Sequence[str] = tuple(KINDS)
    stacks: Sequence[str] = ("lora", "2 lokr", "loha", "oft")
    size: int = 32
    files: int = 10_000

    def setting(self) -> Setting:
        """Processor seconds of one thread: what is measured is the work, not how busy the machine is."""
        return Setting(self.family, self.rank, torch.device("cpu"), torch.float32, self.every, processor_time=True)


FULL = Plan()
QUICK = Plan("tiny", 4, 12, 1, ("lora",), 12, 1, ("LoRA", "LoKr", "IA3", "BOFT"), ("lora",), 16, 60)


def run(parts: Sequence[str], plan: Plan, root: Path = ROOT) -> None:
    """Measures these parts anew; the others stay as they are in the folder's results."""
    threads = torch.get_num_threads()
    try:
        for part in parts:
            torch.set_num_threads(threads if part == "whole" else 1)
            rows = PARTS[part](plan)  # takes minutes, in which another run may have kept its own part
            keep(root, {**kept(root), part: {"about": about(plan, part), "rows": rows}})
    finally:
        torch.set_num_threads(threads)
    write(root)


def write(root: Path = ROOT) -> None:
    """Everything that is made from the results; nothing is measured."""
    results = kept(root)
    folder = root / "docs" / "numbers"
    plots.draw(results, folder)
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs" / "numbers.md").write_text(render.numbers(results, larger(root)), "utf-8")
    _put(root / "README.md", render.NUMBERS, render.summary(results))
    _put(root / "docs" / "formats.md", render.PEERS, render.peers())


def _put(path: Path, name: str, block: str) -> None:
    path.write_text(render.put(path.read_text("utf-8"), name, block), "utf-8")


def kept(root: Path) -> dict[str, Part]:
    path = root / "docs" / "numbers" / "results.json"
    found: dict[str, Part] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def larger(root: Path) -> list[dict[str, Any]]:
    """Return the measurements of larger models, which `python -m benchmarks whole --out docs/numbers` saved."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((root / "docs" / "numbers").glob("whole-*.json"))]


def keep(root: Path, results: Results) -> None:
    folder = root / "docs" / "numbers"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def about(plan: Plan, part: str) -> dict[str, Any]:
    """Return what this part's numbers depend on."""
    versions = {name: version for name in PEERS if (version := _version(name))}
    day = datetime.now(timezone.utc).date().isoformat()
    how = {**machine(plan.setting()), "rounds": plan.rounds, "size": plan.size}
    if part == "whole":
        how |= {"clock": "wall", "one_layer_in": plan.whole_every, "rounds": plan.whole_rounds}
    return {**how, "day": day, "peers": versions}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _whole(plan: Plan) -> list[dict[str, Any]]:
    """Wall time with all threads: what a user waits."""
    setting = Setting(plan.family, plan.rank, torch.device("cpu"), torch.float32, plan.whole_every)
    return [asdict(row) for row in whole_model.run(setting, plan.files_of, plan.whole_rounds)]


def _correctness(plan: Plan) -> list[dict[str, Any]]:
    return [asdict(verdict) for verdict in correctness.run(plan.kinds)]


def _live(plan: Plan) -> list[dict[str, Any]]:
    return [
        asdict(one) for one in scheduled_strength.run(plan.setting(), plan.size, plan.stacks, plan.rounds, calls=False)
    ]


def _catalogue(plan: Plan) -> list[dict[str, Any]]:
    return [asdict(row) for row in library_listing.run(plan.files, 16)]


PARTS: Mapping[str, Callable[[Plan], list[dict[str, Any]]]] = {
    "whole": _whole,
    "correctness": _correctness,
    "live": _live,
    "catalogue": _catalogue,
}
