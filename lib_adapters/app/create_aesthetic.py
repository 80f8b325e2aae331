"""`aesthetic create`: compute an aesthetic embedding from a folder of images.

The mean of their CLIP features, each as long as it is, as the first generator of such files result it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib_adapters.app import arguments
from lib_adapters.app.progress import bar
from lib_adapters.hosts.diffusers.create_embedding import DEFAULT_BATCH_SIZE, EmbeddingJob, create_embedding


def add(commands: arguments.Commands) -> None:
    kinds = commands.add_parser("aesthetic", help="make an aesthetic embedding", description=__doc__)
    command = kinds.add_subparsers(required=True, metavar="create").add_parser("create", description=__doc__)
    command.add_argument("folder", type=Path, help="the pictures; its subfolders too")
    command.add_argument(
        "--clip", type=Path, required=True, metavar="DIR", help="a local CLIP model with its image side"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors or .pt file")
    command.add_argument(
        "--batch",
        type=arguments.at_least_one,
        default=DEFAULT_BATCH_SIZE,
        help=f"pictures at once (default {DEFAULT_BATCH_SIZE})",
    )
    command.add_argument("--device", type=arguments.device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    arguments.check_new(args.out, ".safetensors", ".pt")
    job = EmbeddingJob.prepare(args.folder, args.clip, args.out, args.batch, arguments.device_of(args.device))
    with bar(len(job.files), "Looking", "picture") as reached:
        result = create_embedding(job, lambda done, _: reached(0, done), lambda: False)  # Ctrl-C stops it
    for problem in result.skipped_messages():
        print(problem, file=sys.stderr)
    print(result.summary())
    return 0
