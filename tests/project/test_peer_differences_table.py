"""Every row of the table of other tools' deviations has a test where possible, and every such test has a row."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.peer_differences import FAULTS

ORACLE = Path(__file__).parents[1] / "oracle"


def test_every_row_has_its_test_and_every_test_its_row():
    written = [
        name
        for path in ORACLE.glob("test_*_differences.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(written) == sorted(fault.test for fault in FAULTS if fault.test)


def test_a_row_without_a_test_says_where_it_was_read():
    assert all(bool(fault.test) != bool(fault.source) for fault in FAULTS)
    assert all(fault.releases and fault.what for fault in FAULTS)


def test_what_is_on_pypi_is_run_and_not_only_read():
    assert {fault.peer for fault in FAULTS if fault.test} == {"LyCORIS", "PEFT", "diffusers"}
    assert not {fault.peer for fault in FAULTS if fault.source} & {"LyCORIS", "PEFT", "diffusers"}
