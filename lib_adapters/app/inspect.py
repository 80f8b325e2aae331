"""`inspect`: what a file is, which blocks it changes and how strongly, as text or JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from lib_adapters.app import describe_aesthetic, describe_hypernetwork
from lib_adapters.app.arguments import Commands, device_name, device_of
from lib_adapters.app.bar_chart import chart
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.errors import AestheticFile, HypernetworkFile
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.files.blocks import block_label, family_blocks, sort_blocks
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.kohya_names import KOHYA_COMPONENTS
from lib_adapters.hosts.diffusers.weight_diff import diff_weights
from lib_adapters.library.block_strength import BlockNorm, block_norms, tensor_norm
from lib_adapters.patching.layers import flat
from lib_adapters.patching.request import Request

MAX_VALUE = 100  # letters of a metadata value in the text form; JSON has them whole


def add(commands: Commands) -> None:
    command = commands.add_parser("inspect", help="what an adapter file is and does", description=__doc__)
    command.add_argument("file", type=Path)
    command.add_argument("--model", type=Path, metavar="DIR", help="measure the strength on this diffusers folder")
    command.add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.add_argument("--json", action="store_true", help="everything, for programs")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        adapter = open_adapter(args.file)
    except HypernetworkFile:
        return _other(args, describe_hypernetwork, open_hypernetwork(args.file))
    except AestheticFile:
        return _other(args, describe_aesthetic, open_aesthetic(args.file))
    blocks = _measured(adapter, args) if args.model else block_norms(adapter)
    if args.json:
        print(json.dumps({**summary(adapter), **_details(adapter, blocks)}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_text(adapter, blocks)))
    return 0


def _other(args: argparse.Namespace, words: Any, found: Any) -> int:
    """`words`: the module that speaks for this kind of file."""
    if args.json:
        print(json.dumps({**words.summary(found), **words.details(found)}, indent=2, default=str))
    else:
        print("\n".join(words.text(found)))
    return 0


def _measured(adapter: Adapter, args: argparse.Namespace) -> dict[str, BlockNorm]:
    with Generator.open(args.model, device_of(args.device), FolderResolver([]), torch.float32) as generator:
        return live_block_norms(adapter, generator)


def summary(adapter: Adapter) -> dict[str, Any]:
    """What `list --json` shows too."""
    return {
        "name": adapter.name,
        "path": str(adapter.path),
        "family": adapter.family,
        "algorithms": dict(adapter.algorithms),
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "parts": list(adapter.components),
        "bytes": adapter.nbytes,
    }


def _details(adapter: Adapter, blocks: dict[str, BlockNorm]) -> dict[str, Any]:
    return {
        "blocks": {name: _block(block) for name, block in blocks.items()},
        "embeddings": list(adapter.bundled_embeddings),
        "unusable": [{"key": key, "reason": reason} for key, reason in adapter.skipped],
        "notes": list(adapter.notes),
        "metadata": dict(adapter.metadata),
    }


def _block(block: BlockNorm) -> dict[str, Any]:
    """`strength` is null where only the model can tell."""
    return {"layers": block.layers, "strength": block.known_strength}


def _text(adapter: Adapter, blocks: dict[str, BlockNorm]) -> list[str]:
    kinds = ", ".join(f"{label} ({count} layers)" for label, count in adapter.algorithms.items())
    alpha = "none" if adapter.alpha is None else f"{adapter.alpha:g}"
    lines = [
        f"{adapter.path.name}",
        f"  algorithm  {kinds or 'none'}",
        f"  rank       {adapter.rank or 'none'}, alpha {alpha}",
        f"  made for   {FAMILY_NAMES.get(adapter.family, adapter.family)}",
        f"  parts      {', '.join(adapter.components) or 'none'}",
        f"  size       {adapter.nbytes / 1e6:.1f} MB of tensors",
    ]
    lines += [f"  embedding  {name}" for name in adapter.bundled_embeddings]
    lines += ["", "Strength by block (norm of the change at strength 1)"]
    lines += [f"  {line}" for line in chart({name: _bar(block) for name, block in blocks.items()})]
    if any(block.unknown for block in blocks.values()):
        lines += ["", "What turns or scales the model's own weights has a strength only on a model: --model DIR."]
    if adapter.skipped:
        lines += ["", f"Not usable: {len(adapter.skipped)}"]
        lines += [f"  {key}: {reason}" for key, reason in adapter.skipped[:20]]
    lines += [f"Note: {note}" for note in adapter.notes]
    return lines + _metadata(adapter)


def _bar(block: BlockNorm) -> tuple[float, str]:
    if not block.layers:
        return 0.0, "-"
    if block.unknown == block.layers:
        return 0.0, f"?  {block.layers} layers"
    return block.strength, f"{block.strength:.3g}  {block.layers} layers"


def _metadata(adapter: Adapter) -> list[str]:
    shown = {key: " ".join(value.split()) for key, value in sorted(adapter.metadata.items())}
    lines = [f"  {key}: {value[:MAX_VALUE]}{'...' if len(value) > MAX_VALUE else ''}" for key, value in shown.items()]
    return ["", "Metadata", *lines] if lines else ["", "No metadata."]


# How strongly a file changes each block of a live model: exact for every algorithm.


def live_block_norms(adapter: Adapter, generator: Generator) -> dict[str, BlockNorm]:
    found: dict[str, BlockNorm] = {name: BlockNorm() for name in family_blocks(adapter.family)}
    for transaction in diff_weights(generator, [Request(adapter)])[0]:
        path = transaction.path.removesuffix(".weight").removesuffix(".bias")
        block = found.setdefault(
            block_label(LayerKey(KOHYA_COMPONENTS[transaction.component], flat(path))), BlockNorm()
        )
        block.layers += 1
        block.sum_of_squares += tensor_norm(transaction.delta) ** 2
    return {name: found[name] for name in sort_blocks(set(found))}
