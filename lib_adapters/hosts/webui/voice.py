"""What the user is told of one picture: under it, and on the console when it is something new.

The web UI's API does not return comments, so problems are also written into the infotext, under `key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib_adapters.hosts.webui import host, settings


class Voice:
    """Remembers what was said last: the same line for each of a hundred pictures would be noise."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.lines: list[str] = []
        self.problems: list[str] = []  # those of the lines that tell of one
        self._before: list[str] = []  # what was said last time

    def say(self, p: Any, problems: Sequence[str], lines: Sequence[str]) -> None:
        self._before, self.lines, self.problems = self.lines, [], []
        if not getattr(p, "is_hr_pass", False):  # the second pass adds to the messages of the first one
            getattr(p, "extra_generation_params", {}).pop(self._key, None)
        for line in problems:
            self.add(p, line, problem=True)
        for line in lines:
            self.add(p, line)

    def add(self, p: Any, line: str, *, problem: bool = False) -> None:
        """What is known of this picture only later."""
        if line not in (*self._before, *self.lines):
            host.say(line)
        self.lines.append(line)
        self.problems += [line] if problem else []
        if hasattr(p, "comment") and settings.report_level() in settings.REPORTS[: 2 if problem else 1]:
            p.comment(line)
            if problem:
                self._write(p, line)

    def _write(self, p: Any, line: str) -> None:
        parameters = getattr(p, "extra_generation_params", None)
        if parameters is not None and line not in (before := parameters.get(self._key, "")):
            parameters[self._key] = f"{before} {line}".strip()

    def late(self, p: Any, line: str) -> None:
        """The same, as often as it comes: it is said once."""
        if line and f"{line}." not in self.lines:
            self.add(p, f"{line}.")

    def forget(self) -> None:
        self.lines, self.problems, self._before = [], [], []
