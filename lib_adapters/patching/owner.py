"""Tracks which Session has adapters on a model, through the hooks on the model.

A process may have several Sessions for one model, and an active Session may be garbage-collected. The state that
restores the weights is therefore one object, kept alive by the hooks on the model and found there by other Sessions.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from lib_adapters.patching.change import Change
from lib_adapters.patching.derived_layers import DerivedLayers
from lib_adapters.patching.guard import Guards
from lib_adapters.patching.hooks import kept_on
from lib_adapters.patching.merged import Merged
from lib_adapters.patching.pace import Pace
from lib_adapters.patching.patch import Key
from lib_adapters.patching.peft_layers import MergeState, PeftLayers
from lib_adapters.patching.roots import Roots
from lib_adapters.patching.unrestored import COPIED, UNMERGED, WRITTEN, UnrestoredLayers, with_layers

SAVED = (
    "A state dict of {model} was created while adapters are active, so it contains merged weights. To save or copy "
    "the original weights, deactivate the adapters first."
)
DUPLICATED = (
    "{model} was copied while adapters are active, so the copy contains merged weights. To copy the original weights, "
    "deactivate the adapters first."
)
MODEL_LOCK = threading.RLock()  # held while a model is changed: Sessions in several threads may share one model


class Owner:
    """The adapters of one Session on its model; lives as long as its hooks, even if the Session is dropped."""

    def __init__(
        self,
        merged: Merged,
        pace: Pace,
        before_run: Callable[..., None],
        displaced: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Keep weak references to the Session's methods.

        `displaced` is called before another Session takes the model over, `say` with a message for the user.
        """
        self._merged, self._pace = merged, pace
        self._guards = Guards(before_run, self.release, self.saved)
        self._displaced, self._say = weakref.WeakMethod(displaced), weakref.WeakMethod(say)
        self._roots: Roots | None = None
        self._derived, self._peft = DerivedLayers(), PeftLayers()
        self._warned = False  # that merged weights were copied or saved
        self.unrestored = UnrestoredLayers()

    def roots(self, unet: nn.Module | None, text_encoders: Sequence[nn.Module]) -> Roots:
        """Return the components of the model; the original weights of a component are freed when it is."""
        bury = weakref.WeakMethod(self._bury)  # a strong reference would be a cycle and delay freeing the weights
        self._roots = Roots(unet, text_encoders, lambda _: found() if (found := bury()) is not None else None)
        return self._roots

    def watch(self, roots: Iterable[nn.Module], loading: Sequence[nn.Module], change: Change) -> None:
        """Install the hooks on exactly these modules: `roots` before forward, `loading` before loading and saving."""
        self._guards.move(roots, loading, change, kept=self)
        change.then(lambda: self._remember(loading))

    def _remember(self, patched: Sequence[nn.Module]) -> None:
        self._derived.remember(self._all(), patched)
        self._peft.remember(self._all() if patched else ())
        self._warned = False

    def has_changed(self) -> bool:
        """True if a sibling of a patched module was added or replaced; cheap enough to check before every forward."""
        return self._derived.has_changed()

    def undo_foreign_changes(self, change: Change) -> list[str]:
        """Undo what other code did with merged weights, where that is exact; return messages for the user."""
        self._merged.settle()
        notes = self._changed_peft_layers()
        for note in notes:
            note.reset(change)
        self._merged.reclaim([note.inner for note in notes], change)
        written = [record.slot.path for record in self._merged.written()]
        self._derived.restore(self._all(), self._merged.records(), self.unrestored, change)
        self._record_unrestored()
        self._merged.dropped()
        found = [(UNMERGED, [note.path for note in notes]), (WRITTEN, written)]
        return [*(with_layers(text, paths) for text, paths in found if paths), *self.unrestored.sentences()]

    def can_restore(self) -> bool:
        """False if other code used merged weights in a way that restoring the original weights does not undo."""
        tuned = {id(note.inner) for note in self._changed_peft_layers()}
        self._record_unrestored()
        written = [record for record in self._merged.written() if record.slot.key[0] not in tuned]
        return not written and not self.unrestored.sentences()

    def _changed_peft_layers(self) -> list[MergeState]:
        """Return the patched layers in which PEFT has merged or unmerged since they were patched."""
        records = [*self._merged.records(), *self._merged.dropped(keep=True)]
        mine = {id(record.slot.module()) for record in records}
        return [note for note in self._peft.changed(self._all() if mine else ()) if id(note.inner) in mine]

    def _record_unrestored(self) -> None:
        for record in self._merged.dropped(keep=True):
            if (where := record.derived()) is not None:
                self.unrestored.add(record.slot.path, where, COPIED)

    def saved(self, module: nn.Module, *_: object) -> None:
        """Warn that the state dict being created contains merged weights."""
        self._warn(module, SAVED)

    def copied(self) -> None:
        """Warn that the model is being copied or pickled with its merged weights."""
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

    def restore(self) -> None:
        """Restore the original weights and remove all hooks. Safe to repeat."""
        self._pace.give_back()
        self._guards.leave()

    def hand_over(self) -> list[str]:
        """Restore the model because another Session takes it over; return messages for the user."""
        if (displaced := self._displaced()) is not None:
            displaced()
        with Change() as change:
            found = self.undo_foreign_changes(change)
        self.restore()
        return found

    def release(self, module: nn.Module, *given: object) -> None:
        """Restore one module's original weights, because something is about to write into it."""
        with MODEL_LOCK:
            self._merged.release(module, *given)

    def _bury(self) -> None:
        """Forget a freed component. Takes no lock, because the garbage collector may call it at any point."""
        self._merged.bury()
        if not self._all():
            self._guards.leave()


def owners_on(modules: Iterable[nn.Module]) -> list[Owner]:
    """Return the distinct owners of the adapters on these modules."""
    found = {id(kept): kept for module in modules for kept in kept_on(module) if isinstance(kept, Owner)}
    return list(found.values())
