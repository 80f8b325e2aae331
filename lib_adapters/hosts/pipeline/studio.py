"""A model folder, its session and a shelf of adapters: a prompt with tags becomes a picture and a report."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from typing_extensions import Self

from lib_adapters.conditioning.attention import Hypernetworks
from lib_adapters.hosts.pipeline.aesthetics import Aesthetics, Wish
from lib_adapters.hosts.pipeline.asked import (
    Drawing,
    Wanted,
    blind,
    requests_of,
    steerings_of,
    wishes_of,
    worded,
    words_only,
)
from lib_adapters.hosts.pipeline.folder import Pipeline, open_pipeline, session_of
from lib_adapters.hosts.pipeline.places import Places
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.hosts.pipeline.steps import ROWS, Progress, Steps
from lib_adapters.hosts.pipeline.words import Words
from lib_adapters.prompt import aesthetic
from lib_adapters.prompt.blocks import Presets
from lib_adapters.prompt.presets import BUILT_IN
from lib_adapters.prompt.schedule import Moment
from lib_adapters.prompt.tags import KINDS, Tag, parse, unfollowed
from lib_adapters.session import AdapterReport, Report, Session

HYPERNET = "hypernet"
START = Moment(0, 1)
NEGATIVE, POSITIVE = ROWS
NEGATIVES = frozenset({NEGATIVE})


@dataclass(frozen=True)
class Settings:
    """How to draw; `size` is width and height, None the model's own. `negative_tags`: those of the negative prompt
    act on its side alone; else they are plain words there."""

    negative: str = ""
    steps: int = 20
    seed: int = 0
    guidance: float = 7.5
    size: tuple[int, int] | None = None
    negative_tags: bool = False

    @property
    def against(self) -> tuple[Tag, ...]:
        """The tags that act on the negative prompt's side."""
        return parse(self.negative, KINDS).tags if self.negative_tags else ()

    def without(self) -> Settings:
        """The same, and no tag on the negative side."""
        return replace(self, negative=parse(self.negative, KINDS).text) if self.negative_tags else self


DEFAULTS = Settings()


@dataclass(frozen=True)
class Picture:
    image: Image
    report: Report
    problems: tuple[str, ...]  # what could not be read, found or shown
    prompt: str  # as asked for, with what chance has chosen
    settings: Settings  # likewise


@dataclass(frozen=True)
class Active:
    """What a prompt has made active."""

    text: str  # without tags
    negative: str
    report: Report
    problems: tuple[str, ...]
    wanted: Wanted
    against: Wanted  # by the negative prompt


@dataclass(frozen=True)
class Studio:
    """A context manager: the model is given back its own weights at the end."""

    pipe: Pipeline
    session: Session
    hypernetworks: Hypernetworks
    words: Words
    aesthetics: Aesthetics
    shelf: Shelf
    presets: Callable[[], Presets] = lambda: BUILT_IN

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
        steps = Steps(self.pipe, settings.steps)
        active = self.activate(parsed.text, settings, steps.moment(0))
        wishes, more = wishes_of(parsed.tags, self.shelf)
        problems = [*parsed.problems, *active.problems, *more]
        problems += unfollowed(prompt, aesthetic.KIND, "an aesthetic embedding")
        rows = ROWS if self._guided(settings) else (POSITIVE,)
        arguments = _arguments(settings) | {"callback_on_step_end": steps.callback(self.session, rows, progress)}
        self.session.at(steps.moment(0), rows)
        stop = (lambda _: progress(0)) if progress else None  # whoever watches may stop the picture here too
        embeds, lines = self._embeds(active, settings, wishes, stop)
        if embeds:
            result = self.pipe(None, **arguments, **embeds)
        else:
            result = self.pipe(active.text, negative_prompt=active.negative, **arguments)
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            problems.append("the model folder's own safety checker blanked this picture.")
        report = self.session.report
        report = replace(report, adapters=[*report.adapters, *active.report.adapters[len(report.adapters) :], *lines])
        used = replace(settings, negative=active.against.pinned(settings.negative))
        return Picture(result.images[0], report, tuple(problems), active.wanted.pinned(prompt), used)

    def activate(self, prompt: str, settings: Settings = DEFAULTS, moment: Moment = START) -> Active:
        """For the first step; what could not be read or found is told of."""
        parsed = parse(prompt, (*KINDS, HYPERNET))
        drawing = Drawing(str(settings.seed), settings.steps)
        adapters = [tag for tag in parsed.tags if tag.kind != HYPERNET]
        wanted = requests_of(adapters, self.shelf, self.presets(), drawing)
        negative, more = self._against(settings, drawing)
        steerings, problems = steerings_of([tag for tag in parsed.tags if tag.kind == HYPERNET], self.shelf)
        report = self.session.activate([*wanted.requests, *more.requests], moment)
        pairs = zip(self.session.active, report.adapters, strict=True)  # perhaps in an earlier prompt's order
        used = [request.adapter for request, one in pairs if not one.error]
        problems += unfollowed(prompt, HYPERNET, "a hypernetwork")
        problems = [*parsed.problems, *worded(parsed), *wanted.problems, *more.problems, *problems]
        problems += self.words.sync(used)
        problems += blind(self.session.active, moment)
        report = replace(report, adapters=[*report.adapters, *self.hypernetworks.activate(steerings)])
        return Active(parsed.text, negative, report, tuple(problems), wanted, more)

    def _against(self, settings: Settings, drawing: Drawing) -> tuple[str, Wanted]:
        """The negative prompt's text, and what its tags ask for on its side."""
        if not settings.negative_tags:
            return settings.negative, words_only(settings.negative, (*KINDS, HYPERNET))
        parsed = parse(settings.negative, KINDS)
        if parsed.tags and not self._guided(settings):
            idle = "without guidance (above 1) nothing is drawn of the negative prompt, so its tags do nothing."
            return parsed.text, Wanted(problems=[idle])
        wanted = requests_of(parsed.tags, self.shelf, self.presets(), replace(drawing, scope=NEGATIVES))
        wanted.problems += [*parsed.problems, *worded(parsed), *words_only(parsed.text, (HYPERNET,)).problems]
        return parsed.text, wanted

    def _guided(self, settings: Settings) -> bool:
        """Does the UNet see the negative prompt? One that was distilled to have guidance in it never does."""
        config: Any = self.pipe.unet.config
        return settings.guidance > 1 and getattr(config, "time_cond_proj_dim", None) is None

    def _embeds(
        self, active: Active, settings: Settings, wishes: Sequence[Wish], stop: Progress | None
    ) -> tuple[dict[str, Tensor], list[AdapterReport]]:
        """The texts, encoded here where the pipeline cannot: led, or each with adapters of its own."""
        own = any(request.scope is not None and request.te for request in self.session.active)
        if not wishes and not own:
            return {}, []

        def speak(negative: bool) -> None:
            self.session.speak(NEGATIVE if negative else POSITIVE)

        return self.aesthetics.led(active.text, active.negative, wishes, stop, speak if own else None)


def chosen_seed(seed: int) -> int:
    """A negative seed asks for a new one."""
    return seed if seed >= 0 else secrets.randbelow(2**32)


def _arguments(settings: Settings) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "generator": torch.Generator("cpu").manual_seed(settings.seed),  # the same picture on every device
    }
    if settings.size:
        arguments |= {"width": settings.size[0], "height": settings.size[1]}
    return arguments
