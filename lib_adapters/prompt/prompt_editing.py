"""Parses prompt editing (`[before:after:when]`) and alternation (`[a|b]`) around tags.

Parses the prompt without its tags, as the web UI does (AUTOMATIC1111/stable-diffusion-webui,
modules/prompt_parser.py: `schedule_parser`). Sub-prompts joined by AND are parsed separately. Brackets that are
unbalanced or contain no step are plain text; a `|` outside `[a|b]` or a trailing backslash makes the whole sub-prompt
plain text. One pass, linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lib_adapters.prompt.schedule import EveryNth, Position, Window

AND = re.compile(r"\bAND\b")  # as in the web UI's prompt_parser
OTHER_TAG_FILLER = "\0"  # replaces each character of a tag that is not ours: not a space, and ignored in a number
_TOKEN = re.compile(r"\\.?|[\[\]():|]")  # `.` does not match a line end, as in the web UI's grammar
_WHEN = re.compile(r"[\s\0]*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[\s\0]*")
_OPENERS = {"]": "[", ")": "("}
_FURTHEST = 1e9  # steps


@dataclass(frozen=True)
class Switch:
    """One `[before:after:when]` around a tag, and whether the tag is in `before` or in `after`."""

    in_after: bool
    when: float
    when_is_fraction: bool  # `when` has a decimal point: a fraction of all steps


Edit = Switch | EveryNth
Edits = frozenset[Edit]  # a tag acts in the steps in which all of them hold
NO_EDITS: Edits = frozenset()


@dataclass(frozen=True)
class Timeline:
    """The steps of one pass, as prompt editing counts them.

    `before`: in the second (hires) pass, the number of steps of the first one; `when` continues from there, so 1.5 is
    the middle of the second pass. `old`: as before web UI 1.6, or with its option "Use old prompt editing timelines".
    """

    steps: int
    steps_before: int | None = None
    uses_old_scheduling: bool = False

    @property
    def reference_steps(self) -> int:
        """The number of steps of which `when` is a fraction."""
        return self.steps_before if self.steps_before is not None and self.uses_old_scheduling else self.steps

    def switch_step(self, switch: Switch) -> int:
        """Return the number of steps before `after` begins; negative if it began in the previous pass."""
        when = max(-_FURTHEST, min(_FURTHEST, switch.when))
        if self.uses_old_scheduling:
            found = when * self.reference_steps if when < 1 else when
        elif switch.when_is_fraction:
            found = (when - (self.steps_before is not None)) * self.steps
        else:
            found = when - (self.steps_before or 0)
        return min(self.reference_steps, int(found))


def window_of(edits: Edits, timeline: Timeline) -> Window | None:
    """Return the window of the steps in which all edits hold; None if these are all steps."""
    starts = [timeline.switch_step(one) for one in edits if isinstance(one, Switch) and one.in_after]
    stops = [timeline.switch_step(one) for one in edits if isinstance(one, Switch) and not one.in_after]
    turns = tuple(sorted(one for one in edits if isinstance(one, EveryNth)))
    start, stop = max([0, *starts]), min([timeline.reference_steps, *stops])
    first = Position(float(start), "step") if start else None
    last = Position(float(max(0, stop)), "step") if stop < timeline.reference_steps else None
    return Window(first, last, turns) if first or last or turns else None


@dataclass(frozen=True)
class PromptEdits:
    """The prompt editing around the places in a text from which tags were removed."""

    edits: tuple[Edits, ...]  # of each place, in order
    unreachable: frozenset[int]  # indexes of places in brackets that look like prompt editing but are plain text
    blanks: tuple[tuple[int, int], ...]  # spans of brackets that contain only such places
    messages: tuple[tuple[int, int], ...]  # spans of the outermost brackets that also contain words


def find_edits(text: str, spans: Sequence[int]) -> PromptEdits:
    """Parse the text. `places`: the offsets at which tags were removed, in ascending order. Never raises."""
    edits: list[Edits] = []
    lost: list[int] = []
    blanks: list[tuple[int, int]] = []
    worded: list[tuple[int, int]] = []
    start = number = 0
    for end in [*(match.start() for match in AND.finditer(text)), len(text)]:
        last = number
        while last < len(spans) and spans[last] <= end:
            last += 1
        scan = _Scan(text, spans, start, end)
        scan.run(range(number, last))
        walk = _Walk(scan.broken, text)
        walk.run(scan.root)
        edits += [walk.edits.get(one, NO_EDITS) for one in range(number, last)]
        lost += walk.lost
        blanks += walk.blanks
        worded += walk.worded
        start, number = end + len("AND"), last
    return PromptEdits(tuple(edits), frozenset(lost), tuple(blanks), tuple(worded))


@dataclass
class _Group:
    """A bracket and its content; the group without an opener is the whole sub-prompt."""

    opener: str = ""
    start: int = 0
    end: int = 0
    cuts: list[tuple[str, int]] = field(default_factory=list)  # its own separators `:` and `|`, with their offsets
    inside: list[tuple[int, int | _Group]] = field(default_factory=list)  # (segment, place or group)
    kind: str = "stray"  # "switch", "turn", "emphasis"; "lost" if it looks like editing but is plain text
    when: re.Match[str] | None = None
    content: int = 0  # 0 nothing, 1 only white space, 2 words; without the last segment of a switch
    segment: int = 0  # the same for the current segment
    groups: int = 0  # number of groups in the current segment
    places: bool = False  # contains a place, directly or in an inner group

    def close(self, text: str, end: int) -> bool:
        """Set the end and the kind; return whether this is a valid bracket of the grammar."""
        self.end = end + 1
        signs = {sign for sign, _ in self.cuts}
        if self.opener == "(":
            self.kind = "emphasis"
            self.content = 2
            return not self.cuts or (signs == {":"} and len(self.cuts) == 1)
        if not signs:
            self.kind = "emphasis"
            self.content = 2
        elif signs == {"|"}:
            self.kind, self.content = "turn", max(self.content, self.segment)
        elif signs == {":"} and len(self.cuts) <= 2 and not self.groups:
            self.kind = "switch"
            self.when = _WHEN.fullmatch(text, self.cuts[-1][1] + 1, end)
            return self.when is not None
        else:
            return False
        return True

    def edit(self, segment: int) -> Edit | None:
        """Return the edit for this segment; None for the segment with the step, and for emphasis."""
        if self.kind == "turn":
            return EveryNth(segment, len(self.cuts) + 1)
        if self.kind == "switch" and self.when and segment < len(self.cuts):
            return Switch(segment == len(self.cuts) - 1, float(self.when[1]), "." in self.when[1])
        return None


class _Scan:
    """Builds the groups of one sub-prompt; `broken`: the web UI reads all of it as plain text."""

    def __init__(self, text: str, places: Sequence[int], start: int, end: int) -> None:
        self._text, self._places, self._start, self._end = text, places, start, end
        self.root = _Group()
        self.broken = False
        self._open = [self.root]
        self._at = start  # the text before this offset has been read

    def run(self, numbers: Sequence[int]) -> None:
        """Scan the whole sub-prompt, which contains the places with these indexes."""
        waiting = iter(numbers)
        place = next(waiting, None)
        for match in _TOKEN.finditer(self._text, self._start, self._end):
            while place is not None and self._places[place] <= match.start():
                self._put(place)
                place = next(waiting, None)
            self._words(match.start())
            self._token(match[0], match.start())
        while place is not None:
            self._put(place)
            place = next(waiting, None)
        self._clear()

    def _put(self, place: int) -> None:
        top = self._open[-1]
        top.inside.append((len(top.cuts), place))
        top.places = True

    def _words(self, end: int) -> None:
        """Record the plain text up to this offset."""
        if end > self._at:
            self._solid(1 if self._text[self._at : end].isspace() else 2)
            self._at = end

    def _solid(self, content: int) -> None:
        self._open[-1].segment = max(self._open[-1].segment, content)

    def _token(self, token: str, at: int) -> None:
        self._at = at + len(token)
        top = self._open[-1]
        if token[0] == "\\":
            self.broken |= len(token) == 1
            self._solid(2)
        elif token in "[(":
            self._open.append(_Group(token, at))
        elif token in ":|" and top is self.root:
            self.broken |= token == "|"
        elif token in ":|":
            top.cuts.append((token, at))
            top.content, top.segment, top.groups = max(top.content, top.segment), 0, 0
        elif top.opener == _OPENERS.get(token) and top.close(self._text, at):
            self._open.pop()
            self._attach(top)
            self._solid(top.content)
        else:
            self._clear()

    def _attach(self, group: _Group) -> None:
        above = self._open[-1]
        above.inside.append((len(above.cuts), group))
        above.groups += 1
        above.places |= group.places

    def _clear(self) -> None:
        """Turn all open brackets into plain text, because an invalid bracket was found inside them."""
        open_ = self._open[1:]
        signs = {sign for group in open_ for sign, _ in group.cuts}
        looks = any(group.opener == "[" for group in open_) and bool(signs)
        self.broken |= "|" in signs
        while len(self._open) > 1:
            group = self._open.pop()
            group.kind = "lost" if looks else "stray"
            self._attach(group)


class _Walk:
    """Collects the edits of each place from the groups around it."""

    def __init__(self, broken: bool, text: str) -> None:
        self._broken, self._text = broken, text
        self.edits: dict[int, Edits] = {}
        self.lost: list[int] = []
        self.blanks: list[tuple[int, int]] = []
        self.worded: list[tuple[int, int]] = []

    def run(self, root: _Group) -> None:
        """Walk the tree iteratively, because brackets may be nested deeper than Python's recursion limit."""
        todo: list[tuple[_Group, Edits, str]] = [(root, NO_EDITS, "")]
        while todo:
            group, edits, state = todo.pop()
            for segment, one in group.inside:
                edit = None if self._broken else group.edit(segment)
                below = edits if edit is None or edit in edits else edits | {edit}
                unread = edit is None and group.kind in ("switch", "turn")
                inner = "lost" if unread or group.kind == "lost" or state == "lost" else state
                if isinstance(one, int):
                    self.edits[one] = below
                    self.lost += [one] * (inner == "lost")
                else:
                    todo.append((one, below, self._marked(one, inner)))

    def _marked(self, group: _Group, state: str) -> str:
        """Record whether the group's text is blank or has words; return the state for its content."""
        edits = group.kind in ("switch", "turn") and not self._broken
        if not edits or not group.places or state not in ("", "worded"):
            return state
        if group.content == 0 or (group.content == 1 and self._has_space(group)):
            self.blanks.append((group.start, group.end))
            return "blank"
        self.worded += [(group.start, group.end)] * (not state)
        return "worded"

    def _has_space(self, group: _Group) -> bool:
        """True if white space or the text's edge is next to it, so that removing it does not join two words."""
        edges = self._text[max(0, group.start - 1) : group.start], self._text[group.end : group.end + 1]
        return any(not edge or edge.isspace() for edge in edges)
