"""A comparison sheet: the same prompts and seeds without and with adapters."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from lib_adapters.app.arguments import ADAPTERS, AESTHETICS
from lib_adapters.app.contact_sheet import Cell, contact_sheet
from lib_adapters.app.image_output import load_generator, output_path, read_settings, save
from lib_adapters.app.progress import bar
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.generator import HYPERNET, Generator, Settings
from lib_adapters.prompt import aesthetic_tag
from lib_adapters.prompt.schedule import format_strength, initial_value
from lib_adapters.prompt.tag_editor import edit_tag
from lib_adapters.prompt.tag_lexer import OFF_TOKEN, tokenize
from lib_adapters.prompt.tags import TAG_KINDS, Tag, parse, quote_name

PAIRS_PER_ROW = 3


@dataclass(frozen=True)
class ComparedImage:
    """One cell of the sheet before it is drawn."""

    prompt: str
    settings: Settings
    title: str
    note: str = ""


def run(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    with load_generator(args) as generator:
        rows = _prompt_rows(args.prompt, settings, args.count) if args.prompt else _bundled_rows(settings)
        sheet = contact_sheet(_drawn(generator, rows), args.prompt or "Every bundled adapter, without and with it")
    name = output_path(args.out, "compare", 0, 1)
    print(f"The sheet is {save(sheet, name, args.prompt or 'every bundled adapter').resolve()}")
    return 0


def _prompt_rows(prompt: str, settings: Settings, count: int) -> list[list[ComparedImage]]:
    """A column without, one with each adapter that is not off, one with all; a row per seed."""
    aesthetics = aesthetic_tag.parse(prompt)
    parsed = parse(aesthetics.text, (*TAG_KINDS, HYPERNET))
    tags = [(_alone(aesthetics.text, parsed.tags, tag), _title(tag)) for tag in parsed.tags if not tag.disabled]
    tags += [(f"{parsed.text} {tag.text}", f"{tag.name}  {tag.options.weight:g}") for tag in aesthetics.tags]
    against = [tag for tag in settings.negative_request_tags if not tag.disabled]
    if not tags and not against:
        raise AdapterError("--compare needs a tag in the prompt, such as <lyco:name:0.8>, or no prompt at all.")
    without = settings.without_negative_tags()
    shots = [ComparedImage(parsed.text, without, "without")]
    shots += [ComparedImage(text, without, title) for text, title in tags]
    alone = [(replace(settings, negative=_alone(settings.negative, against, tag)), tag) for tag in against]
    shots += [ComparedImage(parsed.text, how, f"negative: {_title(tag)}") for how, tag in alone]
    if len(tags) + len(against) > 1:
        shots.append(ComparedImage(prompt, settings, "all together"))
    return [[_with_seed(shot, settings.seed + number) for shot in shots] for number in range(count)]


def _alone(prompt: str, tags: Sequence[Tag], one: Tag) -> str:
    """Return the prompt with every other tag switched off in place, because prompt editing around tags matters."""
    for tag in reversed([tag for tag in tags if tag is not one and not tag.disabled]):
        start, end = tag.span
        prompt = prompt[:start] + edit_tag(tag, {OFF_TOKEN: OFF_TOKEN}) + prompt[end:]
    return prompt


def _with_seed(shot: ComparedImage, seed: int) -> ComparedImage:
    return replace(shot, settings=replace(shot.settings, seed=seed), note=f"seed {seed}")


def _bundled_rows(settings: Settings) -> list[list[ComparedImage]]:
    """Pairs: each bundled adapter with the prompt that shows it best."""
    index = ADAPTERS / "README.json"
    if not index.is_file():
        raise AdapterError(f"{index}: the bundled adapters are not there; name adapters in a prompt instead.")
    entries = {
        name: entry
        for file in (index, AESTHETICS / index.name)
        for name, entry in json.loads(file.read_text(encoding="utf-8")).items()
    }
    shots = [shot for name, entry in entries.items() for shot in _pair(name, entry, settings)]
    return [shots[n : n + 2 * PAIRS_PER_ROW] for n in range(0, len(shots), 2 * PAIRS_PER_ROW)]


def _pair(name: str, entry: dict[str, str], settings: Settings) -> tuple[ComparedImage, ComparedImage]:
    tagged = f"{entry['prompt']} <{entry.get('tag', 'lyco')}:{quote_name(name)}:{entry.get('strength', '1')}>"
    without = ComparedImage(entry["prompt"], settings, "without", entry["prompt"])
    return without, ComparedImage(tagged, settings, f"{name}  ({entry['kind']})", entry["effect"])


def _drawn(generator: Generator, rows: Sequence[Sequence[ComparedImage]]) -> list[list[Cell]]:
    """Each line of the report and each problem is said once, however many pictures it concerns."""
    said: set[str] = set()
    total = sum(shot.settings.steps for row in rows for shot in row)
    done = 0
    cells: list[list[Cell]] = []
    with bar(total, "Drawing", "step") as reached:
        for row in rows:
            cells.append([])
            for shot in row:
                image = generator.generate(shot.prompt, shot.settings, partial(reached, done))
                done += shot.settings.steps
                cells[-1].append(Cell(image.image, shot.title, shot.note))
                said.update(image.problems)
    for problem in sorted(said):
        print(problem, file=sys.stderr)
    return cells


def _title(tag: Tag) -> str:
    unet = format_strength(tag.unet)
    strength = unet if tag.te == initial_value(tag.unet) else f"te {tag.te:g}, unet {unet}"
    _, items = tokenize(tag.text[len(tag.kind) + 2 : -1])
    named = [(key, item.partition("=")[2] if "=" in item else item) for key, item in items]
    more = [f"{key}={value.strip()}" for key, value in named if key and key not in ("te", "unet")]
    return "  ".join([tag.name, strength, *more])
