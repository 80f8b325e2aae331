"""`python -m benchmarks numbers`: everything, into docs/numbers.md, docs/formats.md and README.md.

`whole`, `profile`, `scale`, `live` or `catalogue` alone: table to stdout, progress to stderr, JSON into a folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import apply_profile, full_run, library_listing, many_adapters, scheduled_strength, whole_model
from benchmarks.adapter_case import Setting, machine
from benchmarks.bench_model import KINDS
from benchmarks.model_layers import FAMILIES
from benchmarks.sampling_seconds import Found
from benchmarks.synthetic_adapters import RECIPES

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    options = _parser().parse_args()
    options.run(options)


def _numbers(options: argparse.Namespace) -> None:
    if options.write_only:
        full_run.write(options.root)
        return
    changes = {name: value for name in ("every", "rounds") if (value := getattr(options, name)) is not None}
    plan = replace(full_run.QUICK if options.quick else full_run.FULL, **changes)
    full_run.run(options.parts or tuple(full_run.PARTS), plan, options.root)


def _catalogue(options: argparse.Namespace) -> None:
    rows = library_listing.run(options.files, options.modules, options.folder)
    print(library_listing.table(rows))
    if options.out:
        library_listing.save(rows, options.files, options.modules, options.out)


def _whole(options: argparse.Namespace) -> None:
    setting = Setting(options.family, options.rank, torch.device(options.device), DTYPES[options.dtype], options.every)
    rows = list(whole_model.run(setting, options.kinds or whole_model.KINDS, options.rounds))
    print(whole_model.markdown(rows))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"whole-{options.family}-{options.device}-{options.dtype}.json"
        found = {**machine(setting), "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _profile(options: argparse.Namespace) -> None:
    setting = Setting(options.family, 32, torch.device("cpu"), torch.float32, options.every)
    print(apply_profile.table_of(setting, options.kind))


def _scale(options: argparse.Namespace) -> None:
    print(many_adapters.table_of(Setting(options.family, 16, torch.device("cpu"), torch.float32, options.every)))


def _live(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    setting = Setting(options.family, 32, device, dtype, 1, options.clock == "processor")
    found: list[Found] = []
    for one in scheduled_strength.run(
        setting, options.size, options.kinds or tuple(KINDS), options.runs, calls=not options.layers
    ):
        found.append(one)
        if options.out:
            scheduled_strength.save(found, setting, options.size, options.runs, options.out)
    print(scheduled_strength.tables(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="How fast adapters are applied and listed."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_numbers(commands)
    _add_whole(commands)
    _add_live(commands)
    listing = commands.add_parser("catalogue", help="from a folder of adapter files to the tab's cards")
    listing.add_argument("--files", type=int, default=10_000)
    listing.add_argument("--modules", type=int, default=16, help="layers of each (a full SD 1 LoRA: 264)")
    listing.add_argument("--folder", type=Path, help="where the files are made for a while")
    listing.add_argument("--out", type=Path, help="folder for the JSON")
    listing.set_defaults(run=_catalogue)
    return parser


def _add_numbers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("numbers", help="everything, written into docs/ and the README")
    command.add_argument("parts", nargs="*", metavar="PART", help=f"only these anew: {', '.join(full_run.PARTS)}")
    command.add_argument("--quick", action="store_true", help="tiny, to see that it works: not for quoting")
    command.add_argument("--every", type=int, help="one in so many of the layers (default: 8; whole: all)")
    command.add_argument("--rounds", type=int, help="rounds whose median counts (default: 3; whole: always 5)")
    command.add_argument("--write-only", action="store_true", help="measure nothing: write anew what is kept")
    command.add_argument("--root", type=Path, default=full_run.ROOT, help="folder with README.md and docs/")
    command.set_defaults(run=_numbers)


def _add_whole(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("whole", help="whole models: first apply, strength, file, off, memory, beside peers")
    command.add_argument("--family", choices=sorted(FAMILIES), default="sd1")
    command.add_argument("--kinds", nargs="+", choices=sorted(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    command.add_argument("--rank", type=int, default=32)
    command.add_argument("--rounds", type=int, default=5, help="whose median counts")
    command.add_argument("--every", type=int, default=1, help="one in so many of the layers")
    command.add_argument("--device", default="cpu", help="cpu or cuda")
    command.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    command.add_argument("--out", type=Path, help="folder for the JSON")
    command.set_defaults(run=_whole)
    profiled = commands.add_parser("profile", help="where the time of an apply and of a change of strength goes")
    profiled.add_argument("kind", choices=sorted(RECIPES))
    profiled.set_defaults(run=_profile)
    scaled = commands.add_parser("scale", help="twenty adapters, ten schedules, fifty switches")
    scaled.set_defaults(run=_scale)
    for one in (profiled, scaled):
        one.add_argument("--family", choices=sorted(FAMILIES), default="sd1")
        one.add_argument("--every", type=int, default=1, help="one in so many of the layers")


def _add_live(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("live", help="strengths that change while sampling: runs, changes, whole pictures")
    command.add_argument("--family", choices=["sd1", "tiny"], default="sd1")
    command.add_argument("--kinds", nargs="+", choices=sorted(KINDS), metavar="NAME", help=", ".join(KINDS))
    command.add_argument("--size", type=int, default=64, help="of the latent picture")
    command.add_argument("--runs", type=int, default=3, help="rounds whose median counts")
    command.add_argument("--layers", action="store_true", help="time layers alone, no whole runs")
    _add_machine(command)
    command.add_argument("--out", type=Path, help="folder for the JSON")
    command.set_defaults(run=_live)


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="cpu or cuda")
    command.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU")
    command.add_argument("--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy machine")
    command.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")


if __name__ == "__main__":
    main()
