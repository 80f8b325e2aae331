"""Axes of the host's X/Y/Z plot: the name and the strengths of the first adapter tag of the prompt.

The plot applies its axes one after the other to a copy of the job, in an order that the user chooses. So a weight that
comes before the adapter's name leaves a tag for nobody, `<lyco:None:0.5>`, and the name is filled in by the other axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lib_adapters.hosts.webui import host, settings
from lib_adapters.hosts.webui.names import Names
from lib_adapters.prompt.tags import Tag, parse, quoted

NOBODY = Tag("lyco", settings.NOTHING, 1.0, 1.0, None, "", (0, 0))
WEIGHTS: Mapping[str, Callable[[Tag, float], Tag]] = {
    "Weight": lambda tag, value: replace(tag, te=value, unet=value),
    "TE weight": lambda tag, value: replace(tag, te=value),
    "UNet weight": lambda tag, value: replace(tag, unet=value),
}
COST = 0.4  # less than another checkpoint or VAE, more than what changes no weights


def add_axes(names: Names[Any], choices: Callable[[], list[str]]) -> None:
    """Safe to repeat: the plot's script is made anew on Reload UI, but not always."""
    grid = _grid()
    if grid is None:
        return
    there = {option.label for option in grid.axis_options}
    weights = [
        grid.AxisOption(f"[LyCORIS] {label}", float, _weight(change), cost=COST) for label, change in WEIGHTS.items()
    ]
    adapter = grid.AxisOption(
        "[LyCORIS] Adapter",
        str,
        _adapter,
        confirm=_known(names),
        cost=COST,
        choices=lambda: [settings.NOTHING, *choices()],
    )
    grid.axis_options.extend(option for option in (adapter, *weights) if option.label not in there)


def _grid() -> Any | None:
    """The module of the plot's script, which is executed and not imported."""
    data = getattr(host.optional("scripts"), "scripts_data", ())
    named = (one for one in data if one.script_class.__module__ in ("xyz_grid.py", "scripts.xyz_grid"))
    return next((one.module for one in named if hasattr(one.module, "axis_options")), None)


def _adapter(p: Any, name: str, _: Sequence[str]) -> None:
    def named(tag: Tag) -> Tag | None:
        return None if name == settings.NOTHING else replace(tag, name=name)

    _change(p, named)


def _weight(change: Callable[[Tag, float], Tag]) -> Callable[[Any, float, Sequence[float]], None]:
    def apply(p: Any, value: float, _: Sequence[float]) -> None:
        _change(p, lambda tag: change(tag, value))

    return apply


def _known(names: Names[Any]) -> Callable[[Any, Sequence[str]], None]:
    """A name that is not there stops the plot before its first picture."""

    def confirm(_: Any, given: Sequence[str]) -> None:
        for name in given:
            if name != settings.NOTHING and not names.has("lyco", name):
                raise RuntimeError(f"LyCORIS: no adapter is called {name!r}.")

    return confirm


def _change(p: Any, change: Callable[[Tag], Tag | None]) -> None:
    """In the prompt, and in the second pass's where it has its own."""
    for field in ("prompt", "hr_prompt"):
        text = getattr(p, field, None)
        if isinstance(text, list):
            setattr(p, field, [_changed(one, change) if one else one for one in text])
        elif text or (field == "prompt" and text == ""):
            setattr(p, field, _changed(text, change))


def _changed(prompt: str, change: Callable[[Tag], Tag | None]) -> str:
    kinds = ("lyco", "lora") if settings.handles_lora() else ("lyco",)
    first = next(iter(parse(prompt, kinds).tags), replace(NOBODY, span=(len(prompt), len(prompt))))
    changed = change(first)
    start, end = first.span
    return prompt[:start] + (_written(changed) if changed else "") + prompt[end:]


def _written(tag: Tag) -> str:
    weights = f"{tag.te:g}" if tag.te == tag.unet else f"{tag.te:g}:{tag.unet:g}"
    rank = f":dyn={tag.dyn}" if tag.dyn else ""
    return f"<{tag.kind}:{quoted(tag.name)}:{weights}{rank}>"
