"""A model folder, its session and a shelf of adapters: a prompt with tags becomes a picture and a report."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from typing_extensions import Self

from lib_adapters.conditioning.attention import Hypernetworks, Steering
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.pipeline.aesthetics import Aesthetics, Wish
from lib_adapters.hosts.pipeline.folder import Pipeline, open_pipeline, session_of
from lib_adapters.hosts.pipeline.places import Places
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.hosts.pipeline.words import Words
from lib_adapters.patching.request import Request
from lib_adapters.prompt import aesthetic
from lib_adapters.prompt.tags import KINDS, Tag, parse
from lib_adapters.session import Report, Session

HYPERNET = "hypernet"
Progress = Callable[[int], None]  # called with the number of steps done


@dataclass(frozen=True)
class Settings:
    """How to draw; `size` is width and height, None the model's own."""

    negative: str = ""
    steps: int = 20
    seed: int = 0
    guidance: float = 7.5
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Picture:
    image: Image
    report: Report
    problems: tuple[str, ...]  # what could not be read, found or shown


@dataclass(frozen=True)
class Studio:
    """A context manager: the model is given back its own weights at the end."""

    pipe: Pipeline
    session: Session
    hypernetworks: Hypernetworks
    words: Words
    aesthetics: Aesthetics
    shelf: Shelf

    @classmethod
    def open(
        cls,
        folder: Path,
        device: torch.device,
        shelf: Shelf,
        dtype: torch.dtype | None = None,
        clip: Path | None = None,
    ) -> Self:
        """`clip`: the folder of the CLIP model whose text encoder is the pipeline's, for aesthetic gradients."""
        pipe = open_pipeline(folder, device, dtype)
        session, aesthetics = session_of(pipe), Aesthetics(pipe, Places(pipe, folder, clip))
        return cls(pipe, session, Hypernetworks(pipe.unet, session.family), Words(pipe), aesthetics, shelf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.deactivate()
        self.hypernetworks.deactivate()
        self.words.restore()

    def draw(self, prompt: str, settings: Settings, progress: Progress | None = None) -> Picture:
        """Exactly the adapters named in the prompt are active while it is drawn, and stay so until the next call."""
        parsed = aesthetic.parse(prompt)
        text, report, problems = self.activate(parsed.text)
        wishes, more = wishes_of(parsed.tags, self.shelf)
        problems = (*parsed.problems, *problems, *more)
        arguments = _arguments(settings, progress)
        if wishes:
            stop = (lambda _: progress(0)) if progress else None  # whoever watches may stop the picture here too
            embeds, lines = self.aesthetics.led(text, settings.negative, wishes, stop)
            report = replace(report, adapters=[*report.adapters, *lines])
            result = self.pipe(None, **arguments, **embeds)
        else:
            result = self.pipe(text, negative_prompt=settings.negative, **arguments)
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            problems = (*problems, "the model folder's own safety checker blanked this picture.")
        return Picture(result.images[0], report, problems)

    def activate(self, prompt: str) -> tuple[str, Report, tuple[str, ...]]:
        """The text without tags, what was applied, and what could not be read or found."""
        parsed = parse(prompt, (*KINDS, HYPERNET))
        requests, problems = requests_of([tag for tag in parsed.tags if tag.kind != HYPERNET], self.shelf)
        steerings, more = steerings_of([tag for tag in parsed.tags if tag.kind == HYPERNET], self.shelf)
        report = self.session.activate(requests)
        used = [request.adapter for request, one in zip(requests, report.adapters, strict=True) if not one.error]
        problems += self.words.sync(used)
        report = replace(report, adapters=[*report.adapters, *self.hypernetworks.activate(steerings)])
        return parsed.text, report, (*parsed.problems, *problems, *more)


def requests_of(tags: Sequence[Tag], shelf: Shelf) -> tuple[list[Request], list[str]]:
    """What cannot be found or opened is said; the other tags still work."""
    requests: list[Request] = []
    problems: list[str] = []
    for tag in tags:
        try:
            found = shelf.find(tag.name)
            requests.append(Request(found.adapter, unet=tag.unet, te=tag.te, dyn=tag.dyn))
        except AdapterError as error:
            problems.append(f"{tag.text}: {error}")
            continue
        if found.notice:
            problems.append(f"{tag.text}: {found.notice}")
    return requests, problems


def steerings_of(tags: Sequence[Tag], shelf: Shelf) -> tuple[list[Steering], list[str]]:
    """The same for `<hypernet:NAME:strength>`, in the order of the prompt."""
    steerings: list[Steering] = []
    problems: list[str] = []
    for tag in tags:
        try:
            found, notice = shelf.hypernetwork(tag.name)
            steerings.append(Steering(found, tag.unet))
        except AdapterError as error:
            problems.append(f"{tag.text}: {error}")
            continue
        problems += [f"{tag.text}: {notice}"] if notice else []
    return steerings, problems


def wishes_of(tags: Sequence[aesthetic.AestheticTag], shelf: Shelf) -> tuple[list[Wish], list[str]]:
    """The same for `<aesthetic:NAME:weight...>`."""
    wishes: list[Wish] = []
    problems: list[str] = []
    for tag in tags:
        try:
            found, notice = shelf.aesthetic(tag.name)
            wishes.append(Wish(found, tag.options))
        except AdapterError as error:
            problems.append(f"{tag.text}: {error}")
            continue
        problems += [f"{tag.text}: {notice}"] if notice else []
    return wishes, problems


def chosen_seed(seed: int) -> int:
    """A negative seed asks for a new one."""
    return seed if seed >= 0 else secrets.randbelow(2**32)


def _arguments(settings: Settings, progress: Progress | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "generator": torch.Generator("cpu").manual_seed(settings.seed),  # the same picture on every device
    }
    if settings.size:
        arguments |= {"width": settings.size[0], "height": settings.size[1]}
    if progress:
        arguments["callback_on_step_end"] = _callback(settings.steps, progress)
    return arguments


def _callback(steps: int, progress: Progress) -> Callable[..., dict[str, Any]]:
    def after_step(pipe: object, step: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        progress(min(step + 1, steps))  # some schedulers take one more than they were asked for
        return kwargs

    return after_step
