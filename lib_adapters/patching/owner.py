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
from lib_adapters.patching.losses import COPIED, UNMERGED, WRITTEN, Losses, one_of
from lib_adapters.patching.merged import Merged
from lib_adapters.patching.pace import Pace
from lib_adapters.patching.patch import Key
from lib_adapters.patching.roots import Roots
from lib_adapters.patching.tuners import Note, Tuners

SAVED = (
    "A state dict of {model} was made while adapters are active: it has their merged weights. To save or copy the "
    "model's own, deactivate first."
)
DUPLICATED = (
    "{model} was copied while adapters are active: the copy has their merged weights for its own. To copy the model's "
    "own, deactivate first."
)
ALONE = threading.RLock()  # held by the thread that changes a model: two Sessions in two threads leave no mixture


class Owner:
    """What one Session has on its model; it lives as long as that does, even where the Session object does not."""

    def __init__(
        self,
        merged: Merged,
        pace: Pace,
        before_run: Callable[..., None],
        displaced: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """The methods are the Session's, known weakly: `displaced` is called before another Session takes over, `say`
        with a sentence for the user."""
        self._merged, self._pace = merged, pace
        self._guards = Guards(before_run, self.release, self.saved)
        self._displaced, self._say = weakref.WeakMethod(displaced), weakref.WeakMethod(say)
        self._roots: Roots | None = None
        self._copies, self._tuners = Copies(), Tuners()
        self._warned = False  # that merged weights are copied or saved
        self.losses = Losses()

    def roots(self, unet: nn.Module | None, text_encoders: Sequence[nn.Module]) -> Roots:
        """Return the parts of the model, watched from now on: of one that is dropped no weight is kept."""
        bury = weakref.WeakMethod(self._bury)  # no cycle: what is idle goes with its Session
        self._roots = Roots(unet, text_encoders, lambda _: found() if (found := bury()) is not None else None)
        return self._roots

    def watch(self, roots: Iterable[nn.Module], loading: Sequence[nn.Module], change: Change) -> None:
        """Put the hooks on exactly these: before a root runs, and before a module is loaded over."""
        self._guards.move(roots, loading, change, kept=self)
        change.then(lambda: self._remember(loading))

    def _remember(self, patched: Sequence[nn.Module]) -> None:
        self._copies.remember(self._all(), patched)
        self._tuners.remember(self._all() if patched else ())
        self._warned = False

    def has_changed(self) -> bool:
        """True if modules were added or exchanged beside a patched one; cheap enough for each run."""
        return self._copies.has_changed()

    def look(self, change: Change) -> list[str]:
        """Give back what other code has made of merged weights, where that is exact; return what there is to say."""
        self._merged.settle()
        notes = self._tuned()
        for note in notes:
            note.reset(change)
        self._merged.reclaim([note.inner for note in notes], change)
        written = [record.slot.path for record in self._merged.written()]
        self._copies.mend(self._all(), self._merged.records(), self.losses, change)
        self._count()
        self._merged.dropped()
        found = [(UNMERGED, [note.path for note in notes]), (WRITTEN, written)]
        return [*(one_of(text, paths) for text, paths in found if paths), *self.losses.sentences()]

    def can_give_back(self) -> bool:
        """False if other code has made something of merged weights that giving them back does not undo."""
        tuned = {id(note.inner) for note in self._tuned()}
        self._count()
        written = [record for record in self._merged.written() if record.slot.key[0] not in tuned]
        return not written and not self.losses.sentences()

    def _tuned(self) -> list[Note]:
        """Return the notes of PEFT's layers around ours that have merged, or taken out, since."""
        records = [*self._merged.records(), *self._merged.dropped(keep=True)]
        mine = {id(record.slot.module()) for record in records}
        return [note for note in self._tuners.changed(self._all() if mine else ()) if id(note.inner) in mine]

    def _count(self) -> None:
        for record in self._merged.dropped(keep=True):
            if (where := record.derived()) is not None:
                self.losses.add(record.slot.path, where, COPIED)

    def saved(self, module: nn.Module, *_: object) -> None:
        """A state dict is made: whoever saves or copies it should know what it has."""
        self._warn(module, SAVED)

    def copied(self) -> None:
        """The model is copied or pickled with everything that is on it."""
        for root in self._all()[:1]:
            self._warn(root, DUPLICATED)

    def _warn(self, module: nn.Module, text: str) -> None:
        if not self._warned and self._merged.records():
            self._warned = True
            if (say := self._say()) is not None:
                say(text.format(model=type(module).__name__))

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

    def give_way(self) -> list[str]:
        """Give everything back because another Session takes the model over; return what there is to say."""
        if (displaced := self._displaced()) is not None:
            displaced()
        with Change() as change:
            found = self.look(change)
        self.give_back()
        return found

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
