"""Who may ask which route of the running app: passwords, other sites' pages, and what reading changes."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from tests.fake_webui.sample_files import put
from tests.support.concurrent_clients import served
from tests.support.http_client import NOT_JSON, OF_THE_WEBUI, ask, filled, indexed, tree
from tests.support.sample_library import picture, sidecar

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture
def files(webui):
    ink = put(webui).path
    ink.with_suffix(".png").write_bytes(picture())
    sidecar(ink, {"notes": "n"})
    return ink


def without(webui, setting):
    """The web UI with a password of one kind."""
    if setting == "api_auth":
        webui.shared.cmd_opts.api_auth = "ann:pass:word,bob:x"
    else:
        webui._module("initialize_util", get_gradio_auth_creds=lambda: iter([("ann", "pass:word")]))
    webui.load_scripts()


@pytest.mark.parametrize("setting", ["api_auth", "gradio_auth"])
def test_every_route_asks_for_the_password(webui, files, setting, tried):
    without(webui, setting)
    inputs = tried("security", "requests without the right password")
    right = {"Authorization": "Basic " + base64.b64encode(b"ann:pass:word").decode()}
    wrong = [b"ann:pass", b"ann:", b":", b"bob:pass:word", b"ANN:pass:word", b"\xff:\xff", b"ann", b"ann:pass:word\0"]
    headers = [{}, {"Authorization": "Basic"}, {"Authorization": "Basic !!"}, {"Authorization": "Bearer x"}]
    headers += [{"Authorization": "Basic " + base64.b64encode(one).decode()} for one in wrong]
    headers += [{"X_Lycoris_Key": text} for text in ("", "x", "null", "é", "k" * 5000)]
    before = tree(webui.folder)
    with served(webui.app.real()) as address:
        for (method, path), body in OF_THE_WEBUI.items():
            for given in headers:
                status, content = ask(address, method, f"{filled(path, '1')}?key={quote('é')}", body, **given)
                inputs.add()
                assert status == 401, (method, path, given)
                assert b"ink" not in content
        assert tree(webui.folder) == before
        for (method, path), body in OF_THE_WEBUI.items():
            assert ask(address, method, filled(path, "1"), body, **right)[0] in (200, 404), path


def test_another_sites_page_changes_nothing(webui, files, tried):
    """By a form, by a script, from a sandbox, from a name that looks like ours: no method that writes is open to it."""
    inputs = tried("security", "requests of other sites' pages")
    with served(webui.app.real()) as address:
        card = indexed(webui, address)
        before, host = tree(webui.folder), f"{address[0]}:{address[1]}"
        origins = [
            "http://evil.example",
            "null",
            "",
            f"http://{host}.evil.example",
            f"http://evil.example/{host}",
            "http://[",
        ]
        origins += [f"http://{address[0]}", f"http://{address[0]}:1", "file://", "http://\xff", f"http://user@{host}"]
        for (method, path), body in OF_THE_WEBUI.items():
            for origin in origins if method != "GET" else ():
                assert ask(address, method, filled(path, card), body, Origin=origin)[0] == 403, (path, origin)
                inputs.add()
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                if method != "GET" and (method, path) not in NOT_JSON:
                    content = json.dumps(body).encode()
                    status, _ = ask(address, method, filled(path, card), content, Content_Type=kind)
                    inputs.add()
                    assert status in (400, 422), (path, kind)
        assert tree(webui.folder) == before
        for (method, path), body in OF_THE_WEBUI.items():
            assert ask(address, method, filled(path, card), body, Origin=f"http://{host}")[0] == 200, path


def test_reading_changes_nothing(webui, files, tmp_path, tried):
    inputs = tried("security", "reading routes")
    with served(webui.app.real()) as address:
        card = indexed(webui, address)
        version = json.loads(ask(address, "GET", "/lycoris/api/cards")[1])["version"]
        before = tree(tmp_path)
        for (method, path), _ in OF_THE_WEBUI.items():
            if method == "GET":
                inputs.add()
                assert ask(address, "GET", filled(path, card))[0] == 200, path
        assert tree(tmp_path) == before
        assert json.loads(ask(address, "GET", "/lycoris/api/cards")[1])["version"] == version
