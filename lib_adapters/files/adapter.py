"""The content of one file: what it is, told from the header alone, and its tensors when they are asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_adapters.algorithms.base import TrainingInfo
from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files import bundle, families, foreign, full_lokr, load, peft_seeded, peft_tuners, positions, report
from lib_adapters.files.entries import Source
from lib_adapters.files.load import Loaded
from lib_adapters.files.metadata import read_facts, sidecar_overrides
from lib_adapters.files.modules import Builder, Groups, Module, group, with_whole
from lib_adapters.files.parts import resolve_text_encoders
from lib_adapters.files.patterns import UnreadPattern
from lib_adapters.files.peft import PeftConfig
from lib_adapters.files.scalars import read_numbers
from lib_adapters.files.source import open_source
from lib_adapters.files.widths import rank_of

SAMPLED = 16

__all__ = ["Adapter", "Loaded", "Module", "open_adapter"]


@dataclass(frozen=True, eq=False)
class Adapter:
    """One file. Nothing but its header has been read.

    `rank` and `alpha` are the commonest of its layers (alpha of a few of them), None where there is none. `algorithms`
    counts layers by label, `unusable` has pairs of what and why, `bundled` names embeddings, `nbytes` is of tensors.
    """

    path: Path
    name: str
    key: str  # what it is in caches: path, size and time of change
    family: str
    algorithms: dict[str, int]
    rank: int | None
    alpha: float | None
    parts: tuple[str, ...]
    metadata: dict[str, str]
    modules: tuple[Module, ...]
    unusable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    facts: TrainingInfo
    nbytes: int
    bundled: tuple[str, ...]
    source: Source

    def load(self, device: torch.device | str = "cpu") -> Loaded:
        """Reads the tensors. AdapterError if the file changed or vanished meanwhile; a bad module is only told."""
        return load.load(self.source, self.modules, self.facts, torch.device(device))


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Reads the header only. AdapterError (one sentence, with the file's name) if the file cannot be used.

    CorruptFile for a damaged one; UnsupportedFile, HypernetworkFile, AestheticFile for a sound one that is no adapter.
    """
    where = Path(path)
    try:
        source = open_source(where)
        foreign.refuse_whole([*source.entries, *source.numbers])
        return _adapter(positions.with_names(source))
    except AdapterError as error:
        raise type(error)(f"{where.name} {error}") from error


def _built(source: Source, groups: Groups, config: PeftConfig) -> Builder:
    """Build the modules of a file; report one as unusable if its alpha comes from an unsupported pattern."""
    builder, changes_layers = Builder(source, groups), groups.has_factors
    whole = ("weight", "bias") if not groups.holds_base else ("bias",) if config.trains_biases else ()
    for name, leaves in groups.in_order():
        shapes = {leaf: source.entries[key].shape for leaf, key in leaves.items() if key in source.entries}
        try:
            constants = config.constants(name, leaves, shapes) if config else {}
        except UnreadPattern as error:
            builder.unusable.append((name, str(error)))
        else:
            leaves = with_whole(name, leaves, shapes, whole) if changes_layers else leaves
            builder.add(name, leaves, constants | full_lokr.kronecker_scale(source.metadata, shapes))
    builder.finish()
    return builder


def _paths(path: Path) -> list[str]:
    """Return the file's path, and that of the link that was opened: their folders may hold different sidecars."""
    return list(dict.fromkeys([str(path.resolve()), str(path.parent.resolve() / path.name)]))


def alpha_sample(modules: Sequence[Module]) -> Sequence[Module]:
    """Each number is a place of its own on the disk, and what most layers have, a few will show."""
    return modules[:: 1 + len(modules) // SAMPLED]


def _adapter(source: Source) -> Adapter:
    embeddings, keys = bundle.split([*source.entries, *source.numbers])
    groups = group(keys)
    config = PeftConfig(source.path, source.metadata, keys)
    config.refuse()
    builder = _built(source, groups, config)
    unusable = builder.unusable + report.strangers(groups.strangers) + report.whole_weights(builder.plain)
    if not builder.modules:
        foreign.refuse([*source.entries, *source.numbers], [] if builder.unusable else builder.plain)
        raise CorruptFile(report.nothing_usable(unusable))
    unconfigured = [] if config else peft_tuners.notes(leaf for m in builder.modules.values() for leaf in m.leaves)
    family = families.family_of(builder.modules.values(), source.metadata)
    modules, clashes = resolve_text_encoders(builder.modules.values(), family)
    drawn = peft_seeded.notes(module.shapes for module in modules)
    return Adapter(
        path=source.path,
        name=source.path.stem,
        key="|".join([*_paths(source.path), str(source.size), str(source.mtime_ns)]),
        family=family,
        algorithms=dict(Counter(module.algorithm.label for module in modules).most_common()),
        rank=report.commonest(rank_of(module.shapes) for module in modules),
        alpha=report.commonest(read_numbers(source, alpha_sample(modules), "alpha")),
        parts=tuple(sorted({module.stem.part for module in modules}, key=report.PARTS.index)),
        metadata=source.metadata,
        modules=modules,
        unusable=tuple(unusable),
        notes=(
            *source.notes,
            *groups.notes,
            *builder.notes,
            *clashes,
            *config.notes(),
            *config.lost_biases(modules),
            *unconfigured,
            *drawn,
            *full_lokr.notes(source, modules),
        ),
        facts=read_facts(source.metadata, source.entries, config.overrides() | sidecar_overrides(source.path)),
        nbytes=source.nbytes,
        bundled=embeddings,
        source=source,
    )
