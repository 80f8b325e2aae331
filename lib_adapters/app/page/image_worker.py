"""Generation of one image at a time for the page; it can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from lib_adapters.app.image_output import infotext, output_path, save
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import HYPERNET, GeneratedImage, Generator, Settings
from lib_adapters.hosts.tab.report_json import report_json
from lib_adapters.patching.report import Report
from lib_adapters.prompt.tags import TAG_KINDS, parse

TAGS = (*TAG_KINDS, HYPERNET)

Reached = Callable[[int, int], None]  # steps done, of how many


class Cancelled(Exception):
    """The user does not want this picture any more."""


@dataclass
class WorkerResult:
    """What the page shows of one press of the button."""

    pictures: list[tuple[Image, str]] = field(default_factory=list)  # each with its title
    lines: list[str] = field(default_factory=list)  # what was applied
    problems: list[str] = field(default_factory=list)


class ImageWorker:
    """The studio, its shelf as it is now, and the folder for pictures."""

    def __init__(
        self, generator: Generator, folders: Iterable[Path], out: Path, on_used: Callable[[Path], None]
    ) -> None:
        self._generator, self._folders, self._out, self._used = generator, list(folders), out, on_used
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._last_report = report_json(Report(), (), ())

    def rescan(self) -> None:
        self._generator = replace(self._generator, resolver=FolderResolver(self._folders))

    def report(self) -> dict[str, Any]:
        """What was done for the last picture."""
        return self._last_report

    def stop(self) -> None:
        self._stop.set()

    def generate(self, prompt: str, settings: Settings, compare: bool, reached: Reached) -> WorkerResult:
        """With `compare`, the same seed without the tags comes first."""
        parsed = parse(prompt, TAGS)
        both = compare and bool(parsed.tags or settings.negative_request_tags)
        without = [(parsed.text, settings.without_negative_tags(), "without")] if both else []
        prompts = [*without, (prompt, settings, "with" if both else "")]
        shown = WorkerResult()
        with self._busy:
            self._stop.clear()
            try:
                for number, (text, how, title) in enumerate(prompts):
                    image = self._one(text, how, reached, (number, len(prompts)))
                    shown.pictures.append((image.image, title))
                    shown.lines, shown.problems = image.report.lines(), list(image.problems)
                    self._last_report = report_json(image.report, shown.lines, shown.problems)
            except Cancelled:
                shown.problems.append("Stopped.")
        self._note_use(prompt)
        self._note_use("".join(tag.text for tag in settings.negative_request_tags))
        return shown

    def _one(self, prompt: str, settings: Settings, reached: Reached, place: tuple[int, int]) -> GeneratedImage:
        number, count = place

        def progress(done: int) -> None:
            if self._stop.is_set():
                raise Cancelled
            reached(number * settings.steps + done, count * settings.steps)

        reached(number * settings.steps, count * settings.steps)
        image = self._generator.generate(prompt, settings, progress)
        text = infotext(image)
        save(image.image, output_path(self._out, f"seed-{settings.seed}", 0, 1), text)
        image.image.info["parameters"] = text
        return image

    def _note_use(self, prompt: str) -> None:
        resolver = self._generator.resolver
        for tag in parse(prompt, TAGS).tags:
            try:
                hypernetwork = tag.kind == HYPERNET
                self._used(
                    resolver.hypernetwork(tag.name)[0].path if hypernetwork else resolver.adapter(tag.name).adapter.path
                )
            except AdapterError:
                continue  # the picture's own problems have said it
