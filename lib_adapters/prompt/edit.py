"""One thing about a tag is changed in its text; everything else in it stays as it was written."""

from __future__ import annotations

from collections.abc import Mapping

from lib_adapters.prompt.tags import OFF, Tag, items_of, quoted

BARE = ("te", "unet", "dyn")  # may stand without their key


def edited(tag: Tag, changes: Mapping[str, str | None]) -> str:
    """The tag's text with these values: None takes a key out. New ones come behind the others, named."""
    opening = f"<{tag.kind}:"
    inside = tag.text[len(opening) : -1]
    name, items = items_of(inside)
    head = inside[: len(inside) - len("".join(f":{item}" for _, item in items))]
    kept: list[str] = []
    open_changes = dict(changes)
    cut = _first_cut(items, changes)
    for number, (key, item) in enumerate(items):
        if key not in changes:
            kept.append(item if "=" in item or number < cut or key in ("", OFF) else f"{key}={item.strip()}")
        elif (value := open_changes.pop(key, None)) is not None:
            kept.append(_written(key, item, value, number < cut))
    for place, key in enumerate(BARE):  # where a bare number of its own would be read as this one, it stands bare
        bare = ["=" not in item and item.strip() != OFF for item in kept[:place]]
        if len(bare) == place and all(bare) and open_changes.get(key) is not None:
            kept.insert(place, str(open_changes.pop(key)))
    kept += [OFF if key == OFF else f"{key}={value}" for key, value in open_changes.items() if value is not None]
    return f"{opening}{head or quoted(name)}{''.join(f':{item}' for item in kept)}>"


def _first_cut(items: list[tuple[str, str]], changes: Mapping[str, str | None]) -> int:
    """Behind a bare item that goes or gets a key, bare ones would be read as something else: they get theirs too."""
    bare = ((n, key) for n, (key, item) in enumerate(items) if "=" not in item and key in changes and key != OFF)
    return next((n for n, key in bare if changes[key] is None or key not in BARE), len(items))


def _written(key: str, item: str, value: str, bare: bool) -> str:
    if "=" in item:
        return f"{item.partition('=')[0]}={value}"
    return value if bare and key in BARE else OFF if key == OFF else f"{key}={value}"


def drawn(tag: Tag, weights: str, key: str = "lbw") -> str:
    """With these block weights in the place of those in which chance had a part."""
    return edited(tag, {key: weights.replace(",", ";")})
