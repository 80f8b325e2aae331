"""What watches a patched model: one hook per root module, and one per patched module for load_state_dict.

Hosts change models without telling. Before a root runs, the guard asks whether our tensors are still there; before a
module is loaded over, it gets its own weights back, so that the new ones are written where they belong. Copies and
pickles of a model get hooks that do nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn


class Hook:
    """Calls a bound method, weakly; a copy of it calls nothing."""

    def __init__(self, method: Callable[..., None] | None = None) -> None:
        self._method = None if method is None else weakref.WeakMethod(method)

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()

    def __call__(self, module: nn.Module, *given: Any) -> None:
        if self._method is not None and (method := self._method()) is not None:
            method(module, *given)


class _Load(Hook):
    """Of what `load_state_dict` hands over, only the module matters."""

    def __reduce__(self) -> tuple[type[_Load], tuple[()]]:
        return _Load, ()

    def __call__(self, module: nn.Module, *_: Any) -> None:
        super().__call__(module)


class _Run(Hook):
    """Positional and named arguments of a run as one row."""

    def __reduce__(self) -> tuple[type[_Run], tuple[()]]:
        return _Run, ()

    def __call__(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__call__(module, (*given, *named.values()))


class Guards:
    """The hooks that are on the model now; none while nothing is active.

    They are found by what they are, not by their handles: a handle may be lost to whatever is raised.
    """

    def __init__(self, before_run: Callable[..., None], before_load: Callable[..., None] | None = None) -> None:
        self._run, self._load = _Run(before_run), _Load(before_load)
        self._places: dict[int, weakref.ref[nn.Module]] = {}

    def put_on(self, roots: Iterable[nn.Module], loading: Iterable[nn.Module] = ()) -> None:
        """On these as well; safe to repeat. `loading`: the modules that somebody may load over."""
        for root in roots:
            self._note(root)
            if not _numbers(root._forward_pre_hooks, self._run):
                root.register_forward_pre_hook(self._run, with_kwargs=True)
        for module in loading:
            self._note(module)
            if not _numbers(module._load_state_dict_pre_hooks, self._load):
                register: Any = module._register_load_state_dict_pre_hook  # public only since torch 2.5
                register(self._load, with_module=True)

    def leave(self, kept: Iterable[nn.Module] = ()) -> None:
        """Off all modules but these."""
        stays = {id(module) for module in kept}
        for key in [key for key in self._places if key not in stays]:
            if (module := self._places[key]()) is not None:
                _take_off(module, self._run, self._load)
            del self._places[key]

    def places(self) -> list[nn.Module]:
        return [module for ref in self._places.values() if (module := ref()) is not None]

    def _note(self, module: nn.Module) -> None:
        self._places[id(module)] = weakref.ref(module)

    def __len__(self) -> int:
        runs = sum(len(_numbers(module._forward_pre_hooks, self._run)) for module in self.places())
        return runs + sum(len(_numbers(module._load_state_dict_pre_hooks, self._load)) for module in self.places())


def _numbers(table: Mapping[int, Any], hook: Hook) -> list[int]:
    """Where in a module's table of hooks this one is; torch wraps those for loading."""
    return [number for number, found in table.items() if getattr(found, "hook", found) is hook]


def _take_off(module: nn.Module, run: Hook, load: Hook) -> None:
    for number in _numbers(module._forward_pre_hooks, run):
        del module._forward_pre_hooks[number]  # first: without the other it would be called in another way
        module._forward_pre_hooks_with_kwargs.pop(number, None)
    for number in _numbers(module._load_state_dict_pre_hooks, load):
        del module._load_state_dict_pre_hooks[number]
