"""`merge`: save a stack of tags as a model folder or as one LoRA file."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_adapters.app import arguments
from lib_adapters.app.progress import bar
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.load_pipeline import DTYPES, components_of
from lib_adapters.hosts.diffusers.lora_extraction import extract_lora
from lib_adapters.hosts.diffusers.tag_resolution import TagRequests, adapter_requests
from lib_adapters.hosts.diffusers.weight_diff import ParameterDiff, diff_weights, save_merged_model
from lib_adapters.prompt.block_weights import Presets
from lib_adapters.prompt.tags import parse


def add(commands: arguments.Commands) -> None:
    command = commands.add_parser("merge", help="keep a stack of adapters", description=__doc__)
    command.add_argument("tags", help='such as "<lyco:one:0.8><lyco:two:-0.3>"')
    command.add_argument("--out", type=Path, required=True, help="a new model folder, or a .safetensors file")
    arguments.add_model(command)
    arguments.add_adapters(command)
    command.add_argument("--rank", type=arguments.at_least_one, default=32, help="of the LoRA file (default 32)")
    command.add_argument("--dtype", choices=DTYPES, default="fp16", help="of the LoRA file (default fp16)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    arguments.check_new(args.out)
    resolver = arguments.resolver_for(args.adapters, args.model)
    wanted = _wanted(args.tags, resolver, arguments.presets_of(args.presets))
    with Generator.open(args.model, arguments.device_of(args.device), resolver, torch.float32) as generator:
        found, report = diff_weights(generator, wanted.requests)
        print(report)
        if not found:
            raise AdapterError("Nothing would change: no layer of this model is touched, or every strength is 0.")
        if args.out.suffix.lower() == ".safetensors":
            _lora_file(args, generator, found, wanted.pin_random(args.tags))
        else:
            _folder(args, found)
    return 0


def _wanted(tags: str, resolver: FolderResolver, presets: Presets) -> TagRequests:
    """Here one tag that cannot be followed stops everything: what is kept must be what was asked for."""
    parsed = parse(tags)
    wanted = adapter_requests(parsed.tags, resolver, presets)
    moving = [request.adapter.name for request in wanted.requests if request.is_dynamic("unet")]
    moving += [tag.name for tag in parsed.tags if tag.edits and not tag.disabled]
    still = [f"{name}: weights that are kept have no steps, so no strength may follow them." for name in moving]
    problems = [*parsed.problems, *wanted.problems, *still]
    if problems or not wanted.requests:
        raise AdapterError(" ".join(problems) or "There is no adapter tag, such as <lyco:name:0.8>.")
    return wanted


def _folder(args: argparse.Namespace, found: list[ParameterDiff]) -> None:
    homeless = save_merged_model(args.model, args.out, found)
    if homeless:
        print(f"{len(homeless)} changed parameters have no place in the folder's files: {', '.join(homeless[:5])}")
    print(f"{len(found) - len(homeless)} parameters changed in {args.out}")


def _lora_file(args: argparse.Namespace, generator: Generator, found: list[ParameterDiff], tags: str) -> None:
    components = components_of(generator.pipe)
    with bar(len(found), "Cutting to rank", "layer") as reached:
        result = extract_lora(found, components, args.rank, DTYPES[args.dtype], partial(reached, 0))
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": str(args.rank), "merged_from": tags}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.cpu() for key, tensor in result.tensors.items()}, str(args.out), metadata)
    worst, name = result.worst_layer
    print(f"{args.out}: rank {args.rank}, {len(found)} parameters, relative error {result.relative_error:.2%}")
    print(f"worst layer: {name or 'none'} ({worst:.2%})")
