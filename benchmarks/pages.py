"""The results in Markdown: all of them for NUMBERS.md, the most telling ones for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import catalogue, live, results
from benchmarks.correctness import Verdict
from benchmarks.faults import everything, in_short
from benchmarks.following import Found
from benchmarks.markdown import table
from benchmarks.results import Row

START, END = "<!-- numbers -->", "<!-- /numbers -->"
COMMAND = "python -m benchmarks numbers"
WHO = {
    "lib_adapters": "lib_adapters",
    "usual way": "usual way",
    "lycoris onfly_merge": "LyCORIS",
    "peft merge": "PEFT",
    "diffusers fuse_lora": "diffusers",
}
QUOTED = ("lora", "locon", "loha", "lokr", "dora-rows", "oft", "boft", "ia3")
FAMILIES = {"sd1": "Stable Diffusion 1", "sdxl": "SDXL"}
Results = Mapping[str, Mapping[str, Any]]


def put(readme: str, block: str) -> str:
    """The README with what is between its markers replaced."""
    before, rest = readme.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n{block}{END}{after}"


def block(found: Results) -> str:
    """For the README."""
    parts = [
        f"## Numbers\n\nWritten by `{COMMAND}`; all tables and pictures are in"
        " [benchmarks/NUMBERS.md](benchmarks/NUMBERS.md).",
        *([_speed(found["apply"])] if "apply" in found else []),
        *([_verdicts(_read(found, "correctness", Verdict))] if "correctness" in found else []),
        *([_listing(_read(found, "catalogue", catalogue.Row))] if "catalogue" in found else []),
        "What peers get wrong, each shown by a test in which ours is right:\n\n" + in_short(),
    ]
    return "\n\n".join(parts) + "\n"


def numbers(found: Results) -> str:
    """NUMBERS.md."""
    parts = [f"# Numbers\n\nWritten by `{COMMAND}` from numbers/results.json; do not edit."]
    if "apply" in found:
        rows = _read(found, "apply", Row)
        parts += ["## Speed and memory", _setting(found["apply"]), "![speed](numbers/speed.png)"]
        parts += ["![memory](numbers/memory.png)", f"{results.head()}\n{results.body(rows)}"]
    if "correctness" in found:
        parts += ["## Correctness", _CORRECTNESS, "![correctness](numbers/correctness.png)"]
        parts += [errors(verdicts := _read(found, "correctness", Verdict)), _refusals(verdicts)]
    if "live" in found:
        parts += ["## Strengths that change while sampling", _setting(found["live"])]
        parts += [live.tables(_read(found, "live", Found))]
    if "catalogue" in found:
        parts += ["## From a folder of files to cards", catalogue.table(_read(found, "catalogue", catalogue.Row))]
    return "\n\n".join([*parts, "## What each peer gets wrong", _FAULTS, everything()]) + "\n"


_CORRECTNESS = (
    "Each kind of file on layers of a small UNet of diffusers, against its trainer's ΔW in float64 (the definitions are"
    " held against the trainers' own code in tests). The number is the largest relative error of what the layers give"
    " more than without: 0 is right, 100 % is as if nothing were applied. *not exact*: taken back, the weights are not"
    " what they were. PEFT has no reader for others' files: the factors were put into its layers by hand."
)
_FAULTS = (
    "Releases are those that the test was run with. Peers that are not on PyPI were read, not run; the place in their"
    " source is named instead."
)


def _read(found: Results, part: str, kind: type[Any]) -> list[Any]:
    return [kind(**row) for row in found[part]["rows"]]


def _setting(part: Mapping[str, Any]) -> str:
    about = part["about"]
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    family = FAMILIES.get(about["family"], about["family"])
    share = f", one layer in {about['one_layer_in']}" if about["one_layer_in"] > 1 else ""
    return (
        f"UNet of {family}{share}, rank {about['rank']}, {about['dtype']}, one thread of {about['device']},"
        f" {about['clock']} seconds, medians of {about['rounds']} pairs;"
        f" torch {about['torch']}, {peers}; {about['day']}."
    )


def _speed(part: Mapping[str, Any]) -> str:
    """Apply and take back; a peer whose weights do not come back has a cross."""
    rows = [Row(**row) for row in part["rows"]]
    by_name = {(row.algorithm, row.contender): row for row in rows}
    algorithms = [name for name in QUOTED if (name, "lib_adapters") in by_name]
    lines = [["apply and take back ×", *WHO.values()]]
    lines += [[name, *(_back(by_name.get((name, who))) for who in WHO)] for name in algorithms]
    ours = [by_name[name, "lib_adapters"].ratios for name in algorithms]
    change = ", ".join(
        f"{what} {min(r[key] for r in ours):.2g} to {max(r[key] for r in ours):.2g}" for what, key in _MORE
    )
    return (
        f"{_setting(part)} × is to the limit: reading and writing the touched weights once. *no*: they do not come back"
        f" bit for bit. The usual way: back up, compute ΔW, add, copy back.\n\n{table(lines)}\n\n"
        f"Ours again: {change} ×. {_memory(rows)}"
    )


def _memory(rows: Sequence[Row]) -> str:
    spans = []
    for who, name in WHO.items():
        most = [max(row.peak_bytes or 0, row.kept_bytes) / row.touched_bytes for row in rows if row.contender == who]
        spans += [f"{name} {min(most):.1f} to {max(most):.1f}"] if most else []
    return (
        f"Most memory while applying, × the touched weights: {', '.join(spans)}; LyCORIS (on the CPU), PEFT and"
        " diffusers keep no original to give back."
    )


_MORE = (("another strength", "strength"), ("another file", "switch"), ("nothing changed", "again"))


def _back(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.ratios['apply'] + row.ratios['restore']:.2f}" + ("" if row.restores_exactly else " *no*")


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    kinds, texts = {verdict.kind for verdict in verdicts}, []
    for who in dict.fromkeys(verdict.who for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.who == who]
        right, wrong = sum(v.right for v in mine), sum(v.error is not None and not v.right for v in mine)
        back = sum(v.exact is True for v in mine)
        texts.append(f"{who.replace(', ', ' ')} **{right}**, {wrong}, {len(mine) - right - wrong}, {back}")
    return (
        f"{len(kinds)} kinds of files against their trainers' definition in float64: how many are **right**, wrong, not"
        f" read, and given back bit for bit: {'; '.join(texts)}."
    )


def _listing(rows: Sequence[catalogue.Row]) -> str:
    cold, warm = (next(row for row in rows if row.what.startswith(word)) for word in ("first", "index"))
    return (
        f"A folder's first index takes {cold.header_reads:.1f} × plainly reading every header, the next ones"
        f" {warm.walks:.1f} × looking at the files' dates."
    )


def errors(verdicts: Sequence[Verdict]) -> str:
    who = list(dict.fromkeys(verdict.who for verdict in verdicts))
    by_name = {(verdict.kind, verdict.who): verdict for verdict in verdicts}
    rows = [["kind of file", *who]]
    for kind in dict.fromkeys(verdict.kind for verdict in verdicts):
        rows.append([kind, *(_error(by_name[kind, name]) for name in who)])
    return table(rows)


def _error(verdict: Verdict) -> str:
    if verdict.error is None:
        return "not read"
    text = f"{verdict.error:.0e}" if verdict.right else f"**{verdict.error:.0%} off**"
    return text if verdict.exact else f"{text}, not exact"


def _refusals(verdicts: Iterable[Verdict]) -> str:
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.error is None:
            peer = verdict.who.split(",")[0]
            reasons.setdefault((peer, verdict.refused), {})[verdict.kind] = None
    return "\n".join(f"- {who} does not read {'; '.join(kinds)}: `{why}`" for (who, why), kinds in reasons.items())
