"""All targets by name. A new one is a module with `target`, `seeds` and, where it has them, TOKENS and BOUND."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.robustness.fuzz.work_folder import folder
from tests.support.input_bounds import Bound, counted, patience, watched, within

NAMES = {
    "headers": "safetensors files: header, tensors",
    "pickles": "PyTorch files: zip table, pickles, storages",
    "programs": "pickles that are sound as programs, with hostile content",
    "dialects": "files as trainers write them, with one thing or five changed",
    "tags": "prompts: tags of adapters and of aesthetic embeddings",
    "presets": "files of block weights, and the weights of one tag",
    "edits": "one thing in a tag changed by its text",
    "sidecars": "texts beside an adapter and in its metadata",
    "pictures": "previews beside an adapter, in its header, and sent",
    "index": "the catalogue's index on the disk",
    "routes": "requests to the tab's routes",
}


@dataclass(frozen=True)
class Target:
    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    tokens: Sequence[bytes]
    bound: Bound
    decides: bool  # its bytes are decisions (choices.py), so any bytes are as good as any others
    slack: int = 1  # what instrumented code calls more often than it would

    def check(self, data: bytes) -> None:
        """AssertionError, or whatever else came out, for an input that does not hold."""
        bound = self.bound
        with (
            patience(),
            within(bound.memory + bound.memory_per_byte * len(data)),
            watched(folder()),
        ):
            counted(lambda: self.run(data), self.slack * (bound.calls + bound.calls_per_byte * len(data)))

    def warm(self) -> None:
        """What is imported and made once is no part of what an input costs."""
        for data in self.seeds():
            with contextlib.suppress(Exception):  # what does not hold is told when it is checked
                self.run(data)


def load(name: str, slack: int = 1) -> Target:
    logging.disable(logging.CRITICAL)  # files that cannot be used are told of in the log too
    module = importlib.import_module(f"tests.robustness.fuzz.{name}")
    return Target(
        name,
        module.target,
        module.seeds,
        getattr(module, "TOKENS", ()),
        getattr(module, "BOUND", Bound()),
        getattr(module, "DECIDES", False),
        slack,
    )
