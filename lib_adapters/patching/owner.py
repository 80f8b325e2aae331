"""Which Session has adapters on a model: the hooks on the model say so, and keep what gives the weights back.

A process may hold several Sessions for one model, and one that is active may be dropped. So what a Session has put on
a model is one object, kept alive by the hooks there for as long as they are there, and found by every other Session.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from lib_adapters.patching.change import Change
from lib_adapters.patching.copies import Copies
from lib_adapters.patching.guard import Guards
from lib_adapters.patching.hooks import kept_on
from lib_adapters.patching.merged import Merged
from lib_adapters.patching.pace import Pace
from lib_adapters.patching.patch import Key
from lib_adapters.patching.roots import Roots

ALONE = threading.RLock()  # held by the thread that changes a model: two Sessions in two threads leave no mixture


class Owner:
    """What one Session has on its model; it lives as long as that does, even where the Session object does not."""

    def __init__(
        self, merged: Merged, pace: Pace, before_run: Callable[..., None], displaced: Callable[[], None]
    ) -> None:
        """Both methods are the Session's, known weakly. `displaced` is called before another Session takes over."""
        self._merged, self._pace = merged, pace
        self._guards = Guards(before_run, self.release)
        self._displaced = weakref.WeakMethod(displaced)
        self._roots: Roots | None = None
        self.copies = Copies()

    def roots(self, unet: nn.Module | None, text_encoders: Sequence[nn.Module]) -> Roots:
        """Return the parts of the model, watched from now on: of one that is dropped no weight is kept."""
        bury = weakref.WeakMethod(self._bury)  # no cycle: what is idle goes with its Session
        self._roots = Roots(unet, text_encoders, lambda _: found() if (found := bury()) is not None else None)
        return self._roots

    def watch(self, roots: Iterable[nn.Module], loading: Sequence[nn.Module], change: Change) -> None:
        """Put the hooks on exactly these: before a root runs, and before a module is loaded over."""
        self._guards.move(roots, loading, change, kept=self)
        change.then(lambda: self.copies.remember(self._all(), loading))

    def mend(self, change: Change) -> None:
        """Give the original weights to layers that other code has made of merged ones."""
        self.copies.mend(self._all(), self._merged.records(), change)

    def _all(self) -> list[nn.Module]:
        return [] if self._roots is None else self._roots.all()

    @property
    def is_orphan(self) -> bool:
        """True if the Session object was dropped while it was active."""
        return self._displaced() is None

    def original(self) -> dict[Key, Tensor]:
        """Return the original tensors of all parameters that are merged now."""
        return self._merged.pristine()

    def give_back(self) -> None:
        """Give the model its own weights back and take everything off it. Safe to repeat."""
        self._pace.give_back()
        self._guards.leave()

    def give_way(self) -> None:
        """Give everything back because another Session takes the model over."""
        if (displaced := self._displaced()) is not None:
            displaced()
        with Change() as change:
            self.mend(change)
        self.give_back()

    def release(self, module: nn.Module, *given: object) -> None:
        """Give one module its own weights back: something is about to write into it."""
        with ALONE:
            self._merged.release(module, *given)

    def _bury(self) -> None:
        """A part of the model was dropped; takes no lock, for the collector may call it anywhere."""
        self._merged.bury()
        if not self._all():
            self._guards.leave()


def owners_on(modules: Iterable[nn.Module]) -> list[Owner]:
    """Return the owners of what is on any of these modules, each once."""
    found = {id(kept): kept for module in modules for kept in kept_on(module) if isinstance(kept, Owner)}
    return list(found.values())
