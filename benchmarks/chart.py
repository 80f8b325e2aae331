"""The applying times as one bar chart in SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.results import Row

COLOURS = ("#9a9a9a", "#1f77b4", "#d9a441", "#b05cba", "#4c9f70", "#c9543f")
LEFT, BAR, GAP, WIDTH = 130, 13, 12, 620


def draw(rows: Sequence[Row], title: str) -> str:
    """Bars as long as times of the clone; longer ones than eight clones are cut, with their number written out."""
    who = list(dict.fromkeys(row.contender for row in rows))
    bars = list(_bars(rows, who))
    height = 70 + (max((y for y, _ in bars), default=0) + BAR)
    body = "\n".join([*_legend(who, title), *(bar for _, bar in bars), *_grid(height)])
    size = f'width="{LEFT + WIDTH + 90}" height="{height}" font-family="sans-serif" font-size="11"'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{paper}\n{body}\n</svg>\n'


def _bars(rows: Sequence[Row], who: Sequence[str]) -> Iterator[tuple[int, str]]:
    y, before = 60, ""
    for row in rows:
        if row.algorithm != before:
            y, before = y + GAP, row.algorithm
            yield y, f'<text x="{LEFT - 8}" y="{y + BAR - 2}" text-anchor="end">{escape(row.algorithm)}</text>'
        ratio = row.ratios["apply"]
        length = _x(min(ratio, 8.0)) - LEFT
        colour = COLOURS[who.index(row.contender) % len(COLOURS)]
        yield y, f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>'
        yield y, f'<text x="{LEFT + length + 4:.1f}" y="{y + BAR - 3}">{ratio:.2f}</text>'
        y += BAR


def _x(ratio: float) -> float:
    return LEFT + WIDTH * ratio / 8.0


def _legend(who: Sequence[str], title: str) -> Iterator[str]:
    yield f'<text x="10" y="20" font-size="14">{escape(title)}</text>'
    for n, name in enumerate(who):
        x, colour = 10 + n * 125, COLOURS[n % len(COLOURS)]
        yield f'<rect x="{x}" y="34" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 14}" y="43">{escape(name)}</text>'


def _grid(height: int) -> Iterator[str]:
    for ratio in range(9):
        x = _x(ratio)
        yield f'<line x1="{x}" x2="{x}" y1="58" y2="{height - 20}" stroke="#ddd" stroke-width="0.6"/>'
        yield f'<text x="{x}" y="{height - 6}" text-anchor="middle" fill="#777">{ratio}</text>'
