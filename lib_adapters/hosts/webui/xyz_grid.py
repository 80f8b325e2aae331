"""Axes of the X/Y/Z plot script for everything that a tag can express.

They change the first tag of the prompt and nothing else in it. Numbers take the plot's own ranges: `0-1 [5]`,
`2-10 (+2)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lib_adapters.errors import BadTag
from lib_adapters.hosts.webui import settings, webui_modules
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library.file_names import escape_name
from lib_adapters.prompt.block_weights import BlockWeightSpec, Presets, block_list, resolve_block_weights
from lib_adapters.prompt.schedule import format_strength, parse_strength
from lib_adapters.prompt.tag_editor import edit_tag
from lib_adapters.prompt.tag_options import MODE_CHOICES
from lib_adapters.prompt.tags import Tag, opening_text, parse, quote_name

AXIS_COST = 0.4  # less than another checkpoint or VAE, more than what changes no weights
RANDOM_BLOCKS = "R,R,R,R,R,R,R,R,R,R,R,R,R,R,R,R,R"
TagChange = Callable[[Tag, Any], Mapping[str, str | None]]

AXIS_CHANGES: Mapping[str, tuple[type, TagChange]] = {  # by the axis' label: what its values are, and what they change
    "Weight": (float, lambda tag, value: {"te": f"{value:g}", "unet": None}),
    "TE weight": (float, lambda tag, value: {"te": f"{value:g}", "unet": format_strength(tag.unet)}),
    "UNet weight": (float, lambda tag, value: {"unet": f"{value:g}"}),
    "Hires weight": (float, lambda tag, value: {"hr": f"{value:g}"}),
    "Rank": (int, lambda tag, value: {"dyn": str(value)}),
    "Start": (float, lambda tag, value: {"start": _position(value), "step": None}),
    "Stop": (float, lambda tag, value: {"stop": _position(value), "step": None}),
    "Schedule": (str, lambda tag, value: {"unet": value.replace(",", ";")}),
    "Block preset": (str, lambda tag, value: {"lbw": None if value == settings.NONE_CHOICE else value}),
    "Blocks": (str, lambda tag, value: {"lbw": f"{value}:{_weight_of(tag):g}"}),
    "Block weight": (float, lambda tag, value: {"lbw": f"{_blocks_of(tag)}:{value:g}"}),
    "Random blocks": (int, lambda tag, value: {"lbw": _random(value)}),
    "Mode": (str, lambda tag, value: {"mode": value}),
}


def add_axes(resolver: NameResolver[Any], choices: Callable[[], list[str]], presets: Callable[[], Presets]) -> None:
    """Safe to repeat: the plot's script is made anew on Reload UI, but not always."""
    grid = _grid()
    if grid is None:
        return
    offered = {
        "Block preset": lambda: [settings.NONE_CHOICE, *presets().blocks],
        "Mode": lambda: list(MODE_CHOICES),
    }
    confirmed = {"Schedule": _schedules, "Blocks": _blocks, "Block preset": partial(_presets, presets)}
    there = {option.label for option in grid.axis_options}
    axes = [
        grid.AxisOption(
            f"[LyCORIS] {label}",
            kind,
            _apply(transaction),
            confirm=confirmed.get(label),
            cost=AXIS_COST,
            choices=offered.get(label),
        )
        for label, (kind, transaction) in AXIS_CHANGES.items()
    ]
    adapter = grid.AxisOption(
        "[LyCORIS] Adapter",
        str,
        _adapter,
        confirm=_known(resolver),
        cost=AXIS_COST,
        choices=lambda: [settings.NONE_CHOICE, *choices()],
    )
    grid.axis_options.extend(option for option in (adapter, *axes) if option.label not in there)


def _grid() -> Any | None:
    """The module of the plot's script, which is executed and not imported."""
    data = getattr(webui_modules.import_optional("scripts"), "scripts_data", ())
    named = (one for one in data if one.script_class.__module__ in ("xyz_grid.py", "scripts.xyz_grid"))
    return next((one.module for one in named if hasattr(one.module, "axis_options")), None)


