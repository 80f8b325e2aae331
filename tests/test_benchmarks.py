"""The benchmark runs and says what it promises; how fast anything was is not asserted."""

from __future__ import annotations

import json
from itertools import chain

import pytest
import torch

from benchmarks import apply, catalogue, live, results
from benchmarks.case import Setting
from benchmarks.layers import unet
from benchmarks.recipes import RECIPES

OURS = {"apply", "again", "strength", "switch", "restore", "cold"}


@pytest.fixture(scope="module")
def setting():
    return Setting("tiny", 4, torch.device("cpu"), torch.float32, 12, processor_time=False)


@pytest.fixture
def alone(monkeypatch):
    """Without the peers: importing them takes longer than everything else."""
    monkeypatch.setattr("benchmarks.peers._has", lambda package: False)


@pytest.mark.usefixtures("alone")
def test_every_algorithm_is_measured_and_computed_alike(setting, tmp_path):
    rows = list(chain(*apply.run(setting, list(RECIPES), 1)))
    apply.save(rows, setting, 1, tmp_path)
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())
    assert {"family", "rank", "dtype", "device", "clock", "torch", "rounds"} <= found.keys()
    ours = {row["algorithm"]: row for row in found["rows"] if row["contender"] == "lib_adapters"}
    assert ours.keys() == RECIPES.keys()
    for row in ours.values():
        assert row["seconds"].keys() == row["ratios"].keys() == OURS
        assert row["restores_exactly"]
        assert row["difference"] < 1e-4  # from the plain way
        assert row["layers"] > 0
        assert row["touched_bytes"] <= row["kept_bytes"] < 1.05 * row["touched_bytes"] + 100_000


@pytest.mark.usefixtures("alone")
def test_table_and_chart_show_every_row(setting, tmp_path):
    (rows,) = apply.run(setting, ["lora"], 1)
    apply.save(rows, setting, 1, tmp_path)
    (chart,) = tmp_path.glob("*.svg")
    assert chart.read_text().count(">lora<") == 1
    assert results.body(rows).count("| lora |") == 3


@pytest.mark.parametrize(("family", "parameters"), [("sd1", 859_000_000), ("sdxl", 2_567_000_000)])
def test_layers_are_those_of_the_real_model(family, parameters):
    """All weights but those of time and class embeddings, biases and the first and last convolution."""
    total = sum(torch.Size(shape).numel() for shape in unet(family).values())
    assert total == pytest.approx(parameters, rel=0.01)


def test_the_catalogue_beside_just_looking(tmp_path):
    rows = catalogue.run(60, 4, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert [row.what for row in rows][2:] == ["first index", "index, nothing changed", "all cards as JSON"]
    assert all(row.seconds > 0 and row.walks == pytest.approx(row.seconds / rows[0].seconds) for row in rows)
    catalogue.save(rows, 60, 4, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "catalogue-60x4.json").read_text())["rows"][0]["walks"] == 1.0
    assert catalogue.table(rows).count("\n") == 6


def test_following_a_strength_in_each_way(setting, tmp_path):
    found = list(live.run(setting, 16, ["2 lokr", "dora"], 1))
    live.save(found, setting, 16, 1, tmp_path)
    (file,) = tmp_path.glob("live-*.json")
    kept = json.loads(file.read_text())
    assert kept["size"] == 16
    for one in kept["found"]:
        ways = {f"{way} {what}" for way in ("merged", "live", "auto") for what in ("first", "change", "more", "run")}
        assert ways | {"clone", "plain run", "rows run", "late change"} <= one["seconds"].keys()
        assert one["layers"] > 0
    for one in found:
        assert live.ramp(one).keys() == live.late(one).keys() == {"merged", "live", "auto", "choice"}
    assert live.tables(found).count("| dora |") == 6
