"""The benchmark runs and says what it promises; how fast anything was is not asserted."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import apply_profile, library_listing, many_adapters, scheduled_strength, whole_model
from benchmarks.adapter_case import Setting, make_case, touched
from benchmarks.implementations import Ours, Usual
from benchmarks.model_layers import unet
from benchmarks.synthetic_adapters import RECIPES
from lib_adapters import Request, Session, open_adapter
from tests.browser.conftest import chrome  # noqa: F401 - a fixture

OURS = {"apply", "strength", "switch", "restore", "cold"}


@pytest.fixture(scope="module")
def setting():
    return Setting("tiny", 4, torch.device("cpu"), torch.float32, 12, processor_time=False)


@pytest.fixture
def alone(monkeypatch):
    """Without the peers: importing them takes longer than everything else."""
    monkeypatch.setattr("benchmarks.peer_implementations._has", lambda package: False)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_timed_computes_the_same(setting, tmp_path, name):
    case = make_case(name, setting, tmp_path)
    ours, builtin = Ours(case, case.copy()), Usual(case, case.copy())
    own = {path: weight.data.clone() for path, weight in ours.weights.items()}
    ours.operations()["apply"]()
    builtin.operations()["apply"]()
    for path, weight in ours.weights.items():
        wanted = builtin.weights[path].data
        assert float((weight.data - wanted).norm()) <= 1e-4 * float((wanted - own[path]).norm())
    ours.operations()["restore"]()
    assert all(torch.equal(weight.data, own[path]) for path, weight in ours.weights.items())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("who", ["lib_adapters", "built-in's way"])
def test_a_process_measures_each_operation_and_its_memory(setting, tmp_path, monkeypatch, who):
    monkeypatch.setattr(whole_model, "SETTLED", 0.0)
    jobs = whole_model._jobs("lora", setting, touched(RECIPES["lora"], setting), tmp_path)
    job = next(one for one in jobs if one.who == who)
    found = whole_model.measure(job)
    assert found.seconds.keys() == found.peak.keys() == OURS - ({"cold"} if who != "lib_adapters" else set())
    assert found.touched == sum(4 * math.prod(shape) for shape in job.shapes.values())
    assert found.exact
    assert min(found.clone, found.copy, *found.seconds.values()) > 0


def test_every_round_runs_everybody_in_another_order(setting, monkeypatch):
    asked = []

    def child(job):
        asked.append(job.who)
        if job.who == "peft merge":
            return None  # it cannot load the file
        n = len(asked)
        return whole_model.Sample(2.0, 0.5, 100, {"apply": 4.0 * n}, {"apply": 150, "cold": 900}, 10, n != 3)

    monkeypatch.setattr(whole_model, "_in_child", child)
    monkeypatch.setattr("benchmarks.peer_implementations._has", lambda package: package == "peft")
    ours, builtin = whole_model.run(setting, ["lora"], 2)
    assert asked == ["lib_adapters", "built-in's way", "peft merge", "built-in's way", "peft merge", "lib_adapters"]
    assert (ours.who, ours.ratios, ours.peak, ours.after_off) == ("lib_adapters", {"apply": (7.0, 2.0, 12.0)}, 1.5, 0.1)
    assert (builtin.who, builtin.ratios, builtin.exact) == ("built-in's way", {"apply": (6.0, 4.0, 8.0)}, True)
    lines = whole_model.markdown([ours, builtin]).splitlines()
    assert len(lines) == 4
    assert "| tiny | lora | lib_adapters | 7 (2-12) |" in lines[2]


def test_a_large_model_is_measured_in_groups(setting, monkeypatch):
    monkeypatch.setattr(whole_model, "GROUP_BYTES", 1 << 16)
    groups, layers = whole_model._groups("locon", setting), touched(RECIPES["locon"], setting)
    assert len(groups) > 1
    assert [path for group in groups for path in group] == list(layers)
    for group in groups:
        assert len(group) == 1 or sum(4 * math.prod(shape) for shape in group.values()) <= 1 << 16
    small = whole_model.Sample(1.0, 0.1, 100, {"apply": 2.0}, {"apply": 50}, 0, True)
    large = whole_model.Sample(3.0, 0.3, 300, {"apply": 5.0}, {"apply": 300}, 30, False)
    found = whole_model._sum([small, large])
    assert (found.clone, found.touched, found.seconds, found.exact) == (4.0, 400, {"apply": 7.0}, False)
    assert (found.peak, found.after_off) == ({"apply": 400}, 40)  # as if all layers were in memory at once


def test_a_peer_that_cannot_load_a_file_is_left_out(setting, tmp_path, monkeypatch):
    job = whole_model._jobs("lora", setting, touched(RECIPES["lora"], setting), tmp_path)[0]
    sent = []
    monkeypatch.setattr(whole_model, "measure", lambda job: (_ for _ in ()).throw(TypeError("no such rank")))
    whole_model._send(job, SimpleNamespace(send=sent.append))
    assert sent == ["no such rank"]


@pytest.mark.slow
def test_a_child_process_answers(setting, tmp_path):
    job = whole_model._jobs("ia3", setting, touched(RECIPES["ia3"], setting), tmp_path)[0]
    found = whole_model._in_child(job)
    assert found is not None
    assert found.exact
    assert found.seconds.keys() == OURS


def test_a_profile_names_where_all_the_time_goes(setting):
    lines = apply_profile.table_of(setting, "lora").splitlines()
    for column in (2, 3):
        shares = [
            float(line.split("|")[column].strip().rstrip("%")) for line in lines[2 : 3 + len(apply_profile.PARTS)]
        ]
        assert sum(shares) == pytest.approx(100, abs=len(shares))
        assert min(shares) >= 0
    assert "GFlop/s" in lines[-1]


def test_no_part_of_a_profile_is_in_another(setting, tmp_path):
    """Else its time would be counted twice."""
    known = {place for functions in apply_profile.PARTS.values() for place in functions}
    open_parts, met = [], set()

    def note(frame, event, _):
        place = Path(frame.f_code.co_filename).name, frame.f_code.co_name
        if place in known and "lib_adapters" in frame.f_code.co_filename and event in ("call", "return"):
            if event == "return":
                open_parts.pop()
                return
            assert open_parts in ([], [place]), (place, open_parts)
            open_parts.append(place)
            met.add(place)

    case = make_case("lora", setting, tmp_path)
    sys.setprofile(note)
    try:
        with Session(unet=case.model) as session:
            session.activate([Request(open_adapter(case.files[0]))])
            session.activate([Request(open_adapter(case.files[0]), unet=0.5)])
    finally:
        sys.setprofile(None)
    assert known - met == {("merge.py", "merged_bias")}  # the file has no biases


def test_scale_reports_every_tenth_switch(setting, monkeypatch):
    monkeypatch.setattr(many_adapters, "ADAPTERS", 10)
    table = many_adapters.table_of(setting)
    assert [number for number in range(60) if f"| switch {number} |" in table] == [10, 20, 30, 40, 50]
    assert table.count("one strength changed") == 4


@pytest.mark.parametrize(("family", "parameters"), [("sd1", 859_000_000), ("sdxl", 2_567_000_000)])
def test_layers_are_those_of_the_real_model(family, parameters):
    """All weights but those of time and class embeddings, biases and the first and last convolution."""
    total = sum(torch.Size(shape).numel() for shape in unet(family).values())
    assert total == pytest.approx(parameters, rel=0.01)


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listing")
    rows = library_listing.run(60, 4, folder)
    assert list(folder.iterdir()) == []
    return rows


@pytest.mark.slow
def test_the_catalogue_beside_just_looking(listing, tmp_path):
    rows = listing
    listed = ["index, nothing changed", "index, 60 files changed", "all cards as JSON", "first window of cards"]
    assert [row.what for row in rows][2:8] == ["first index", *listed, "one card's details"]
    assert all(row.seconds > 0 and row.walks == pytest.approx(row.seconds / rows[0].seconds) for row in rows)
    library_listing.save(rows, 60, 4, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "catalogue-60x4.json").read_text())["rows"][0]["walks"] == 1.0
    assert library_listing.table(rows).count("\n") == len(rows) + 1


@pytest.mark.usefixtures("chrome")
def test_the_page_of_the_catalogue_in_a_browser(listing):
    rows = {row.what: row for row in listing}
    assert rows["page: all cards known"].counted.startswith("1 answers, 0.0")
    assert rows["page: first key of a search"].counted == "5 adapters"
    assert rows["page: slowest frame of a scroll to the end"].processor is None


def test_following_a_strength_in_each_way(setting, tmp_path):
    found = list(scheduled_strength.run(setting, 16, ["2 lokr", "dora"], 1))
    scheduled_strength.save(found, setting, 16, 1, tmp_path)
    (file,) = tmp_path.glob("live-*.json")
    kept = json.loads(file.read_text())
    assert kept["size"] == 16
    for one in kept["found"]:
        ways = {f"{way} {what}" for way in ("merged", "live", "auto") for what in ("first", "change", "more", "run")}
        assert ways | {"clone", "plain run", "rows run", "late change"} <= one["seconds"].keys()
        assert one["layers"] > 0
    for one in found:
        assert (
            scheduled_strength.ramp(one).keys()
            == scheduled_strength.late(one).keys()
            == {"merged", "live", "auto", "choice"}
        )
    assert scheduled_strength.tables(found).count("| dora |") == 6
