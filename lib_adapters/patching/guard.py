"""The hooks on a patched model: one per root module, and two per patched module, for loading and for saving.

Hosts change models without telling. Before a root runs, the guard asks whether our tensors are still there; before a
module is loaded over, it gets its own weights back, so that the new ones are written where they belong. When a state
dict is created, the user is warned that it contains merged weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from lib_adapters.patching.change import Change
from lib_adapters.patching.hooks import Hooks, Kept


class Guards:
    """The hooks that are on the model now; none while nothing is active."""

    def __init__(
        self, before_run: Callable[..., None], before_load: Callable[..., None], before_save: Callable[..., None]
    ) -> None:
        self._runs, self._loads = Hooks("run", before_run), Hooks("load", before_load)
        self._saves = Hooks("save", before_save)

    def move(
        self, roots: Iterable[nn.Module], loading: Iterable[nn.Module], change: Change, kept: Kept | None = None
    ) -> None:
        """Install the hooks on exactly these modules: new ones at once, removed ones after the rest of the change.

        `kept` is kept alive as long as any hook is on a module.
        """
        patched = list(loading)
        for hooks, modules in ((self._runs, list(roots)), (self._loads, patched), (self._saves, patched)):
            hooks.move(modules, change, kept)

    def leave(self) -> None:
        """Off all modules; safe to repeat."""
        self._runs.leave()
        self._loads.leave()
        self._saves.leave()
