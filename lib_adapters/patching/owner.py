"""Ownership of a model by one Session, recorded in the hooks on the model.

A process may have several Sessions for one model, and an active Session may be garbage-collected. The state that
restores the weights is therefore one object, kept alive by the hooks on the model and found there by other Sessions.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from lib_adapters.patching.components import ModelComponents
from lib_adapters.patching.controller import PatchController
from lib_adapters.patching.derived_layers import DerivedLayers
from lib_adapters.patching.hooks import ModelHooks, hook_states
from lib_adapters.patching.patch import Key
from lib_adapters.patching.peft_layers import MergeState, PeftLayers
from lib_adapters.patching.transaction import Transaction
from lib_adapters.patching.unrestored_layers import COPIED, UNMERGED, WRITTEN, UnrestoredLayers, with_layers
from lib_adapters.patching.weight_patcher import WeightPatcher

SAVED_MESSAGE = (
    "A state dict of {model} was created while adapters are active, so it contains merged weights. To save or copy "
    "the original weights, deactivate the adapters first."
)
COPIED_MESSAGE = (
    "{model} was copied while adapters are active, so the copy contains merged weights. To copy the original weights, "
    "deactivate the adapters first."
)
MODEL_LOCK = threading.RLock()  # held while a model is changed: Sessions in several threads may share one model


class Owner:
    """The adapters of one Session on its model; lives as long as its hooks, even if the Session is dropped."""

    def __init__(
        self,
        weight_patcher: WeightPatcher,
        controller: PatchController,
        before_forward: Callable[..., None],
        on_displaced: Callable[[], None],
        add_note: Callable[[str], None],
    ) -> None:
        """Keep weak references to the Session's methods.

        `displaced` is called before another Session takes the model over, `say` with a message for the user.
        """
        self._weight_patcher, self._controller = weight_patcher, controller
        self._hooks = ModelHooks(before_forward, self.restore_module, self.on_saved)
        self._on_displaced, self._add_note = weakref.WeakMethod(on_displaced), weakref.WeakMethod(add_note)
        self._components: ModelComponents | None = None
        self._derived, self._peft = DerivedLayers(), PeftLayers()
        self._warned = False  # that merged weights were copied or saved
        self.unrestored = UnrestoredLayers()

    def find_components(self, unet: nn.Module | None, text_encoders: Sequence[nn.Module]) -> ModelComponents:
        """Return the components of the model; the original weights of a component are freed when it is."""
        bury = weakref.WeakMethod(
            self._on_collected
        )  # a strong reference would be a cycle and delay freeing the weights
        self._components = ModelComponents(
            unet, text_encoders, lambda _: found() if (found := bury()) is not None else None
        )
        return self._components

    def install_hooks(
        self, components: Iterable[nn.Module], loading: Sequence[nn.Module], transaction: Transaction
    ) -> None:
        """Install the hooks on exactly these modules: `roots` before forward, `loading` before loading and saving."""
        self._hooks.update(components, loading, transaction, kept=self)
        transaction.on_commit(lambda: self._remember(loading))

    def _remember(self, patched: Sequence[nn.Module]) -> None:
        self._derived.record(self._all_modules(), patched)
        self._peft.record(self._all_modules() if patched else ())
        self._warned = False

    def has_changed(self) -> bool:
        """True if a sibling of a patched module was added or replaced; cheap enough to check before every forward."""
        return self._derived.has_changed()

    def undo_foreign_changes(self, transaction: Transaction) -> list[str]:
        """Undo what other code did with merged weights, where that is exact; return messages for the user."""
        self._weight_patcher.refresh()
        notes = self._changed_peft_layers()
        for note in notes:
            note.reset(transaction)
        self._weight_patcher.reclaim([note.inner for note in notes], transaction)
        written = [record.ref.path for record in self._weight_patcher.written_layers()]
        self._derived.restore(self._all_modules(), self._weight_patcher.snapshots(), self.unrestored, transaction)
        self._record_unrestored()
        self._weight_patcher.displaced_layers()
        found = [(UNMERGED, [note.path for note in notes]), (WRITTEN, written)]
        return [*(with_layers(text, paths) for text, paths in found if paths), *self.unrestored.messages()]

    def can_restore(self) -> bool:
        """False if other code used merged weights in a way that restoring the original weights does not undo."""
        tuned = {id(note.inner) for note in self._changed_peft_layers()}
        self._record_unrestored()
        written = [record for record in self._weight_patcher.written_layers() if record.ref.key[0] not in tuned]
        return not written and not self.unrestored.messages()

    def _changed_peft_layers(self) -> list[MergeState]:
        """Return the patched layers in which PEFT has merged or unmerged since they were patched."""
        records = [*self._weight_patcher.snapshots(), *self._weight_patcher.displaced_layers(keep=True)]
        mine = {id(record.ref.module()) for record in records}
        return [note for note in self._peft.changed(self._all_modules() if mine else ()) if id(note.inner) in mine]

    def _record_unrestored(self) -> None:
        for record in self._weight_patcher.displaced_layers(keep=True):
            if (where := record.is_derived()) is not None:
                self.unrestored.add(record.ref.path, where, COPIED)

    def on_saved(self, module: nn.Module, *_: object) -> None:
        """Warn that the state dict being created contains merged weights."""
        self._warn(module, SAVED_MESSAGE)

    def on_copied(self) -> None:
        """Warn that the model is being copied or pickled with its merged weights."""
        for root in self._all_modules()[:1]:
            self._warn(root, COPIED_MESSAGE)

    def _warn(self, module: nn.Module, text: str) -> None:
        if not self._warned and self._weight_patcher.snapshots():
            self._warned = True
            if (say := self._add_note()) is not None:
                say(text.format(model=type(module).__name__))

    def _all_modules(self) -> list[nn.Module]:
        return [] if self._components is None else self._components.all()

    @property
    def is_orphan(self) -> bool:
        """True if the Session object was dropped while it was active."""
        return self._on_displaced() is None

    def originals(self) -> dict[Key, Tensor]:
        """Return the original tensors of all parameters that are merged now."""
        return self._weight_patcher.originals()

    def restore(self) -> None:
        """Restore the original weights and remove all hooks. Safe to repeat."""
        self._controller.restore()
        self._hooks.remove()

    def hand_over(self) -> list[str]:
        """Restore the model because another Session takes it over; return messages for the user."""
        if (displaced := self._on_displaced()) is not None:
            displaced()
        with Transaction() as transaction:
            found = self.undo_foreign_changes(transaction)
        self.restore()
        return found

    def restore_module(self, module: nn.Module, *given: object) -> None:
        """Restore one module's original weights, because something is about to write into it."""
        with MODEL_LOCK:
            self._weight_patcher.restore_module(module, *given)

    def _on_collected(self) -> None:
        """Forget a freed component. Takes no lock, because the garbage collector may call it at any point."""
        self._weight_patcher.drop_collected()
        if not self._all_modules():
            self._hooks.remove()


def owners_on(modules: Iterable[nn.Module]) -> list[Owner]:
    """Return the distinct owners of the adapters on these modules."""
    found = {id(kept): kept for module in modules for kept in hook_states(module) if isinstance(kept, Owner)}
    return list(found.values())
