"""Selection of the pipeline's text encoder whose features are as wide as an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding
from lib_adapters.conditioning.clip_features import load_text_projection, text_projection
from lib_adapters.errors import AdapterError, FamilyMismatch, InvalidModelFolder
from lib_adapters.hosts.diffusers.clip_vision import read_json
from lib_adapters.hosts.diffusers.load_pipeline import TEXT_ENCODERS, Pipeline
from lib_adapters.hosts.diffusers.textual_inversion import TOKENIZERS

CLIP_FOLDER_NAME = "clip"  # a folder of this name in the model's own, or beside it, is looked into without being told


@dataclass(frozen=True)
class EncoderMatch:
    """An encoder among a pipeline's."""

    index: int
    encoder: nn.Module
    tokenizer: Any  # transformers'
    projection: Tensor  # [d, w]
    note: str = ""  # what the user should know about how well it fits


class EncoderMatcher:
    def __init__(self, pipe: Pipeline, folder: Path, clip_folder: Path | None = None) -> None:
        """`clip`: a local CLIP folder for encoders that came without their projection."""
        self._pipe = pipe
        self._clip_folder = clip_folder or find_clip_folder(folder)
        self._projection: Tensor | None = None

    def match(self, aesthetic: AestheticEmbedding) -> EncoderMatch:
        """AdapterError where there is none, or where nobody knows its projection."""
        widths, lacking = [], 0
        for number, (name, encoder) in enumerate(text_encoders_of(self._pipe).items()):
            own = text_projection(encoder)
            projection = self._local_projection(int(encoder.config.hidden_size)) if own is None else own
            if projection is None:
                lacking += 1
            elif projection.shape[0] == aesthetic.width:
                note = self._missing_layers_note(int(encoder.config.num_hidden_layers)) if own is None else ""
                return EncoderMatch(number, encoder, getattr(self._pipe, TOKENIZERS[name]), projection, note)
            else:
                widths.append(str(projection.shape[0]))
        raise self._mismatch_error(aesthetic, widths, lacking)

    def _local_projection(self, hidden: int) -> Tensor | None:
        """The projection from the CLIP folder, if it is one for states of this width."""
        if self._projection is None and self._clip_folder is not None:
            self._projection = load_text_projection(self._clip_folder)
        fits = self._projection is not None and self._projection.shape[1] == hidden
        return self._projection if fits else None

    def _missing_layers_note(self, ours: int) -> str:
        """Stable Diffusion 2 folders come without the last layer of their CLIP."""
        assert self._clip_folder is not None
        config = read_json(self._clip_folder / "config.json")
        theirs = (config.get("text_config") or config).get("num_hidden_layers", 0)
        return (
            f"the text encoder has {ours} of its CLIP's {theirs} layers, so it is led roughly" if theirs > ours else ""
        )

    def _mismatch_error(self, aesthetic: AestheticEmbedding, widths: Sequence[str], lacking: int) -> AdapterError:
        name = aesthetic.path.name
        if not lacking:
            return FamilyMismatch(
                f"{name} is {aesthetic.width} wide, but what this model's texts are compared in is "
                f"{' or '.join(widths)} wide: use an embedding made with this model's CLIP."
            )
        if self._clip_folder is not None:
            return FamilyMismatch(
                f"{name}: the CLIP model in {self._clip_folder} belongs to another text encoder than this model's; "
                "name the folder of the one that fits with --clip."
            )
        return InvalidModelFolder(
            f"{name} needs CLIP's text projection, which this model's folder does not hold (nothing is fetched): name "
            f"a local CLIP folder with --clip (for Stable Diffusion 1 it is clip-vit-large-patch14), or put it beside "
            f"the model as {CLIP_FOLDER_NAME!r}."
        )


def find_clip_folder(folder: Path) -> Path | None:
    """The CLIP folder that a model folder brings along."""
    beside = (folder / CLIP_FOLDER_NAME, folder.resolve().parent / CLIP_FOLDER_NAME)
    return next((place for place in beside if place.is_dir()), None)


def text_encoders_of(pipe: Pipeline) -> dict[str, Any]:
    """Transformers' text encoders by their names in the pipeline, in their order."""
    found = {part: getattr(pipe, part, None) for part in TEXT_ENCODERS}
    return {part: encoder for part, encoder in found.items() if encoder is not None}
