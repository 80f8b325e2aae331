"""`<aesthetic:...>` in a pipeline: the positive prompt's states, led by the pipeline's own text encoder.

The encoder keeps nothing. While the positive prompt is encoded once more, one hook answers for it with what it would
say after some steps of training; that is mixed with what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic import Aesthetic
from lib_adapters.conditioning.aesthetic_steering import Progress, Prompt, Steered, Steerer, mixed, target_of
from lib_adapters.conditioning.aesthetic_text import clip_feature
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.pipeline.folder import Pipeline
from lib_adapters.hosts.pipeline.places import Place, Places, encoders_of
from lib_adapters.patching.report import AdapterReport
from lib_adapters.prompt.aesthetic import Options

EMBEDS = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class Wish:
    """One tag whose file was found."""

    aesthetic: Aesthetic
    options: Options


class AestheticReport(AdapterReport):
    """There are no layers here; the line says how far the text came."""

    said = ""

    def line(self) -> str:
        return self.error if self.error is not None else f"{self.name} (aesthetic gradient): {self.said}"


class Aesthetics:
    def __init__(self, pipe: Pipeline, places: Places) -> None:
        self._pipe = pipe
        self._places = places
        self._steerer = Steerer()

    @torch.no_grad()
    def led(
        self,
        text: str,
        negative: str,
        wishes: Sequence[Wish],
        progress: Progress | None = None,
        speak: Callable[[bool], None] | None = None,
    ) -> tuple[dict[str, Tensor], list[AdapterReport]]:
        """What the pipeline takes instead of the two prompts. Several wishes are mixed in, one after the other.

        `speak` is told before a text is encoded whether it is the negative one, where that makes a difference.
        """
        embeds = self._encoded(text, negative) if speak is None else self._apart(text, negative, speak)
        reports: list[AdapterReport] = []
        for wish in wishes:
            report = AestheticReport(wish.aesthetic.name, 0.0, wish.options.weight)
            reports.append(report)
            try:
                place = self._places.of(wish.aesthetic)
                steered = self._led(text, embeds, place, wish, progress)
            except AdapterError as error:
                report.error = str(error)
                continue
            except torch.cuda.OutOfMemoryError:  # the picture itself may still find room
                report.error = (
                    f"{report.name}: there is not enough GPU memory to lead the text encoder; it is left out."
                )
                continue
            report.notes = [place.note] if place.note else []
            report.said = (
                f"{wish.options.steps} steps, weight {wish.options.weight:g}, "
                f"cosine {steered.before:.2f} -> {steered.after:.2f}"
            )
        return embeds, reports

    def _apart(self, text: str, negative: str, speak: Callable[[bool], None]) -> dict[str, Tensor]:
        """As `_encoded`, one text after the other; the positive one is left to be encoded again."""
        speak(True)
        against = self._encoded(negative, None)
        speak(False)
        return self._encoded(text, None) | {f"negative_{name}": one for name, one in against.items()}

    def _encoded(self, text: str, negative: str | None) -> dict[str, Tensor]:
        """By the names under which the pipeline takes them; without `negative` only the positive ones."""
        guided = negative is not None
        found = self._pipe.encode_prompt(
            prompt=text, device=self._pipe._execution_device, num_images_per_prompt=1,
            do_classifier_free_guidance=guided, negative_prompt=negative,
        )  # fmt: skip
        return {name: one for name, one in zip((*EMBEDS, *POOLED), found, strict=False) if one is not None}

    def _led(
        self, text: str, embeds: dict[str, Tensor], place: Place, wish: Wish, progress: Progress | None
    ) -> Steered:
        """Puts the mixture into `embeds`."""
        answers: list[Steered] = []

        def changed(encoder: nn.Module, given: tuple[Any, ...], others: dict[str, Any], output: Any) -> Any:
            answers.append(self._steered(place, (given, others), output, wish, progress))
            return _like(output, iter(answers[-1].states))

        handle = place.encoder.register_forward_hook(changed, with_kwargs=True)
        try:
            other = self._encoded(text, None)
        finally:
            handle.remove()
        widths = [int(encoder.config.hidden_size) for encoder in encoders_of(self._pipe).values()]
        parts, others = (list(torch.split(one[EMBEDS[0]], widths, dim=-1)) for one in (embeds, other))
        parts[place.number] = mixed(parts[place.number], others[place.number], wish.options)
        embeds[EMBEDS[0]] = torch.cat(parts, dim=-1)
        if POOLED[0] in embeds and place.number == len(parts) - 1:
            embeds[POOLED[0]] = mixed(embeds[POOLED[0]], other[POOLED[0]], wish.options)
        return answers[-1]

    def _steered(
        self, place: Place, call: tuple[tuple[Any, ...], dict[str, Any]], output: Any, wish: Wish,
        progress: Progress | None,
    ) -> Steered:  # fmt: skip
        (tokens, *_), others = call
        end, options = int(place.tokenizer.eos_token_id), wish.options
        prompt = Prompt(
            lambda: clip_feature(place.encoder, place.projection, tokens, end, others),
            lambda: _flat(place.encoder.forward(tokens, **others)),
            (*_flat(output), place.projection),
        )
        target = target_of(wish.aesthetic.vectors.to(tokens.device), self._felt(place, options.text), options)
        try:
            return self._steerer.steer(place.encoder, prompt, target, options, progress)
        except AdapterError as error:
            raise type(error)(f"{wish.aesthetic.name}: {error}.") from error

    def _felt(self, place: Place, text: str) -> Tensor | None:
        """[1, d]: the feature of the tag's own text, by the unchanged encoder."""
        if not text:
            return None
        ids = place.tokenizer(
            text, padding="max_length", max_length=place.tokenizer.model_max_length, truncation=True,
            return_tensors="pt",
        ).input_ids.to(self._pipe._execution_device)  # fmt: skip
        return clip_feature(place.encoder, place.projection, ids, int(place.tokenizer.eos_token_id))


def _flat(output: Any) -> tuple[Tensor, ...]:
    """All tensors of what a text encoder answers."""
    values = output.values() if isinstance(output, dict) else output
    return tuple(one for value in values for one in (value if isinstance(value, tuple) else (value,)))


def _like(output: Any, tensors: Iterator[Tensor]) -> Any:
    """The same answer with these tensors in it, in its own types."""
    fill: Callable[[Any], Any] = lambda old: (  # noqa: E731
        tuple(fill(one) for one in old) if isinstance(old, tuple) else next(tensors).to(old.dtype)
    )
    return type(output)(**{k: fill(v) for k, v in output.items()}) if isinstance(output, dict) else fill(output)
