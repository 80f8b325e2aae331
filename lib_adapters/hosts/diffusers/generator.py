"""Images and reports from a prompt with tags: a model folder, its Session and its adapters."""

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

from lib_adapters.conditioning.hypernetwork_patcher import HypernetworkPatcher
from lib_adapters.hosts.diffusers.aesthetic_encoder import AestheticEncoder, AestheticRequest
from lib_adapters.hosts.diffusers.clip_projection import EncoderMatcher
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.load_pipeline import Pipeline, create_session, open_pipeline
from lib_adapters.hosts.diffusers.step_callback import GUIDED_ROWS, OnStep, SamplingSteps
from lib_adapters.hosts.diffusers.tag_resolution import (
    TagContext,
    TagRequests,
    adapter_requests,
    aesthetic_requests,
    hypernetwork_requests,
    plain_word_tags,
    unsupported_schedules,
    word_editing_messages,
)
from lib_adapters.hosts.diffusers.textual_inversion import BundledEmbeddings
from lib_adapters.prompt import aesthetic_tag
from lib_adapters.prompt.block_presets import BUILT_IN
from lib_adapters.prompt.block_weights import Presets
from lib_adapters.prompt.schedule import SamplingStep
from lib_adapters.prompt.tags import TAG_KINDS, Tag, parse, unapplied_tag_messages
from lib_adapters.session import AdapterReport, Report, Session

HYPERNET = "hypernet"
FIRST_STEP = SamplingStep(0, 1)
NEGATIVE_ROW, POSITIVE_ROW = GUIDED_ROWS
NEGATIVE_ROWS = frozenset({NEGATIVE_ROW})


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
    def negative_request_tags(self) -> tuple[Tag, ...]:
        """The tags that act on the negative prompt's side."""
        return parse(self.negative, TAG_KINDS).tags if self.negative_tags else ()

    def without_negative_tags(self) -> Settings:
        """The same, and no tag on the negative side."""
        return replace(self, negative=parse(self.negative, TAG_KINDS).text) if self.negative_tags else self


DEFAULTS = Settings()


@dataclass(frozen=True)
class GeneratedImage:
    image: Image
    report: Report
    problems: tuple[str, ...]  # what could not be read, found or shown
    prompt: str  # as asked for, with what chance has chosen
    settings: Settings  # likewise


@dataclass(frozen=True)
class ActivePrompt:
    """What a prompt has made active."""

    text: str  # without tags
    negative: str
    report: Report
    problems: tuple[str, ...]
    requests: TagRequests
    negative_requests: TagRequests  # by the negative prompt


