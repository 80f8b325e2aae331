"""An adapter file: everything that its header tells, and its tensors on demand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files import cloneofsimo, full_lokr, model_family, peft_tuners, unsupported
from lib_adapters.files.adapter_layers import AdapterLayer, KeyGroups, LayerCollector, group_keys, rename_to_set_weights
from lib_adapters.files.bundled_embeddings import split_keys
from lib_adapters.files.container import open_tensor_file
from lib_adapters.files.layer_dims import rank_of
from lib_adapters.files.loading import LoadedAdapter, load_layers, read_scalars
from lib_adapters.files.model_family import resolve_text_encoders
from lib_adapters.files.peft_config import PeftConfig
from lib_adapters.files.peft_patterns import UnsupportedPattern
from lib_adapters.files.tensor_file import TensorFile
from lib_adapters.files.training_metadata import read_training_info, sidecar_overrides

MAX_SAMPLED_LAYERS = 16

__all__ = ["Adapter", "AdapterLayer", "LoadedAdapter", "open_adapter"]


@dataclass(frozen=True, eq=False)
class Adapter:
    """One file. Nothing but its header has been read.

    `rank` and `alpha` are the commonest of its layers (alpha of a few of them), None where there is none. `algorithms`
    counts layers by label, `unusable` has pairs of what and why, `bundled` names embeddings, `nbytes` is of tensors.
    """

    path: Path
    name: str
    cache_key: str  # what it is in caches: path, size and time of change
    family: str
    algorithms: dict[str, int]
    rank: int | None
    alpha: float | None
    components: tuple[str, ...]
    metadata: dict[str, str]
    layers: tuple[AdapterLayer, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    training_info: TrainingInfo
    nbytes: int
    bundled_embeddings: tuple[str, ...]
    tensor_file: TensorFile

    def load(self, device: torch.device | str = "cpu") -> LoadedAdapter:
        """Reads the tensors. AdapterError if the file changed or vanished meanwhile; a bad module is only told."""
        return load_layers(self.tensor_file, self.layers, self.training_info, torch.device(device))


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Reads the header only. AdapterError (one sentence, with the file's name) if the file cannot be used.

    CorruptFile for a damaged one; UnsupportedFile, HypernetworkFile, AestheticFile for a sound one that is no adapter.
    """
    where = Path(path)
    try:
        source = open_tensor_file(where)
        unsupported.reject_unsupported_factors([*source.entries, *source.scalars])
        return _build_adapter(cloneofsimo.name_positional_keys(source))
    except AdapterError as error:
        raise type(error)(f"{where.name} {error}") from error


def _collect_layers(source: TensorFile, groups: KeyGroups, config: PeftConfig) -> LayerCollector:
    """Build the modules of a file; report one as unusable if its alpha comes from an unsupported pattern."""
    builder, changes_layers = LayerCollector(source, groups), groups.has_factors
    whole = ("weight", "bias") if not groups.contains_base_model else ("bias",) if config.trains_biases else ()
    for name, leaves in groups.ordered_layers():
        shapes = {
            tensor_name: source.entries[key].shape for tensor_name, key in leaves.items() if key in source.entries
        }
        try:
            constants = config.constants(name, leaves, shapes) if config else {}
        except UnsupportedPattern as error:
            builder.skipped.append((name, str(error)))
        else:
            leaves = rename_to_set_weights(name, leaves, shapes, whole) if changes_layers else leaves
            builder.add(name, leaves, constants | full_lokr.scale_constant(source.metadata, shapes))
    builder.finish()
    return builder


def _paths(path: Path) -> list[str]:
    """Return the file's path, and that of the link that was opened: their folders may hold different sidecars."""
    return list(dict.fromkeys([str(path.resolve()), str(path.parent.resolve() / path.name)]))


def sample_layers(layers: Sequence[AdapterLayer]) -> Sequence[AdapterLayer]:
    """Each number is a place of its own on the disk, and what most layers have, a few will show."""
    return layers[:: 1 + len(layers) // MAX_SAMPLED_LAYERS]


def _build_adapter(source: TensorFile) -> Adapter:
    embeddings, keys = split_keys([*source.entries, *source.scalars])
    groups = group_keys(keys)
    config = PeftConfig(source.path, source.metadata, keys)
    config.reject_unmergeable()
    builder = _collect_layers(source, groups, config)
    unusable = (
        builder.skipped
        + unsupported.skipped_unrecognized(groups.unrecognized)
        + unsupported.skipped_full_weights(builder.full_weight_keys)
    )
    if not builder.layers:
        unsupported.reject_unsupported(
            [*source.entries, *source.scalars], [] if builder.skipped else builder.full_weight_keys
        )
        raise CorruptFile(unsupported.nothing_usable_message(unusable))
    layers = builder.layers.values()
    unconfigured = [] if config else peft_tuners.missing_config_notes(n for m in layers for n in m.tensor_keys)
    family = model_family.family_of(layers, source.metadata)
    modules, clashes = resolve_text_encoders(layers, family)
    return Adapter(
        path=source.path,
        name=source.path.stem,
        cache_key="|".join([*_paths(source.path), str(source.size), str(source.mtime_ns)]),
        family=family,
        algorithms=dict(Counter(module.algorithm.label for module in modules).most_common()),
        rank=unsupported.most_common(rank_of(module.shapes) for module in modules),
        alpha=unsupported.most_common(read_scalars(source, sample_layers(modules), "alpha")),
        components=tuple(sorted({module.key.component for module in modules}, key=unsupported.COMPONENTS.index)),
        metadata=source.metadata,
        layers=modules,
        skipped=tuple(unusable),
        notes=(
            *source.notes,
            *groups.notes,
            *builder.notes,
            *clashes,
            *config.notes(),
            *config.missing_bias_notes(modules),
            *unconfigured,
            *peft_tuners.generated_tensor_notes(module.shapes for module in modules),
            *full_lokr.notes(source, modules),
        ),
        training_info=read_training_info(
            source.metadata, source.entries, config.overrides() | sidecar_overrides(source.path)
        ),
        nbytes=source.nbytes,
        bundled_embeddings=embeddings,
        tensor_file=source,
    )
