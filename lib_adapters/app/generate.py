"""`generate`: images from a prompt with tags, or a comparison sheet."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from lib_adapters.app import arguments, compare
from lib_adapters.app.image_output import infotext, load_generator, output_path, print_report, read_settings, save
from lib_adapters.app.progress import bar
from lib_adapters.errors import AdapterError


def add(commands: arguments.Commands) -> None:
    command = commands.add_parser("generate", help="draw pictures", description=__doc__)
    command.add_argument("prompt", nargs="?", help='with tags: "a red circle <lyco:name:0.8>"')
    arguments.add_model(command)
    arguments.add_adapters(command)
    arguments.add_clip(command)
    command.add_argument("--negative", default="", metavar="TEXT", help="the negative prompt")
    command.add_argument(
        "--negative-tags", action="store_true", help="tags in the negative prompt act on its side; else they are words"
    )
    command.add_argument("--steps", type=arguments.at_least_one, help="default 20, 15 with the bundled model")
    command.add_argument("--seed", type=int, default=1, help="a negative one asks for a new one (default 1)")
    command.add_argument("--size", type=arguments.image_size, metavar="WxH", help="default: the model's own")
    command.add_argument("--guidance", type=float, help="default 7.5, 2.5 with the bundled model")
    command.add_argument("--count", type=arguments.at_least_one, default=1, help="pictures, each with the next seed")
    command.add_argument("--out", type=Path, default=Path("out"), help="a .png file, or a folder (default: out)")
    command.add_argument(
        "--compare",
        action="store_true",
        help="one sheet: without, with each adapter of the prompt, with all; without a prompt, every bundled adapter",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.compare:
        return compare.run(args)
    if not args.prompt:
        raise AdapterError(
            'generate needs a prompt, such as "a red circle <lyco:name:0.8>" (or --compare without one).'
        )
    settings = read_settings(args)
    with load_generator(args) as generator, bar(args.count * settings.steps, "Drawing", "step") as reached:
        for number in range(args.count):
            one = replace(settings, seed=settings.seed + number)
            image = generator.generate(args.prompt, one, partial(reached, number * settings.steps))
            file = output_path(args.out, f"seed-{one.seed}", number, args.count)
            save(image.image, file, infotext(image))
            if number == 0:
                print_report(image)
            print(file)
    return 0
