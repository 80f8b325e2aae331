"""What watches a patched model: one hook per root module, and one per patched module for load_state_dict.

Hosts change models without telling. Before a root runs, the guard asks whether our tensors are still there; before a
module is loaded over, it gets its own weights back, so that the new ones are written where they belong. Copies and
pickles of a model get hooks that do nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


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
    """The hooks that are on the model now; none while nothing is active."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def put_on(self, roots: Iterable[nn.Module], before_run: Callable[[nn.Module, Any], None]) -> None:
        self._handles += [root.register_forward_pre_hook(_Run(before_run), with_kwargs=True) for root in roots]

    def watch_loading(self, modules: Iterable[nn.Module], before_load: Callable[[nn.Module], None]) -> None:
        hook = _Load(before_load)
        for module in modules:
            register: Any = module._register_load_state_dict_pre_hook  # public only since torch 2.5
            self._handles.append(register(hook, with_module=True))

    def take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __len__(self) -> int:
        return len(self._handles)
