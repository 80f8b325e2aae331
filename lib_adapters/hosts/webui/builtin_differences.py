"""Notes on algorithms that the built-in Lora computes differently from the trainer, because old images may use it.

Source: extensions-builtin/Lora/network_*.py of 1.10.1; plain LoRA, LoHa, LoKr and full agree up to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from lib_adapters.hosts.webui import host
from lib_adapters.session import AdapterReport

_NORM = "takes the norm over the inputs, even if the file has one magnitude per output"
BUILTIN: Mapping[str, str] = {  # label of an algorithm -> what the built-in does
    "IA3": "does not change biases and convolutions",
    "DoRA": _NORM,
    "DoHa": _NORM,
    "DoKr": _NORM,
    "BOFT": "scales the whole change by the strength instead of each factor",
    "GLoRA": "ignores alpha, and does not apply files by LyCORIS 3.0 or later at all",
}


class BuiltinDifferences:
    """Remembers the algorithms already noted, and in which job, because the web UI calls several times per job."""

    def __init__(self) -> None:
        self._told: dict[str, weakref.ref[Any]] = {}

    def notes(self, job: Any, reports: Iterable[AdapterReport]) -> list[str]:
        """Return a note for each such algorithm that was not noted in an earlier job.

        `reports`: those of the adapters of `<lora:...>` tags handled here.
        """
        if host.builtin_networks() is None:
            return []
        found = {label: one.name for one in reports for label in one.algorithms if label in BUILTIN}
        new = {label: name for label, name in found.items() if label not in self._told or self._told[label]() is job}
        self._told |= {label: weakref.ref(job) for label in new}
        return [
            f"{name}: {label} is computed as its trainer does. This differs from the built-in Lora, which "
            f"{BUILTIN[label]}. "
            'To reproduce an image made with the built-in Lora, switch off "Handle <lora:...> as well".'
            for label, name in new.items()
        ]
