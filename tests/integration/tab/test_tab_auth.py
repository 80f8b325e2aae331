"""Who may ask the tab's routes, and what the page is given to ask with."""

from __future__ import annotations

import json

import pytest

from lib_adapters.hosts.tab.auth import auth_dependencies
from lib_adapters.hosts.tab.shell import shell
from tests.integration.tab.test_tab_routes import API, PNG, Shelf, client_of, tab_of


@pytest.fixture
def shelf(tmp_path):
    picture = tmp_path / "ink.png"
    picture.write_bytes(PNG)
    return Shelf(picture)


def test_behind_a_log_in_the_page_has_its_key_and_programs_have_passwords(shelf):
    client = client_of(shelf, auth_dependencies("secret", [("ann", "pass:word"), ("bob", "x")]))
    assert client.get(f"{API}/cards").status_code == 401
    assert "www-authenticate" in client.get(f"{API}/cards").headers
    stale = client.get(f"{API}/cards", headers={"X-Lycoris-Key": "wrong"})
    assert stale.status_code == 401
    assert "www-authenticate" not in stale.headers
    assert client.get(f"{API}/cards", auth=("ann", "x")).status_code == 401
    assert client.post(f"{API}/cards/1/star", json={"on": True}).status_code == 401
    assert not shelf.asked
    assert client.get(f"{API}/cards", headers={"X-Lycoris-Key": "secret"}).status_code == 200
    assert client.get(f"{API}/cards/1/thumb?key=secret").status_code == 200
    assert client.get(f"{API}/cards", auth=("ann", "pass:word")).status_code == 200


def test_another_sites_page_cannot_write(shelf):
    """Its browser sends where it comes from; programs send nothing, and the page behind a proxy has its key."""
    client = client_of(shelf, auth_dependencies("secret", []))
    star, on = f"{API}/cards/1/star", {"on": True}
    assert client.get(f"{API}/cards").status_code == 200
    assert client.post(star, json=on).status_code == 200
    assert client.post(star, json=on, headers={"Origin": "http://testserver"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://testserver.evil.example", "http://[", ""):
        assert client.post(star, json=on, headers={"Origin": origin}).status_code == 403, origin
    key = {"Origin": "https://tunnel.example", "X-Lycoris-Key": "secret"}
    assert client.post(star, json=on, headers=key).status_code == 200


def test_the_shell_escapes_what_it_is_given(shelf):
    text = shell(tab_of(shelf), prompts=['#a "x" > textarea'], negatives=[], gallery="#g", name="<b>'")
    assert text.count("<") == 4
    assert 'data-name="&lt;b&gt;&#x27;"' in text
    assert json.dumps(['#a "x" > textarea']).replace('"', "&quot;").replace(">", "&gt;") in text
    assert 'data-key="secret"' in text
