"""A change of the model that is made wholly or not at all, whatever is raised in between: even a user's Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

from typing_extensions import Self

Act = Callable[[], None]


class Change:
    """Whoever moves something says first how it goes back; what is left to do comes once all has been moved."""

    def __init__(self) -> None:
        self._back: list[Act] = []
        self._then: list[Act] = []

    def back(self, act: Act) -> None:
        """Said before the move: undoing what was not done yet must do nothing."""
        self._back.append(act)

    def then(self, act: Act) -> None:
        """Done at the end, if nothing was raised."""
        self._then.append(act)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            _all(self._back[::-1])
            return
        for act in self._then:
            act()


def _all(acts: Iterable[Act]) -> None:
    """Each of them, even where one before it could not be done; that is raised at the end."""
    failed: BaseException | None = None
    for act in acts:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the others must go back all the same
            failed = failed or error
    if failed is not None:
        raise failed
