"""Hooks on modules, found by their type and not by a handle, which an exception may lose.

Copies and pickles of a model get hooks that do nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from torch import nn

from lib_adapters.patching.transaction import Transaction

Kind = Literal["run", "load", "save"]
TABLES: dict[Kind, str] = {
    "run": "_forward_pre_hooks",
    "load": "_load_state_dict_pre_hooks",
    "save": "_state_dict_pre_hooks",
}


class HookState(Protocol):
    """An object that a hook keeps alive as long as it is on a module."""

    def on_copied(self) -> None:
        """React to the module being copied or pickled with the hook on it."""


class Hook:
    """Calls what it was given with the module and its arguments; a copy of it calls nothing."""

    def __init__(self, find: Callable[[], Callable[..., Any] | None] | None = None) -> None:
        self._lookup = find
        self.state: HookState | None = None  # kept alive as long as the hook is on a module

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        if self.state is not None:
            self.state.on_copied()
        return Hook, ()

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        """Before a run: the positional and the named arguments; before loading, what torch hands over."""
        method = None if self._lookup is None else self._lookup()
        return None if method is None else method(module, *given)


class HookSet:
    """All the places of one such hook."""

    def __init__(self, kind: Kind, method: Callable[..., Any], *, weak: bool = True) -> None:
        """`run`: before a module runs; what the method returns may replace the arguments. `load`: before it is loaded.
        `save`: before its state dict is made.

        `weak`: nothing is called any more when the method's owner is gone.
        """
        self._kind, self._hook = kind, Hook(weakref.WeakMethod(method) if weak else lambda: method)
        self._modules: dict[int, weakref.ref[nn.Module]] = {}

    def install(self, modules: Iterable[nn.Module], state: HookState | None = None) -> None:
        """Install the hook on these modules too; safe to repeat. `kept` is kept alive by the hook."""
        for module in modules:
            self._hook.state = state
            self._modules[id(module)] = weakref.ref(module)
            if not self._numbers(module):
                self._register(module)

    def remove(self, keep: Iterable[nn.Module] = ()) -> None:
        """Off all modules but these; safe to repeat."""
        stays = {id(module) for module in keep}
        for key in [key for key in self._modules if key not in stays]:
            if (module := self._modules[key]()) is not None:
                self._unregister(module)
            del self._modules[key]
        if not self._modules:
            self._hook.state = None

    def replace(self, modules: Sequence[nn.Module], transaction: Transaction, state: HookState | None = None) -> None:
        """Install the hook on exactly these modules: new ones at once, removed ones after the rest of the change."""
        transaction.on_rollback(partial(self.remove, self.modules()))
        self.install(modules, state)
        transaction.on_commit(partial(self.remove, modules))

    def modules(self) -> list[nn.Module]:
        """On which it is, as far as they live."""
        return [module for ref in self._modules.values() if (module := ref()) is not None]

    def __len__(self) -> int:
        return sum(len(self._numbers(module)) for module in self.modules())

    def _register(self, module: nn.Module) -> None:
        if self._kind == "run":
            module.register_forward_pre_hook(self._hook, with_kwargs=True)
            return
        if self._kind == "save":
            save: Any = module.register_state_dict_pre_hook
            save(self._hook)
            return
        register: Any = module._register_load_state_dict_pre_hook  # public only since torch 2.5
        register(self._hook, with_module=True)

    def _numbers(self, module: nn.Module) -> list[int]:
        """Where in the module's table it is; torch wraps those for loading."""
        table = getattr(module, TABLES[self._kind])
        return [number for number, found in table.items() if getattr(found, "hook", found) is self._hook]

    def _unregister(self, module: nn.Module) -> None:
        for number in self._numbers(module):
            del getattr(module, TABLES[self._kind])[number]  # first: without what follows it is called in another way
            module._forward_pre_hooks_with_kwargs.pop(number, None)


def hook_states(module: nn.Module) -> list[HookState]:
    """Return the objects that our hooks on this module keep alive."""
    hooks = (getattr(found, "hook", found) for table in TABLES.values() for found in getattr(module, table).values())
    return [hook.state for hook in hooks if isinstance(hook, Hook) and hook.state is not None]


# The hooks on a patched model: one per root module, and two per patched module, for loading and for saving.
#
# Hosts change models without telling. Before a root runs, the guard asks whether our tensors are still there; before a
# module is loaded over, it gets its own weights back, so that the new ones are written where they belong. When a state
# dict is created, the user is warned that it contains merged weights.


class ModelHooks:
    """The hooks that are on the model now; none while nothing is active."""

    def __init__(
        self, before_forward: Callable[..., None], before_load: Callable[..., None], before_save: Callable[..., None]
    ) -> None:
        self._forward_hooks, self._load_hooks = HookSet("run", before_forward), HookSet("load", before_load)
        self._save_hooks = HookSet("save", before_save)

    def update(
        self,
        components: Iterable[nn.Module],
        loading: Iterable[nn.Module],
        transaction: Transaction,
        kept: HookState | None = None,
    ) -> None:
        """Install the hooks on exactly these modules: new ones at once, removed ones after the rest of the change.

        `kept` is kept alive as long as any hook is on a module.
        """
        patched = list(loading)
        for hooks, modules in (
            (self._forward_hooks, list(components)),
            (self._load_hooks, patched),
            (self._save_hooks, patched),
        ):
            hooks.replace(modules, transaction, kept)

    def remove(self) -> None:
        """Off all modules; safe to repeat."""
        self._forward_hooks.remove()
        self._load_hooks.remove()
        self._save_hooks.remove()
