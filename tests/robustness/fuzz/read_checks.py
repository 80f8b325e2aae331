"""What one adapter file must be to all that read one: an answer, or one sentence with the file's name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork
from lib_adapters.conditioning.textual_inversion import read_bundled_embeddings
from lib_adapters.errors import AdapterError, ShapeMismatch
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.library.block_strength import strength_rows
from lib_adapters.library.header_cache import FileSummary, HeaderCache

Found = TypeVar("Found")
SHAPES = ((8, 8), (8, 8, 1, 1), (8, 8, 3, 3), (16, 8), (8,), (4, 4), ())  # of layers that a file may be meant for
LOOKED_AT = 4  # modules of a file


def refused(path: Path, read: Callable[[Path], Found], *, named: bool = True) -> Found | None:
    try:
        return read(path)
    except AdapterError as error:
        check_sentence(str(error), path.name if named else "")
        return None


def check_sentence(text: str, name: str = "") -> None:
    assert text.startswith(name), text
    assert len(text.splitlines()) == 1, repr(text)
    assert len(text) < 2000, text


def read(path: Path) -> Adapter | None:
    """By everything that opens files which others made."""
    adapter = refused(path, open_adapter)
    if adapter is not None:
        use(adapter)
    refused(path, open_hypernetwork)
    refused(path, open_aesthetic)
    content = refused(path, HeaderCache().summarize)
    if adapter is not None:
        assert content is not None, "the short way refuses what the long way reads"
        check_content(adapter, content)
    refused(path, strength_rows)
    return adapter


def check_content(adapter: Adapter, content: FileSummary) -> None:
    """Cards are told without opening the file wherever another of its kind was opened."""
    alpha = (adapter.alpha, content.alpha)
    assert (adapter.family, tuple(adapter.algorithms), adapter.rank) == (
        content.family, content.algorithms, content.rank
    )  # fmt: skip
    assert alpha[0] == alpha[1] or (None not in alpha and all(map(math.isnan, alpha)))  # type: ignore[arg-type]
    assert (adapter.components, adapter.metadata) == (content.parts, content.metadata)


def use(adapter: Adapter) -> None:
    source = adapter.tensor_file
    assert all(0 <= entry.start <= entry.end <= source.size for entry in source.entries.values())
    used = [key for module in adapter.layers for key in module.tensor_keys.values()]
    assert len(used) == len(set(used))
    for _, reason in adapter.skipped:
        check_sentence(reason)
    try:
        loaded = adapter.load()
        read_bundled_embeddings(adapter)
    except AdapterError as error:
        return check_sentence(str(error))
    assert len(loaded.algorithms) + len(loaded.skipped) == len(adapter.layers)
    for _, reason in loaded.skipped:
        check_sentence(reason)
    for algorithm in [*loaded.algorithms.values()][:LOOKED_AT]:
        compute(algorithm)


def compute(algorithm: Algorithm) -> None:
    """What says that it fits must fit."""
    for shape in SHAPES:
        try:
            algorithm.check_shape(shape)
        except ShapeMismatch as error:
            check_sentence(str(error))
            continue
        base = torch.ones(shape)
        delta = algorithm.delta(base)
        assert delta.shape == base.shape
        assert bool((base == 1).all())
        for part in (algorithm.truncate(1), algorithm.precompute(base)):
            assert part.delta(base).shape == base.shape
        if shape:
            algorithm.bias_delta(torch.zeros(shape[0]))
