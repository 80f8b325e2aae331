"""A transaction: register a rollback before each mutation; commit callbacks run at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

from typing_extensions import Self

Callback = Callable[[], None]


class Transaction:
    """Whoever moves something says first how it goes back; what is left to do comes once all has been moved."""

    def __init__(self) -> None:
        self._rollbacks: list[Callback] = []
        self._commits: list[Callback] = []

    def on_rollback(self, callback: Callback) -> None:
        """Said before the move: undoing what was not done yet must do nothing."""
        self._rollbacks.append(callback)

    def on_commit(self, callback: Callback) -> None:
        """Done at the end, if nothing was raised."""
        self._commits.append(callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            _all(self._rollbacks[::-1])
            return
        for act in self._commits:
            act()


def _all(acts: Iterable[Callback]) -> None:
    """Each of them, even where one before it could not be done; that is raised at the end."""
    failed: BaseException | None = None
    for act in acts:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the others must go back all the same
            failed = failed or error
    if failed is not None:
        raise failed
