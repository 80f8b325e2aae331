"""The embedded model, its adapters, and how both were made."""

from __future__ import annotations

import json
from pathlib import Path

MODEL = Path(__file__).parent / "model"
ADAPTERS = Path(__file__).parent / "adapters"
AESTHETICS = Path(__file__).parent / "aesthetic_embeddings"


def index() -> dict[str, dict[str, str | float]]:
    """What each embedded adapter is, does, and is shown with, by the stem of its file."""
    known: dict[str, dict[str, str | float]] = json.loads((ADAPTERS / "README.json").read_text(encoding="utf-8"))
    return known
