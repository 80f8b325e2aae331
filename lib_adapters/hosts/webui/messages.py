"""Messages shown below an image, and logged once.

The web UI's API does not return comments, so problems are also written into the infotext, under `key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib_adapters.hosts.webui import settings, webui_modules


class MessageLog:
    """Remembers what was said last: the same line for each of a hundred pictures would be noise."""

    def __init__(self, infotext_key: str) -> None:
        self._infotext_key = infotext_key
        self.messages: list[str] = []
        self.problems: list[str] = []  # those of the lines that tell of one
        self._previous: list[str] = []  # what was said last time

    def start(self, p: Any, problems: Sequence[str], messages: Sequence[str]) -> None:
        self._previous, self.messages, self.problems = self.messages, [], []
        if not getattr(p, "is_hr_pass", False):  # the second pass adds to the messages of the first one
            getattr(p, "extra_generation_params", {}).pop(self._infotext_key, None)
        for line in problems:
            self.add(p, line, problem=True)
        for line in messages:
            self.add(p, line)

    def add(self, p: Any, message: str, *, problem: bool = False) -> None:
        """What is known of this picture only later."""
        if message not in (*self._previous, *self.messages):
            webui_modules.log(message)
        self.messages.append(message)
        self.problems += [message] if problem else []
        if hasattr(p, "comment") and settings.report_level() in settings.REPORT_LEVELS[: 2 if problem else 1]:
            p.comment(message)
            if problem:
                self._write_infotext(p, message)

    def _write_infotext(self, p: Any, message: str) -> None:
        parameters = getattr(p, "extra_generation_params", None)
        if parameters is not None and message not in (before := parameters.get(self._infotext_key, "")):
            parameters[self._infotext_key] = f"{before} {message}".strip()

    def add_once(self, p: Any, message: str) -> None:
        """The same, as often as it comes: it is said once."""
        if message and f"{message}." not in self.messages:
            self.add(p, f"{message}.")

    def clear(self) -> None:
        self.messages, self.problems, self._previous = [], [], []
