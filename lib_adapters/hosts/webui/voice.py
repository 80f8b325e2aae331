"""What the user is told of one picture: under it, and on the console when it is something new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib_adapters.hosts.webui import host, settings


class Voice:
    """Remembers what was said last: the same line for each of a hundred pictures would be noise."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, p: Any, problems: Sequence[str], lines: Sequence[str]) -> None:
        level = settings.report_level()
        said = [*problems, *lines]
        shown = said if level == settings.REPORTS[0] else problems if level == settings.REPORTS[1] else []
        if said != self.lines:
            for line in said:
                host.say(line)
        self.lines = said
        if hasattr(p, "comment"):
            for line in shown:
                p.comment(line)

    def forget(self) -> None:
        self.lines = []
