"""What the built-in Lora computes otherwise than the trainer, told once: an old picture may have been drawn with it.

Read in extensions-builtin/Lora/network_*.py of 1.10.1; plain LoRA, LoHa, LoKr and full agree to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from lib_adapters.hosts.webui import host
from lib_adapters.session import AdapterReport

_NORM = "takes the norm over the input, even where the file has one magnitude for each output"
BUILTIN: Mapping[str, str] = {  # label of an algorithm -> what the built-in does
    "IA3": "leaves biases and convolutions as they are",
    "DoRA": _NORM,
    "DoHa": _NORM,
    "DoKr": _NORM,
    "BOFT": "at a strength other than 1 scales the change as a whole and not each factor",
    "GLoRA": "ignores alpha, and applies nothing of a file by LyCORIS 3.0 or later",
}


class Differing:
    """Remembers the algorithms it has told of, and in which job: the host calls several times for each."""

    def __init__(self) -> None:
        self._told: dict[str, weakref.ref[Any]] = {}

    def notes(self, job: Any, reports: Iterable[AdapterReport]) -> list[str]:
        """Return a sentence for each such algorithm not told of in an earlier job.

        `reports`: of the adapters of `<lora:...>` tags handled here.
        """
        if host.builtin_networks() is None:
            return []
        found = {label: one.name for one in reports for label in one.algorithms if label in BUILTIN}
        new = {label: name for label, name in found.items() if label not in self._told or self._told[label]() is job}
        self._told |= {label: weakref.ref(job) for label in new}
        return [
            f"{name}: {label} as its trainer computes it differs from the built-in Lora, which {BUILTIN[label]}. "
            'To reproduce an old picture, switch off "Handle <lora:...> as well".'
            for label, name in new.items()
        ]
