"""Text bars with a resolution of an eighth of a character."""

from __future__ import annotations

from collections.abc import Mapping

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int) -> str:
    """`share` of 0 is empty; whatever is more than that shows."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def chart(rows: Mapping[str, tuple[float, str]], width: int = 32) -> list[str]:
    """A line per row: label, bar, note; the longest bar is the largest value."""
    largest = max((value for value, _ in rows.values()), default=0.0) or 1.0
    pad = max((len(label) for label in rows), default=0)
    return [f"{label:<{pad}} {bar(value / largest, width)} {note}".rstrip() for label, (value, note) in rows.items()]
