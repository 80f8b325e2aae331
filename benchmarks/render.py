"""The results in Markdown: all of them for docs/numbers.md, a summary for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import library_listing, scheduled_strength, whole_model
from benchmarks.correctness import Verdict
from benchmarks.markdown import table
from benchmarks.peer_differences import faults_table
from benchmarks.sampling_seconds import Found
from benchmarks.whole_model import Row

NUMBERS, PEERS = "numbers", "peers"  # names of the blocks between markers in README.md and in docs/formats.md
COMMAND = "python -m benchmarks numbers"
WHO = {
    "lib_adapters": "lib_adapters",
    "built-in's way": "the method of the web UI's built-in Lora",
    "peft merge": "PEFT",
    "diffusers fuse_lora": "diffusers",
}
FAMILIES = {"sd1": "Stable Diffusion 1", "sdxl": "SDXL"}
Results = Mapping[str, Mapping[str, Any]]


def put(page: str, name: str, block: str) -> str:
    """Return the page with the text between the markers of this name replaced."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(start)
    after = rest.split(end)[1]
    return f"{before}{start}\n{block}{end}{after}"


def summary(found: Results) -> str:
    """Return the README's block: one image and the results in a few lines."""
    lines = _speed(found["whole"]) if "whole" in found else []
    lines += [_verdicts(_read(found, "correctness", Verdict))] if "correctness" in found else []
    lines += [f"Times: {_setting(found['whole'])}"] if "whole" in found else []
    lines += [f"All results are in [docs/numbers.md](docs/numbers.md), written by `{COMMAND}`."]
    return "![Time of a change of strength](docs/numbers/speed.png)\n\n" + "".join(f"- {line}\n" for line in lines)


def peers() -> str:
    """Return the block of docs/formats.md: deviations of other tools."""
    return f"{faults_table()}\n"


def numbers(found: Results, larger: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return docs/numbers.md; `larger`: measurements of further models by `python -m benchmarks whole --out`."""
    parts = [f"# Numbers\n\nWritten by `{COMMAND}` from numbers/results.json; do not edit."]
    if "whole" in found:
        rows = _read(found, "whole", Row)
        parts += ["## Speed and memory", _setting(found["whole"]), _WHOLE, "![speed](numbers/speed.png)"]
        parts += ["![memory](numbers/memory.png)", whole_model.markdown(rows)]
        for measured in larger:
            parts += [_setting({"about": measured}), whole_model.markdown([Row(**row) for row in measured["rows"]])]
    if "correctness" in found:
        parts += ["## Correctness", _CORRECTNESS, "![correctness](numbers/correctness.png)"]
        parts += [errors(verdicts := _read(found, "correctness", Verdict)), _refusals(verdicts)]
    if "live" in found:
        parts += ["## Strengths that change while sampling", _setting(found["live"])]
        parts += [scheduled_strength.tables(_read(found, "live", Found))]
    if "catalogue" in found:
        rows = _read(found, "catalogue", library_listing.Row)
        parts += ["## From a folder of files to cards", library_listing.table(rows)]
    return "\n\n".join(parts) + "\n"


_WHOLE = (
    "Every implementation in a process of its own, in turn; the file is in memory except *from disk*. × is to a clone"
    " of the touched weights into fresh memory, taken in the same process: median (least-most). Peak: the most memory"
    " of the process, × the touched weights. *built-in's way*: back up, compute ΔW, add, copy back."
)
_CORRECTNESS = (
    "Each kind of file on layers of a small UNet of diffusers, against its trainer's ΔW in float64 (the definitions are"
    " held against the trainers' own code in tests). The number is the largest relative error of what the layers give"
    " more than without: 0 is right, 100 % is as if nothing were applied. *not exact*: taken back, the weights are not"
    " what they were. PEFT has no reader for others' files: the factors were put into its layers by hand."
)


def _read(found: Results, part: str, kind: type[Any]) -> list[Any]:
    return [kind(**row) for row in found[part]["rows"]]


def _setting(part: Mapping[str, Any]) -> str:
    about = part["about"]
    peers = "".join(f", {name} {version}" for name, version in about.get("peers", {}).items())
    day = f"; {about['day']}" if "day" in about else ""
    family = FAMILIES.get(about["family"], about["family"])
    share = f", one layer in {about['one_layer_in']}" if about["one_layer_in"] > 1 else ""
    threads = "" if about["clock"] == "wall" else "one thread of "
    return (
        f"UNet of {family}{share}, rank {about['rank']}, {about['dtype']}, {threads}{about['device']},"
        f" {about['clock']} time, medians of {about['rounds']} rounds;"
        f" torch {about['torch']}{peers}{day}."
    )


def _speed(part: Mapping[str, Any]) -> list[str]:
    """Return lines about speed and memory, each with the range over all kinds of files."""
    rows = [Row(**row) for row in part["rows"]]
    times = [f"{title} {span}" for who, title in WHO.items() if (span := _span(rows, who, "strength"))]
    memory = [f"{title} {_memory(rows, who)}" for who, title in WHO.items() if any(row.who == who for row in rows)]
    return [
        f"Time of a change of strength, relative to a clone of the touched weights: {', '.join(times)}.",
        f"Memory 2 s after deactivation, relative to the touched weights: {', '.join(memory)}.",
    ]


def _span(rows: Sequence[Row], who: str, operation: str) -> str:
    found = [row.ratios[operation][0] for row in rows if row.who == who and operation in row.ratios]
    return f"{min(found):.2g} to {max(found):.2g}" if found else ""


def _memory(rows: Sequence[Row], who: str) -> str:
    return f"{max(row.after_off for row in rows if row.who == who):.1f}"


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    kinds, counts = {verdict.kind for verdict in verdicts}, []
    for who in dict.fromkeys(verdict.who for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.who == who]
        right, exact = sum(v.right for v in mine), sum(v.exact is True for v in mine)
        counts.append(f"{who.replace(',', '')} {right} / {exact}")
    return (
        f"Kinds of files, of {len(kinds)}, that are computed as their trainer does / restored bit for bit:"
        f" {', '.join(counts)}."
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
