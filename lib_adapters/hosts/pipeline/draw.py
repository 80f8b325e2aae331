"""A prompt with tags becomes a picture and a report."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from lib_adapters.errors import AdapterError
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.patching.request import Request
from lib_adapters.prompt.tags import Tag, parse
from lib_adapters.session import Report, Session

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Settings:
    """None means: as the model folder has it."""

    negative: str = ""
    steps: int = 20
    seed: int = 0
    guidance: float = 7.5
    size: tuple[int, int] | None = None  # width, height


@dataclass(frozen=True)
class Picture:
    image: Image
    report: Report
    problems: tuple[str, ...]  # what could not be read, found or shown


def draw(
    pipe: Any, session: Session, shelf: Shelf, prompt: str, settings: Settings, progress: Progress | None = None
) -> Picture:
    """Exactly the adapters named in the prompt are active while it is drawn, and stay so until the next call."""
    parsed = parse(prompt)
    requests, problems = requests_for(parsed.tags, shelf)
    report = session.activate(requests)
    result = pipe(parsed.text, **_arguments(settings, progress))
    blanked = getattr(result, "nsfw_content_detected", None)
    notes = ["the model folder's own safety checker blanked this picture."] if blanked and any(blanked) else []
    return Picture(result.images[0], report, (*parsed.problems, *problems, *notes))


def requests_for(tags: Sequence[Tag], shelf: Shelf) -> tuple[list[Request], list[str]]:
    """What cannot be found or opened is said; the other tags still work."""
    requests: list[Request] = []
    problems: list[str] = []
    for tag in tags:
        try:
            found = shelf.find(tag.name)
        except AdapterError as error:
            problems.append(f"{tag.text}: {error}")
            continue
        requests.append(Request(found.adapter, unet=tag.unet, te=tag.te, dyn=tag.dyn))
        if found.notice:
            problems.append(f"{tag.text}: {found.notice}")
    return requests, problems


def chosen_seed(seed: int) -> int:
    """A negative seed asks for a new one."""
    return seed if seed >= 0 else secrets.randbelow(2**32)


def _arguments(settings: Settings, progress: Progress | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "negative_prompt": settings.negative,
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
    def after_step(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        progress(step + 1, steps)
        return kwargs

    return after_step
