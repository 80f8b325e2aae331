"""Which text encoder of a pipeline an embedding is for: the one whose features are as wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic import Aesthetic
from lib_adapters.conditioning.aesthetic_text import own_projection, projection_in
from lib_adapters.errors import AdapterError, BrokenModel, FamilyMismatch
from lib_adapters.hosts.pipeline.folder import ENCODERS, Pipeline
from lib_adapters.hosts.pipeline.vision import read_json
from lib_adapters.hosts.pipeline.words import TOKENIZERS

CLIP = "clip"  # a folder of this name in the model's own, or beside it, is looked into without being told


@dataclass(frozen=True)
class Place:
    """An encoder among a pipeline's."""

    number: int
    encoder: nn.Module
    tokenizer: Any  # transformers'
    projection: Tensor  # [d, w]
    note: str = ""  # what the user should know about how well it fits


class Places:
    def __init__(self, pipe: Pipeline, folder: Path, clip: Path | None = None) -> None:
        """`clip`: a local CLIP folder for encoders that came without their projection."""
        self._pipe = pipe
        self._clip = clip or clip_beside(folder)
        self._projection: Tensor | None = None

    def of(self, aesthetic: Aesthetic) -> Place:
        """AdapterError where there is none, or where nobody knows its projection."""
        widths, lacking = [], 0
        for number, (name, encoder) in enumerate(encoders_of(self._pipe).items()):
            own = own_projection(encoder)
            projection = self._local(int(encoder.config.hidden_size)) if own is None else own
            if projection is None:
                lacking += 1
            elif projection.shape[0] == aesthetic.width:
                note = self._note(int(encoder.config.num_hidden_layers)) if own is None else ""
                return Place(number, encoder, getattr(self._pipe, TOKENIZERS[name]), projection, note)
            else:
                widths.append(str(projection.shape[0]))
        raise self._unfit(aesthetic, widths, lacking)

    def _local(self, hidden: int) -> Tensor | None:
        """The projection from the CLIP folder, if it is one for states of this width."""
        if self._projection is None and self._clip is not None:
            self._projection = projection_in(self._clip)
        fits = self._projection is not None and self._projection.shape[1] == hidden
        return self._projection if fits else None

    def _note(self, ours: int) -> str:
        """Stable Diffusion 2 folders come without the last layer of their CLIP."""
        assert self._clip is not None
        config = read_json(self._clip / "config.json")
        theirs = (config.get("text_config") or config).get("num_hidden_layers", 0)
        return (
            f"the text encoder has {ours} of its CLIP's {theirs} layers, so it is led roughly" if theirs > ours else ""
        )

    def _unfit(self, aesthetic: Aesthetic, widths: Sequence[str], lacking: int) -> AdapterError:
        name = aesthetic.path.name
        if not lacking:
            return FamilyMismatch(
                f"{name} is {aesthetic.width} wide, but what this model's texts are compared in is "
                f"{' or '.join(widths)} wide: use an embedding made with this model's CLIP."
            )
        if self._clip is not None:
            return FamilyMismatch(
                f"{name}: the CLIP model in {self._clip} belongs to another text encoder than this model's; name the "
                "folder of the one that fits with --clip."
            )
        return BrokenModel(
            f"{name} needs CLIP's text projection, which this model's folder does not hold (nothing is fetched): name "
            f"a local CLIP folder with --clip (for Stable Diffusion 1 it is clip-vit-large-patch14), or put it beside "
            f"the model as {CLIP!r}."
        )


def clip_beside(folder: Path) -> Path | None:
    """The CLIP folder that a model folder brings along."""
    beside = (folder / CLIP, folder.resolve().parent / CLIP)
    return next((place for place in beside if place.is_dir()), None)


def encoders_of(pipe: Pipeline) -> dict[str, Any]:
    """Transformers' text encoders by their names in the pipeline, in their order."""
    found = {part: getattr(pipe, part, None) for part in ENCODERS}
    return {part: encoder for part, encoder in found.items() if encoder is not None}