def _position(value: float) -> str:
    """Below 1 a share of the steps, else a number of steps, as tags have it."""
    return f"{value:g}" if 0 < value < 1 else f"{value:.0f}"


def _rule_of(tag: Tag) -> tuple[str, str]:
    """`blocks:weight` of a tag whose block weights are one rule; all blocks at 0 elsewhere."""
    text = tag.options.spec.blocks.replace("*", ":")
    where, sign, weight = text.partition(":")
    return (where, weight) if sign and "," not in text and ";" not in text else ("BASE-OUT11", "0")


def _weight_of(tag: Tag) -> float:
    try:
        return float(_rule_of(tag)[1])
    except ValueError:
        return 0.0


def _blocks_of(tag: Tag) -> str:
    return _rule_of(tag)[0]


def _random(number: int) -> str:
    """The same number gives the same weights, in any cell."""
    return resolve_block_weights(BlockWeightSpec(RANDOM_BLOCKS), Presets(), f"axis {number}").sampled_text.replace(
        ",", ";"
    )


def _adapter(p: Any, name: str, _: Sequence[str]) -> None:
    def named(tag: Tag) -> str:
        if name == settings.NONE_CHOICE:
            return ""
        return f"<{tag.kind}:{quote_name(escape_name(name))}{tag.text[len(opening_text(tag)) :]}"

    _change(p, named)


def _apply(transaction: TagChange) -> Callable[[Any, Any, Sequence[Any]], None]:
    def apply(p: Any, value: Any, _: Sequence[Any]) -> None:
        _change(p, lambda tag: edit_tag(tag, transaction(tag, value)))

    return apply


def _known(names: NameResolver[Any]) -> Callable[[Any, Sequence[str]], None]:
    """A name that is not there stops the plot before its first picture."""

    def confirm(_: Any, given: Sequence[str]) -> None:
        for name in given:
            if name != settings.NONE_CHOICE and not names.has("lyco", name):
                raise RuntimeError(f"LyCORIS: no adapter is called {name!r}.")

    return confirm


def _schedules(_: Any, given: Sequence[str]) -> None:
    _each(given, parse_strength)


def _blocks(_: Any, given: Sequence[str]) -> None:
    _each(given, lambda text: block_list(text, "lbw"))


def _presets(presets: Callable[[], Presets], _: Any, given: Sequence[str]) -> None:
    _each(
        (one for one in given if one != settings.NONE_CHOICE),
        lambda text: resolve_block_weights(BlockWeightSpec(text), presets()),
    )


def _each(given: Any, read: Callable[[str], object]) -> None:
    for text in given:
        try:
            read(text)
        except BadTag as error:
            raise RuntimeError(f"LyCORIS: {error}.") from error


def _change(p: Any, transaction: Callable[[Tag], str]) -> None:
    """In the prompt, and in the second pass's where it has its own."""
    for field in ("prompt", "hr_prompt"):
        text = getattr(p, field, None)
        if isinstance(text, list):
            setattr(p, field, [_changed(one, transaction) if one else one for one in text])
        elif text or (field == "prompt" and text == ""):
            setattr(p, field, _changed(text, transaction))


def _changed(prompt: str, transaction: Callable[[Tag], str]) -> str:
    """Where there is no tag, one for nobody is at the end: another axis may still name an adapter."""
    kinds = ("lyco", "lora") if settings.handles_lora() else ("lyco",)
    no_adapter = Tag(
        "lyco", settings.NONE_CHOICE, text=f"<lyco:{settings.NONE_CHOICE}>", span=(len(prompt), len(prompt))
    )
    tag = next(iter(parse(prompt, kinds).tags), no_adapter)
    start, end = tag.span
    return prompt[:start] + transaction(tag) + prompt[end:]
