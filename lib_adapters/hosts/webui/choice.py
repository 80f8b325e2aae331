"""Which of several files of one name is taken: the one that the built-in Lora takes, so old prompts keep their look.

It walks its two folders (`--lora-dir`, then `--lyco-dir-backcompat`) in natural order and keeps the last file of a
name (extensions-builtin/Lora/networks.py, process_network_files; modules/util.py, walk_files).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_DIGITS = re.compile("([0-9]+)")
_ITS_SUFFIXES = (".safetensors", ".pt", ".ckpt")


def ranked(files: Mapping[Path, Path], order: Sequence[Path]) -> list[Path]:
    """Return `files` (file -> the folder it was found in), the one that is taken first.

    `order`: the folders, the one that wins first. The built-in does not see files of other endings.
    """

    def place(path: Path) -> tuple[bool, int]:
        folder = files[path]
        return path.suffix.lower() not in _ITS_SUFFIXES, order.index(folder) if folder in order else len(order)

    return sorted(sorted(files, key=_natural, reverse=True), key=place)


def _natural(path: Path) -> tuple[list[int | str], list[int | str]]:
    """Folders by their whole path, then names: numbers by value, letters without case."""
    return _key(str(path.parent)), _key(path.name)


def _key(text: str) -> list[int | str]:
    return [int(part) if at % 2 else part.lower() for at, part in enumerate(_DIGITS.split(text))]
