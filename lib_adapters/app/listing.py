"""`list`: the adapters of a folder and its subfolders, one line each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lib_adapters.app import describe_aesthetic, describe_hypernetwork
from lib_adapters.app.arguments import Commands
from lib_adapters.app.inspect import summary
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.errors import AdapterError, AestheticFile, HypernetworkFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.hosts.diffusers.folder_resolver import adapter_files


def add(commands: Commands) -> None:
    command = commands.add_parser("list", help="the adapters of a folder", description=__doc__)
    command.add_argument("folder", type=Path)
    command.add_argument("--json", action="store_true", help="everything, for programs")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.folder.is_dir():
        raise AdapterError(f"{args.folder}: there is no such folder.")
    found = [_described(file) for file in adapter_files(args.folder)]
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(found, args.folder.absolute())) or "No adapter files here.")
    return 0


def _described(file: Path) -> dict[str, Any]:
    """A file that cannot be used is listed with the reason."""
    try:
        try:
            return summary(open_adapter(file))
        except HypernetworkFile:
            return describe_hypernetwork.summary(open_hypernetwork(file))
        except AestheticFile:
            return describe_aesthetic.summary(open_aesthetic(file))
    except AdapterError as error:
        return {"name": file.stem, "path": str(file), "error": str(error)}


def _lines(found: list[dict[str, Any]], folder: Path) -> list[str]:
    names = {entry["path"]: Path(entry["path"]).relative_to(folder).as_posix() for entry in found}
    width = min(max((len(name) for name in names.values()), default=0), 50)
    return [f"{names[entry['path']]:<{width}}  {_words(entry)}" for entry in found]


def _words(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return str(entry["error"])
    kinds = ", ".join(f"{label} {count}" for label, count in entry["algorithms"].items())
    rank = f"rank {entry['rank']}" if entry["rank"] else "no rank"
    return f"{entry['family']:<8} {kinds}  {rank}  {'+'.join(entry['parts'])}  {entry['bytes'] / 1e6:.1f} MB"
