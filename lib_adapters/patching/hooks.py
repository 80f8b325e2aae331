"""One hook of ours on some modules: found by what it is, not by its handle, for that may be lost to whatever is raised.

Copies and pickles of a model get hooks that do nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from torch import nn

from lib_adapters.patching.change import Change

Kind = Literal["run", "load", "save"]
TABLES: dict[Kind, str] = {
    "run": "_forward_pre_hooks",
    "load": "_load_state_dict_pre_hooks",
    "save": "_state_dict_pre_hooks",
}


class Kept(Protocol):
    """An object that a hook keeps alive as long as it is on a module."""

    def copied(self) -> None:
        """React to the module being copied or pickled with the hook on it."""


class Hook:
    """Calls what it was given with the module and its arguments; a copy of it calls nothing."""

    def __init__(self, find: Callable[[], Callable[..., Any] | None] | None = None) -> None:
        self._find = find
        self.kept: Kept | None = None  # kept alive as long as the hook is on a module

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        if self.kept is not None:
            self.kept.copied()
        return Hook, ()

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        """Before a run: the positional and the named arguments; before loading, what torch hands over."""
        method = None if self._find is None else self._find()
        return None if method is None else method(module, *given)


class Hooks:
    """All the places of one such hook."""

    def __init__(self, kind: Kind, method: Callable[..., Any], *, weak: bool = True) -> None:
        """`run`: before a module runs; what the method returns may replace the arguments. `load`: before it is loaded.
        `save`: before its state dict is made.

        `weak`: nothing is called any more when the method's owner is gone.
        """
        self._kind, self._hook = kind, Hook(weakref.WeakMethod(method) if weak else lambda: method)
        self._places: dict[int, weakref.ref[nn.Module]] = {}

    def put_on(self, modules: Iterable[nn.Module], kept: Kept | None = None) -> None:
        """Install the hook on these modules too; safe to repeat. `kept` is kept alive by the hook."""
        for module in modules:
            self._hook.kept = kept
            self._places[id(module)] = weakref.ref(module)
            if not self._numbers(module):
                self._register(module)

    def leave(self, kept: Iterable[nn.Module] = ()) -> None:
        """Off all modules but these; safe to repeat."""
        stays = {id(module) for module in kept}
        for key in [key for key in self._places if key not in stays]:
            if (module := self._places[key]()) is not None:
                self._take_off(module)
            del self._places[key]
        if not self._places:
            self._hook.kept = None

    def move(self, modules: Sequence[nn.Module], change: Change, kept: Kept | None = None) -> None:
        """Install the hook on exactly these modules: new ones at once, removed ones after the rest of the change."""
        change.back(partial(self.leave, self.modules()))
        self.put_on(modules, kept)
        change.then(partial(self.leave, modules))

    def modules(self) -> list[nn.Module]:
        """On which it is, as far as they live."""
        return [module for ref in self._places.values() if (module := ref()) is not None]

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

    def _take_off(self, module: nn.Module) -> None:
        for number in self._numbers(module):
            del getattr(module, TABLES[self._kind])[number]  # first: without what follows it is called in another way
            module._forward_pre_hooks_with_kwargs.pop(number, None)


def kept_on(module: nn.Module) -> list[Kept]:
    """Return the objects that our hooks on this module keep alive."""
    hooks = (getattr(found, "hook", found) for table in TABLES.values() for found in getattr(module, table).values())
    return [hook.kept for hook in hooks if isinstance(hook, Hook) and hook.kept is not None]
