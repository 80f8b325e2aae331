"""Reports as JSON for the page and for API clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from lib_adapters.library.details import json_safe
from lib_adapters.patching.report import AdapterReport, Report


def report_json(
    report: Report, lines: Sequence[str], problems: Sequence[str], more: Iterable[AdapterReport] = ()
) -> dict[str, Any]:
    """`more`: what was done by something else than the session, such as hypernetworks."""
    table = json_safe(
        {
            "lines": list(lines),
            "problems": list(problems),
            "mode": report.mode,
            "seconds": report.seconds,
            "adapters": [_row(one, report.mode) for one in (*report.adapters, *more)],
        }
    )
    assert isinstance(table, dict)
    return table


def _row(one: AdapterReport, mode: str) -> dict[str, Any]:
    fields = dataclasses.asdict(one)
    fields["silenced"] = fields.pop("disabled_by_blocks")  # the names that clients of the API know
    return {"mode": mode, **fields, "line": one.summary()}
