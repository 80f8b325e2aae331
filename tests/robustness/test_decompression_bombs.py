"""Files that become large when they are read: as the tab meets them, each in a process of its own, none costs much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL")

MOST_MB = 600  # beside what Python and torch take; the largest of the files has 95
LONGEST = 400_000  # letters that a page is sent about one file, and what an index of it has


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be copied here")
@pytest.mark.parametrize("kind", ["pickle", "header", "picture"])
def test_no_bomb_goes_off(kind, tmp_path, tried):
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.decompression_bombs", str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | paths)
    assert done.returncode == 0, done.stderr[-2000:]
    bombs = json.loads(done.stdout)
    files = tried("security", "files that would become large")
    files.add(len(bombs))
    went_off = [one for one in bombs if one["failed"] or one["more_mb"] > MOST_MB or one["size"] > LONGEST]
    files.fail(len(went_off))
    assert went_off == []
    assert len(bombs) > 10
