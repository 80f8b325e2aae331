"""`verify`: check that files are sound and that a model is restored bit for bit after each."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lib_adapters.app import arguments
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.hosts.diffusers.folder_resolver import adapter_files
from lib_adapters.hosts.diffusers.load_pipeline import create_session, open_pipeline
from lib_adapters.patching.request import Request
from lib_adapters.session import Session


def add(commands: arguments.Commands) -> None:
    command = commands.add_parser("verify", help="are files sound, is a model restored", description=__doc__)
    command.add_argument("files", type=Path, nargs="+", help="adapter files, or folders of them")
    command.add_argument(
        "--model", type=Path, metavar="DIR", help="also put each on this diffusers folder and take it off"
    )
    command.add_argument("--device", type=arguments.device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    files = [file for path in args.files for file in (adapter_files(path) if path.is_dir() else [path])]
    if not files:
        raise AdapterError("There are no adapter files in the folders named.")
    pipe = open_pipeline(args.model, arguments.device_of(args.device), torch.float32) if args.model else None
    session = create_session(pipe) if pipe else None
    bad = sum(not _verified(file, session) for file in files)
    if bad:
        raise AdapterError(f"{bad} of {len(files)} files failed.")
    print(f"{len(files)} of {len(files)} files passed.")
    return 0


def _verified(file: Path, session: Session | None) -> bool:
    try:
        adapter = open_adapter(file)
        faults = _faults(adapter)
        print(f"{file.name}: {f'{len(faults)} faults' if faults else 'sound'}, {len(adapter.layers)} layers")
        for fault in faults:
            print(f"  {fault}")
        return (session is None or _restored(adapter, session)) and not faults
    except AdapterError as error:
        print(error)
        return False


def _faults(adapter: Adapter) -> list[str]:
    loaded = adapter.load()
    return [f"{key}: {reason}" for key, reason in (*adapter.skipped, *loaded.skipped)]


def _restored(adapter: Adapter, session: Session) -> bool:
    report = session.activate([Request(adapter)])
    for line in report.lines():
        print(f"  {line}")
    during = session.verify()
    session.deactivate()
    same = during and session.verify()
    print("  the model is bit for bit what it was" if same else "  THE MODEL IS NOT WHAT IT WAS")
    return same and not any(one.error for one in report.adapters)