@dataclass(frozen=True)
class Generator:
    """A context manager: the model is given back its own weights at the end."""

    pipe: Pipeline
    session: Session
    hypernetworks: HypernetworkPatcher
    embeddings: BundledEmbeddings
    aesthetic_encoder: AestheticEncoder
    resolver: FolderResolver
    presets: Callable[[], Presets] = lambda: BUILT_IN

    @classmethod
    def open(
        cls,
        folder: Path,
        device: torch.device,
        resolver: FolderResolver,
        dtype: torch.dtype | None = None,
        clip_folder: Path | None = None,
    ) -> Self:
        """`clip`: the folder of the CLIP model whose text encoder is the pipeline's, for aesthetic gradients."""
        pipe = open_pipeline(folder, device, dtype)
        session, aesthetics = create_session(pipe), AestheticEncoder(pipe, EncoderMatcher(pipe, folder, clip_folder))
        return cls(
            pipe, session, HypernetworkPatcher(pipe.unet, session.family), BundledEmbeddings(pipe), aesthetics, resolver
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.deactivate()
        self.hypernetworks.deactivate()
        self.embeddings.restore()

    def generate(self, prompt: str, settings: Settings, on_step: OnStep | None = None) -> GeneratedImage:
        """Exactly the adapters named in the prompt are active while it is drawn, and stay so until the next call."""
        parsed = aesthetic_tag.parse(prompt)
        steps = SamplingSteps(self.pipe, settings.steps)
        active = self.activate_prompt(parsed.text, settings, steps.sampling_step(0))
        wishes, more = aesthetic_requests(parsed.tags, self.resolver)
        problems = [*parsed.problems, *active.problems, *more]
        problems += unapplied_tag_messages(prompt, aesthetic_tag.KIND, "an aesthetic embedding")
        rows = GUIDED_ROWS if self._uses_guidance(settings) else (POSITIVE_ROW,)
        arguments = _arguments(settings) | {"callback_on_step_end": steps.callback(self.session, rows, on_step)}
        self.session.set_step(steps.sampling_step(0), rows)
        stop = (lambda _: on_step(0)) if on_step else None  # whoever watches may stop the picture here too
        embeds, lines = self._prompt_embeds(active, settings, wishes, stop)
        if embeds:
            result = self.pipe(None, **arguments, **embeds)
        else:
            result = self.pipe(active.text, negative_prompt=active.negative, **arguments)
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            problems.append("the model folder's own safety checker blanked this picture.")
        report = self.session.report
        report = replace(report, adapters=[*report.adapters, *active.report.adapters[len(report.adapters) :], *lines])
        used = replace(settings, negative=active.negative_requests.pin_random(settings.negative))
        return GeneratedImage(result.images[0], report, tuple(problems), active.requests.pin_random(prompt), used)

    def activate_prompt(
        self, prompt: str, settings: Settings = DEFAULTS, step: SamplingStep = FIRST_STEP
    ) -> ActivePrompt:
        """For the first step; what could not be read or found is told of."""
        parsed = parse(prompt, (*TAG_KINDS, HYPERNET))
        drawing = TagContext(str(settings.seed), settings.steps)
        adapters = [tag for tag in parsed.tags if tag.kind != HYPERNET]
        wanted = adapter_requests(adapters, self.resolver, self.presets(), drawing)
        negative, more = self._negative_requests(settings, drawing)
        steerings, problems = hypernetwork_requests([tag for tag in parsed.tags if tag.kind == HYPERNET], self.resolver)
        report = self.session.activate([*wanted.requests, *more.requests], step)
        pairs = zip(self.session.active, report.adapters, strict=True)  # perhaps in an earlier prompt's order
        used = [request.adapter for request, one in pairs if not one.error]
        problems += unapplied_tag_messages(prompt, HYPERNET, "a hypernetwork")
        problems = [*parsed.problems, *word_editing_messages(parsed), *wanted.problems, *more.problems, *problems]
        problems += self.embeddings.sync(used)
        problems += unsupported_schedules(self.session.active, step)
        report = replace(report, adapters=[*report.adapters, *self.hypernetworks.activate(steerings)])
        return ActivePrompt(parsed.text, negative, report, tuple(problems), wanted, more)

    def _negative_requests(self, settings: Settings, drawing: TagContext) -> tuple[str, TagRequests]:
        """The negative prompt's text, and what its tags ask for on its side."""
        if not settings.negative_tags:
            return settings.negative, plain_word_tags(settings.negative, (*TAG_KINDS, HYPERNET))
        parsed = parse(settings.negative, TAG_KINDS)
        if parsed.tags and not self._uses_guidance(settings):
            idle = "without guidance (above 1) nothing is drawn of the negative prompt, so its tags do nothing."
            return parsed.text, TagRequests(problems=[idle])
        wanted = adapter_requests(parsed.tags, self.resolver, self.presets(), replace(drawing, rows=NEGATIVE_ROWS))
        wanted.problems += [
            *parsed.problems,
            *word_editing_messages(parsed),
            *plain_word_tags(parsed.text, (HYPERNET,)).problems,
        ]
        return parsed.text, wanted

    def _uses_guidance(self, settings: Settings) -> bool:
        """Does the UNet see the negative prompt? One that was distilled to have guidance in it never does."""
        config: Any = self.pipe.unet.config
        return settings.guidance > 1 and getattr(config, "time_cond_proj_dim", None) is None

    def _prompt_embeds(
        self, active: ActivePrompt, settings: Settings, wishes: Sequence[AestheticRequest], stop: OnStep | None
    ) -> tuple[dict[str, Tensor], list[AdapterReport]]:
        """The texts, encoded here where the pipeline cannot: led, or each with adapters of its own."""
        own = any(request.rows is not None and request.te for request in self.session.active)
        if not wishes and not own:
            return {}, []

        def set_row(negative: bool) -> None:
            self.session.set_text_row(NEGATIVE_ROW if negative else POSITIVE_ROW)

        return self.aesthetic_encoder.encode(active.text, active.negative, wishes, stop, set_row if own else None)


def resolve_seed(seed: int) -> int:
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
