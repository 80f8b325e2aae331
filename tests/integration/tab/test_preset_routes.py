"""The routes of the panel: presets in and out, the last report, and a sentence for what cannot be saved."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_adapters.hosts.tab.auth import auth_dependencies
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.report_json import report_json
from lib_adapters.hosts.tab.routes import add_routes
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile
from lib_adapters.patching.report import AdapterReport, Report

API = "/lycoris/api"


def client_of(place, passwords=()):
    nothing: Any = None
    tab = TabBackend(
        library=nothing,
        dependencies=auth_dependencies("secret", passwords),
        model=lambda: ("", ""),
        folders=list,
        rescan=lambda: None,
        key="secret",
        presets=PresetFile(place / PRESET_FILE_NAME),
        report=lambda: {"lines": ["ink: 3 of 3"]},
    )
    app = FastAPI()
    add_routes(app, tab)
    return TestClient(app)


@pytest.fixture
def client(tmp_path):
    return client_of(tmp_path)


def test_presets_are_listed_saved_and_told_of(client, tmp_path):
    listed = client.get(f"{API}/presets").json()
    assert {"name": "OUTS", "text": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1", "own": False} in listed["presets"]
    assert (listed["layouts"]["sdxl"], listed["problems"]) == (listed["lists"]["20"], [])
    given = {"presets": [{"name": " mine ", "text": "IN05:0.5"}], "elements": [{"name": "soft", "text": ":attn:0.5"}]}
    saved = client.post(f"{API}/presets", json=given).json()
    assert {"name": "mine", "text": "IN05:0.5", "own": True} in saved["presets"]
    assert (tmp_path / PRESET_FILE_NAME).read_text("utf-8") == "mine:IN05:0.5\n[lbwe]\nsoft::attn:0.5\n"
    assert client.get(f"{API}/presets").json() == saved
    assert saved["path"] == str(tmp_path / PRESET_FILE_NAME)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"presets": [{"name": "bad", "text": "1,2"}], "elements": []}, "bad"),
        ({"presets": [], "elements": [{"name": "bad", "text": "IN05:attn"}]}, "bad"),
        (
            {"presets": [{"name": "a", "text": "IN05"}, {"name": "a ", "text": "MID"}], "elements": []},
            "a is there twice",
        ),
        ({"presets": [{"name": "long", "text": "IN05," * 9999}], "elements": []}, "long"),
        ({"presets": [{"name": "half \ud83d", "text": "IN05:0.5"}], "elements": []}, "half"),
        ({"presets": [], "elements": [{"name": "half", "text": "IN05:\ud83d:0.5"}]}, "half"),
        ({"presets": [{"name": 1, "text": "IN05"}], "elements": []}, "presets"),
        ({"presets": [1], "elements": []}, "presets"),
        ({"presets": []}, "elements"),
        ({}, "presets"),
    ],
)
def test_a_preset_that_cannot_be_saved_is_named(client, tmp_path, given, named):
    answer = client.post(f"{API}/presets", json=given)
    assert answer.status_code == 422
    assert named in answer.json()["error"]
    assert not (tmp_path / PRESET_FILE_NAME).exists()


def test_the_last_report(client):
    assert client.get(f"{API}/report").json() == {"lines": ["ink: 3 of 3"]}


def test_only_who_may_ask_is_answered(tmp_path):
    client = client_of(tmp_path, [("ann", "word")])
    for path in ("presets", "report"):
        assert client.get(f"{API}/{path}").status_code == 401
        assert client.get(f"{API}/{path}", headers={"X-Lycoris-Key": "secret"}).status_code == 200
    given = {"presets": [{"name": "mine", "text": "IN05:0.5"}], "elements": []}
    assert client.post(f"{API}/presets", json=given).status_code == 401
    foreign = {"Origin": "http://evil.example"}
    assert client_of(tmp_path).post(f"{API}/presets", json=given, headers=foreign).status_code == 403
    assert not (tmp_path / PRESET_FILE_NAME).exists()


def test_a_report_is_fit_to_be_sent():
    row = AdapterReport("ink \ud83d", 1.0, 1.0, seconds=float("nan"))
    told = report_json(Report([row]), ["line \ud83d"], ["problem \udcff"])
    json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    assert told["lines"] == ["line ?"]
