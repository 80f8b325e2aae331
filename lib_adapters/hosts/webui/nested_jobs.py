"""Keeps the report of the user's image job when an extension (ADetailer) generates an image inside it.

The calls for the inner job come between those for the outer one, in the same web UI job, and the outer job's
`deactivate` comes last. The outer report is therefore saved when an inner job begins, until the outer job continues or
another one begins.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from lib_adapters.hosts.webui import host

ReportData = dict[str, Any]


class NestedJobs:
    """Tracks which of the web UI's processing objects is being generated, through weak references."""

    def __init__(self, report: Callable[[], ReportData]) -> None:
        """`report` returns the report of the adapters that are active now."""
        self._current = report
        self._job: weakref.ref[Any] | None = None  # the outer one
        self._began: object = None
        self._done = True
        self._kept: ReportData | None = None

    def enter(self, job: Any) -> None:
        """Note that work for `job` begins; ignored for calls without an image."""
        if getattr(job, "all_prompts", None) is None:
            return
        if self._is_inside(job):
            self._kept = self._kept or self._current()
            return
        self._job, self._began, self._done, self._kept = weakref.ref(job), job_start(), False, None

    def leave(self, job: Any) -> None:
        """Note that all images of `job` are finished."""
        if self._job is not None and self._job() is job:
            self._done = True

    def report(self) -> ReportData:
        """Return the report of the user's job; that of the last job inside it is under the key `inner`."""
        return self._current() if self._kept is None else self._kept | {"inner": self._current()}

    def _is_inside(self, job: Any) -> bool:
        outer = None if self._job is None else self._job()
        if outer is None or outer is job or self._done or self._began != job_start():
            return False
        return bool(getattr(outer, "extra_network_data", None))  # without any, the web UI never calls `leave`


def job_start() -> object:
    """Return the start time of the web UI's current job."""
    return getattr(host.module("shared").state, "time_start", None)
