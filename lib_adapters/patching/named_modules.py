"""All modules of a model in one pass, because torch's `named_modules` passes each through every level above it."""

from __future__ import annotations

from torch import nn


def named_modules(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return path and module as `root.named_modules()` does, in its order, each module once."""
    found: list[tuple[str, nn.Module]] = []
    known: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in known:
            continue
        known.add(id(module))
        found.append((path, module))
        stem = f"{path}." if path else ""
        children = [(stem + name, child) for name, child in module._modules.items() if child is not None]
        waiting += reversed(children)
    return found
