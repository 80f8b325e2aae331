"""Descriptions of aesthetic embeddings for `inspect` and `list`, and their conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding, save_aesthetic
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.prompt.tags import quote_name


def summary(found: AestheticEmbedding) -> dict[str, Any]:
    """The same keys as for an adapter; `algorithms` counts vectors."""
    return {
        "name": found.name,
        "path": str(found.path),
        "family": found.family,
        "algorithms": {f"Aesthetic embedding {found.width}": len(found.vectors)},
        "rank": None,
        "alpha": None,
        "parts": ["te"],
        "bytes": found.vectors.nbytes,
    }


def details(found: AestheticEmbedding) -> dict[str, Any]:
    return {"width": found.width, "norm": _norm(found), "metadata": dict(found.metadata)}


def text(found: AestheticEmbedding) -> list[str]:
    dtype = str(found.vectors.dtype).removeprefix("torch.")
    lines = [
        f"{found.path.name}",
        f"  kind       aesthetic embedding, {len(found.vectors)} x {found.width}, {dtype}",
        f"  made for   {FAMILY_NAMES.get(found.family, found.family)}",
        f"  norm       {_norm(found):.3g} (only its direction counts)",
        f"  write      <aesthetic:{quote_name(found.name)}>",
    ]
    shown = [f"  {key}: {value[:100]}" for key, value in sorted(found.metadata.items())]
    return [*lines, "", "Metadata", *shown] if shown else [*lines, "", "No metadata."]


def convert(found: AestheticEmbedding, out: Path) -> str:
    save_aesthetic(found.vectors, out, found.metadata)
    return f"{out}: {len(found.vectors)} x {found.width}"


def _norm(found: AestheticEmbedding) -> float:
    return float(found.vectors.float().norm(dim=-1).mean())
