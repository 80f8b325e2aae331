"""Chooses between files of the same name as the built-in Lora does, so that old prompts give the same image.

It walks its two folders (`--lora-dir`, then `--lyco-dir-backcompat`) in natural order and keeps the last file of a
name (extensions-builtin/Lora/networks.py, process_network_files; modules/util.py, walk_files).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_DIGITS = re.compile("([0-9]+)")
_ITS_SUFFIXES = (".safetensors", ".pt", ".ckpt")


def in_builtin_order(files: Mapping[Path, Path], order: Sequence[Path]) -> list[Path]:
    """Return the files (file -> its adapter folder) in order of preference.

    `order`: the folders in order of preference. Files with a suffix that the built-in does not load come last.
    """

    def place(path: Path) -> tuple[bool, int]:
        folder = files[path]
        return path.suffix.lower() not in _ITS_SUFFIXES, order.index(folder) if folder in order else len(order)

    return sorted(sorted(files, key=_natural, reverse=True), key=place)


def _natural(path: Path) -> tuple[list[int | str], list[int | str]]:
    """Return the sort key: the folder's path, then the name; numbers by value, ignoring case."""
    return _key(str(path.parent)), _key(path.name)


def _key(text: str) -> list[int | str]:
    return [int(part) if at % 2 else part.lower() for at, part in enumerate(_DIGITS.split(text))]
