"""`<aesthetic:...>` in a pipeline: optimizes the embeddings of the positive prompt.

The encoder keeps nothing. While the positive prompt is encoded once more, one hook answers for it with what it would
say after some steps of training; that is mixed with what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding
from lib_adapters.conditioning.aesthetic_gradients import (
    AestheticOptimizer,
    OptimizedText,
    ProgressCallback,
    TextForward,
    blend,
    optimization_target,
)
from lib_adapters.conditioning.clip_features import clip_feature
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.clip_projection import EncoderMatch, EncoderMatcher, text_encoders_of
from lib_adapters.hosts.diffusers.load_pipeline import Pipeline
from lib_adapters.patching.report import AdapterReport
from lib_adapters.prompt.aesthetic_tag import AestheticOptions

PROMPT_EMBEDS = ("prompt_embeds", "negative_prompt_embeds")
POOLED_PROMPT_EMBEDS = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class AestheticRequest:
    """One tag whose file was found."""

    aesthetic: AestheticEmbedding
    options: AestheticOptions


class AestheticReport(AdapterReport):
    """There are no layers here; the line says how far the text came."""

    outcome = ""

    def summary(self) -> str:
        return self.error if self.error is not None else f"{self.name} (aesthetic gradient): {self.outcome}"


class AestheticEncoder:
    def __init__(self, pipe: Pipeline, matcher: EncoderMatcher) -> None:
        self._pipe = pipe
        self._matcher = matcher
        self._optimizer = AestheticOptimizer()

    @torch.no_grad()
    def encode(
        self,
        text: str,
        negative: str,
        requests: Sequence[AestheticRequest],
        progress: ProgressCallback | None = None,
        on_encode: Callable[[bool], None] | None = None,
    ) -> tuple[dict[str, Tensor], list[AdapterReport]]:
        """What the pipeline takes instead of the two prompts. Several wishes are mixed in, one after the other.

        `speak` is told before a text is encoded whether it is the negative one, where that makes a difference.
        """
        embeds = (
            self._encode(text, negative) if on_encode is None else self._encode_separately(text, negative, on_encode)
        )
        reports: list[AdapterReport] = []
        for spec in requests:
            report = AestheticReport(spec.aesthetic.name, 0.0, spec.options.weight)
            reports.append(report)
            try:
                place = self._matcher.match(spec.aesthetic)
                steered = self._apply(text, embeds, place, spec, progress)
            except AdapterError as error:
                report.error = str(error)
                continue
            except torch.cuda.OutOfMemoryError:  # the picture itself may still find room
                report.error = (
                    f"{report.name}: there is not enough GPU memory to lead the text encoder; it is left out."
                )
                continue
            report.notes = [place.note] if place.note else []
            report.outcome = (
                f"{spec.options.steps} steps, weight {spec.options.weight:g}, "
                f"cosine {steered.cosine_before:.2f} -> {steered.cosine_after:.2f}"
            )
        return embeds, reports

    def _encode_separately(self, text: str, negative: str, on_encode: Callable[[bool], None]) -> dict[str, Tensor]:
        """As `_encoded`, one text after the other; the positive one is left to be encoded again."""
        on_encode(True)
        against = self._encode(negative, None)
        on_encode(False)
        return self._encode(text, None) | {f"negative_{name}": one for name, one in against.items()}

    def _encode(self, text: str, negative: str | None) -> dict[str, Tensor]:
        """By the names under which the pipeline takes them; without `negative` only the positive ones."""
        guided = negative is not None
        found = self._pipe.encode_prompt(
            prompt=text, device=self._pipe._execution_device, num_images_per_prompt=1,
            do_classifier_free_guidance=guided, negative_prompt=negative,
        )  # fmt: skip
        return {
            name: one
            for name, one in zip((*PROMPT_EMBEDS, *POOLED_PROMPT_EMBEDS), found, strict=False)
            if one is not None
        }

    def _apply(
        self,
        text: str,
        embeds: dict[str, Tensor],
        place: EncoderMatch,
        spec: AestheticRequest,
        progress: ProgressCallback | None,
    ) -> OptimizedText:
        """Puts the mixture into `embeds`."""
        answers: list[OptimizedText] = []

        def changed(encoder: nn.Module, given: tuple[Any, ...], others: dict[str, Any], output: Any) -> Any:
            answers.append(self._optimize(place, (given, others), output, spec, progress))
            return _like(output, iter(answers[-1].hidden_states))

        handle = place.encoder.register_forward_hook(changed, with_kwargs=True)
        try:
            other = self._encode(text, None)
        finally:
            handle.remove()
        widths = [int(encoder.config.hidden_size) for encoder in text_encoders_of(self._pipe).values()]
        parts, others = (list(torch.split(one[PROMPT_EMBEDS[0]], widths, dim=-1)) for one in (embeds, other))
        parts[place.index] = blend(parts[place.index], others[place.index], spec.options)
        embeds[PROMPT_EMBEDS[0]] = torch.cat(parts, dim=-1)
        if POOLED_PROMPT_EMBEDS[0] in embeds and place.index == len(parts) - 1:
            embeds[POOLED_PROMPT_EMBEDS[0]] = blend(
                embeds[POOLED_PROMPT_EMBEDS[0]], other[POOLED_PROMPT_EMBEDS[0]], spec.options
            )
        return answers[-1]

    def _optimize(
        self, place: EncoderMatch, call: tuple[tuple[Any, ...], dict[str, Any]], output: Any, spec: AestheticRequest,
        progress: ProgressCallback | None,
    ) -> OptimizedText:  # fmt: skip
        (tokens, *_), others = call
        end, options = int(place.tokenizer.eos_token_id), spec.options
        prompt = TextForward(
            lambda: clip_feature(place.encoder, place.projection, tokens, end, others),
            lambda: _flat(place.encoder.forward(tokens, **others)),
            (*_flat(output), place.projection),
        )
        target = optimization_target(
            spec.aesthetic.vectors.to(tokens.device), self._text_feature(place, options.text), options
        )
        try:
            return self._optimizer.optimize(place.encoder, prompt, target, options, progress)
        except AdapterError as error:
            raise type(error)(f"{spec.aesthetic.name}: {error}.") from error

    def _text_feature(self, place: EncoderMatch, text: str) -> Tensor | None:
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
