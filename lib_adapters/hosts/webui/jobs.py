"""Whose report is asked for: an extension (ADetailer) may draw a picture of its own inside another one's job.

The inner job comes between the calls for the outer one, in the same job of the host, and the outer one's `deactivate`
comes last. So the outer's report is kept when an inner one begins, until the outer goes on or another job begins.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from lib_adapters.hosts.webui import host

Told = dict[str, Any]


class Jobs:
    """Follows which of the host's processing objects is drawn; holds them weakly."""

    def __init__(self, told: Callable[[], Told]) -> None:
        """`told`: the report of what is active now."""
        self._told = told
        self._job: weakref.ref[Any] | None = None  # the outer one
        self._began: object = None
        self._done = True
        self._kept: Told | None = None

    def enter(self, job: Any) -> None:
        """Call before anything is done for `job`; a call of the host without a picture changes nothing."""
        if getattr(job, "all_prompts", None) is None:
            return
        if self._is_inside(job):
            self._kept = self._kept or self._told()
            return
        self._job, self._began, self._done, self._kept = weakref.ref(job), began(), False, None

    def leave(self, job: Any) -> None:
        """The host has drawn all pictures of `job`."""
        if self._job is not None and self._job() is job:
            self._done = True

    def report(self) -> Told:
        """Of the job that the user has started; what was drawn last inside it is its `inner`."""
        return self._told() if self._kept is None else self._kept | {"inner": self._told()}

    def _is_inside(self, job: Any) -> bool:
        outer = None if self._job is None else self._job()
        if outer is None or outer is job or self._done or self._began != began():
            return False
        return bool(getattr(outer, "extra_network_data", None))  # without any the host never says that it is done


def began() -> object:
    """When the host began its present job."""
    return getattr(host.module("shared").state, "time_start", None)
