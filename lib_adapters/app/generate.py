"""`generate`: pictures from a prompt with tags, or the sheet that compares with and without."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from lib_adapters.app import compare, options
from lib_adapters.app.drawing import infotext, save, settings_of, studio_of, target, tell
from lib_adapters.app.progress import bar
from lib_adapters.errors import AdapterError


def add(commands: options.Commands) -> None:
    command = commands.add_parser("generate", help="draw pictures", description=__doc__)
    command.add_argument("prompt", nargs="?", help='with tags: "a red circle <lyco:name:0.8>"')
    options.add_model(command)
    options.add_shelf(command)
    options.add_clip(command)
    command.add_argument("--negative", default="", metavar="TEXT", help="the negative prompt")
    command.add_argument(
        "--negative-tags", action="store_true", help="tags in the negative prompt act on its side; else they are words"
    )
    command.add_argument("--steps", type=options.at_least_one, help="default 20, 15 with the bundled model")
    command.add_argument("--seed", type=int, default=1, help="a negative one asks for a new one (default 1)")
    command.add_argument("--size", type=options.picture_size, metavar="WxH", help="default: the model's own")
    command.add_argument("--guidance", type=float, help="default 7.5, 2.5 with the bundled model")
    command.add_argument("--count", type=options.at_least_one, default=1, help="pictures, each with the next seed")
    command.add_argument("--out", type=Path, default=Path("out"), help="a .png file, or a folder (default: out)")
    command.add_argument(
        "--compare",
        action="store_true",
        help="one sheet: without, with each adapter of the prompt, with all; without a prompt, every bundled adapter",
    )
    command.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    if given.compare:
        return compare.run(given)
    if not given.prompt:
        raise AdapterError(
            'generate needs a prompt, such as "a red circle <lyco:name:0.8>" (or --compare without one).'
        )
    settings = settings_of(given)
    with studio_of(given) as studio, bar(given.count * settings.steps, "Drawing", "step") as reached:
        for number in range(given.count):
            one = replace(settings, seed=settings.seed + number)
            picture = studio.generate(given.prompt, one, partial(reached, number * settings.steps))
            file = target(given.out, f"seed-{one.seed}", number, given.count)
            save(picture.image, file, infotext(picture))
            if number == 0:
                tell(picture)
            print(file)
    return 0
