"""Edits one option of a tag and keeps the rest of its text unchanged."""

from __future__ import annotations

from collections.abc import Mapping

from lib_adapters.prompt.tag_lexer import OFF_TOKEN, tokenize
from lib_adapters.prompt.tags import Tag

RULE_KEYS = ("lbw", "lbwe", "hrlbw", "hrlbwe")
BARE_KEYS = ("te", "unet", "dyn")  # may stand without their key


def edit_tag(tag: Tag, changes: Mapping[str, str | None]) -> str:
    """The tag's text with these values: None takes a key out. New ones come behind the others, named."""
    opening = f"<{tag.kind}:"
    inside = tag.text[len(opening) : -1]
    _, items = tokenize(inside)
    head = inside[: len(inside) - len("".join(f":{item}" for _, item in items))]
    kept: list[tuple[str, str]] = []
    open_changes = dict(changes)
    cut = _first_cut(items, changes)
    named = {key for key, item in items if "=" in item}
    for number, (key, item) in enumerate(items):
        if key in named and "=" not in item and changes.get(key) is not None:
            kept += [(key, item)] * (number < cut)  # the named one wins; this one keeps the places of those behind it
        elif key not in changes:
            stays = "=" in item or number < cut or key == OFF_TOKEN
            if stays or (key and key not in named):
                kept.append((key, item if stays else f"{key}={item.strip()}"))
        elif (value := open_changes.pop(key, None)) is not None:
            kept.append((key, _written(key, item, value, number < cut)))
    for place, key in enumerate(BARE_KEYS):  # where a bare number of its own would be read as this one, it stands bare
        before = tuple(earlier for earlier, item in kept[:place] if "=" not in item)
        if before == BARE_KEYS[:place] and open_changes.get(key) is not None:
            kept.insert(place, (key, str(open_changes.pop(key))))
    added = [
        (key, OFF_TOKEN if key == OFF_TOKEN else f"{key}={value}")
        for key, value in open_changes.items()
        if value is not None
    ]
    return f"{opening}{head}{''.join(f':{item}' for _, item in [*kept, *added])}>"


def _first_cut(items: list[tuple[str, str]], changes: Mapping[str, str | None]) -> int:
    """Behind an item that goes or could be read as an unfinished rule, bare ones get their keys."""
    for number, (key, _) in enumerate(items):
        if key in changes and (changes[key] is None or key in RULE_KEYS):
            return number
    return len(items)


def _written(key: str, item: str, value: str, bare: bool) -> str:
    if "=" in item:
        return f"{item.partition('=')[0]}={value}"
    if key == OFF_TOKEN:
        return OFF_TOKEN
    return value if bare else f"{key}={value}"


def pin_sampled(tag: Tag, weights: str, key: str = "lbw") -> str:
    """With these block weights in the place of those in which chance had a part."""
    return edit_tag(tag, {key: weights.replace(",", ";")})
