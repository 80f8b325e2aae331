"""Every route of both hosts, taken from the running app itself: what no request may reach."""

from __future__ import annotations

import json
from contextlib import ExitStack
from urllib.parse import quote

import pytest

from tests.fake_webui.sample_files import put
from tests.support.concurrent_clients import served
from tests.support.http_client import OF_THE_PAGE, OF_THE_WEBUI, ask, everything, filled, indexed, routes_of, tree
from tests.support.sample_library import adapter, picture, sidecar

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

SECRET = "the-canary-that-no-answer-holds"
STEPS = ("..", "../..", "../../..", "../../../..", "../../../../..")


def hostile(secret):
    """Ways to write the path of a file that is not asked for."""
    tail = str(secret).lstrip("/")
    plain = [f"{step}/{secret.name}" for step in STEPS] + [f"{step}/{tail}" for step in STEPS]
    plain += [str(secret), f"/{secret}", f"file://{secret}", f"C:{secret}", f"C:\\{tail}", f"\\\\?\\{tail}"]
    plain += [f"\\\\127.0.0.1\\c$\\{tail}", f"//127.0.0.1/{tail}", f"....//....//{tail}", f"..;/{tail}", f"~/{tail}"]
    plain += [f"{secret}\0.png", f"1\0{secret}", f"1\n{secret}", f"1\r\nX: {secret}", "CON", "NUL.png", "con\0", "."]
    plain += [text.replace("/", "\\") for text in plain] + [
        "\u2024\u2024/\u2215etc",
        "\uff0e\uff0e\uff0f",
        "%c0%ae%c0%ae/",
    ]
    once = [quote(text, safe="") for text in plain]
    return [*(quote(text, safe="/\\:;.~") for text in plain), *once, *(quote(text, safe="") for text in once)]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture
def files(webui):
    ink = put(webui).path
    ink.with_suffix(".png").write_bytes(picture())
    sidecar(ink, {"notes": "n"})
    return ink


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("gradio")
    from lib_adapters.app import main
    from lib_adapters.app.page import application

    with ExitStack() as stack:
        out = tmp_path_factory.mktemp("page")
        given = main.parser().parse_args(["page", "--no-browser", "--out", str(out)])
        yield application.application(given, stack, "http://127.0.0.1:1/")


def test_every_route_is_known(webui, page):
    assert routes_of(webui.app.real()) == OF_THE_WEBUI.keys()
    assert routes_of(page) == OF_THE_PAGE.keys()


@pytest.mark.slow
def test_no_path_leads_out_of_the_folders(webui, files, secret, tmp_path, tried):
    before, inputs = tree(tmp_path), tried("security", "hostile paths at routes")
    ways = hostile(secret)
    with served(webui.app.real()) as address:
        indexed(webui, address)
        for (method, path), body in OF_THE_WEBUI.items():
            for way in ways if "{" in path else ():
                status, content = ask(address, method, filled(path, way), body)
                inputs.add()
                assert status in (307, 404, 405, 422), (method, path, way)
                assert SECRET.encode() not in content
            for way in ways[::3] if method == "GET" else ():
                status, content = ask(
                    address, method, f"{filled(path, '1')}?since={way}&v={way}&metadata={way}&key={way}"
                )
                inputs.add()
                assert status in (200, 404, 422), (path, way)
                assert SECRET.encode() not in content
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_the_page_gives_no_other_file(page, secret, tried):
    """Of gradio's routes too, whatever this release has of them."""
    inputs = tried("security", "hostile paths at routes")
    (mounted,) = [route.app for route in page.routes if hasattr(route, "app") and not hasattr(route, "methods")]
    theirs = {(method, route.path) for route in mounted.routes for method in getattr(route, "methods", None) or ()}
    assert ("GET", "/file={path_or_url:path}") in theirs
    ways = [way for way in hostile(secret) if "%0" not in way]  # of which gradio itself makes a 500
    with served(page) as address:
        for method, path in sorted(routes_of(page) | theirs):
            for way in ways if "{" in path and "/stream/" not in path else ():
                status, content = ask(address, method, filled(path, way), {} if method == "POST" else None)
                inputs.add()
                assert SECRET.encode() not in content, (path, way)
                assert status != 200 or not path.startswith(("/lycoris", "/file")), (path, way)


def test_the_page_answers_no_other_sites_page(page, tried):
    """Neither ours nor gradio's routes, which would let anybody draw and write; and not its sockets."""
    inputs = tried("security", "requests of other sites' pages")
    (mounted,) = [route.app for route in page.routes if hasattr(route, "app") and not hasattr(route, "methods")]
    theirs = {(method, route.path) for route in mounted.routes for method in getattr(route, "methods", None) or ()}
    with served(page) as address:
        for method, path in sorted(routes_of(page) | theirs | {("OPTIONS", "/run/predict"), ("GET", "/nothing")}):
            for origin in ("http://evil.example", "null", "", f"http://{address[0]}:1"):
                assert ask(address, method, filled(path, "1"), Origin=origin)[0] == 403, (method, path)
                inputs.add()
        own = f"http://{address[0]}:{address[1]}"
        for given in ({}, {"Origin": own}, {"Origin": "https://mine.example", "X_Forwarded_Host": "mine.example"}):
            assert ask(address, "GET", "/config", **given)[0] == 200
    assert greeting(page, "http://evil.example") == 1008
    assert greeting(page, "http://testserver") == {"msg": "send_hash"}
    inputs.add()


def greeting(page, origin):
    """What a socket says first, or with which code it is closed."""
    said = None
    try:
        with TestClient(page).websocket_connect("/queue/join", headers={"Origin": origin}) as socket:
            said = socket.receive_json()
    except WebSocketDisconnect as closed:
        return said or closed.code
    return said


@pytest.mark.slow
def test_bodies_name_no_files(webui, files, secret, tmp_path, tried):
    inputs = tried("security", "hostile texts in bodies")
    before = tree(tmp_path)
    with served(webui.app.real()) as address:
        card = indexed(webui, address)
        for way in [*hostile(secret)[:40], "\ud800", "\0", "a\nb", "<x>", "__proto__", "🦊" * 1000]:
            for body in (
                {way: "n"},
                {"image": way},
                {"on": way},
                {"image": f"data:image/png;base64,{way}"},
                {"presets": [{"name": way, "text": way}], "elements": []},
                {"presets": way, "elements": [way]},
                [way],
            ):
                for method, path in (pair for pair in OF_THE_WEBUI if pair[0] == "POST" and "star" not in pair[1]):
                    status, content = ask(address, method, filled(path, card), body)
                    inputs.add()
                    assert status in (200, 400, 409, 422), (path, body)
                    assert SECRET.encode() not in content
    after = tree(tmp_path)
    changed = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
    assert changed <= {str(webui.folder / "data" / "lycoris_presets.txt")}


NUMBERS = [
    str(10**30),
    str(-(10**30)),
    str(2**63),
    str(2**63 - 1),
    str(-(2**63)),
    "-1",
    "0",
    "1e3",
    "0x1",
    "NaN",
    "١",
    "1_0",
]


def test_any_number_is_answered(webui, files, tried):
    inputs = tried("security", "odd numbers at routes")
    with served(webui.app.real()) as address:
        indexed(webui, address)
        for (method, path), body in OF_THE_WEBUI.items():
            for number in map(quote, NUMBERS):
                status, _ = ask(address, method, f"{filled(path, number)}?since={number}", body)
                inputs.add()
                assert status < 500, (method, path, number)
                assert "{" not in path or status in (404, 422)


def test_names_that_are_no_text_are_answered(webui, tried):
    """Files from another system: bytes that are no UTF-8, and half an emoji in what a trainer wrote."""
    folder = webui.folder / "LyCORIS"
    odd = adapter(folder / "x.safetensors", ss_output_name="half 123456", number="NaN")
    odd.write_bytes(odd.read_bytes().replace(b"123456", b"\\ud83d"))
    adapter(folder / "new\nline.safetensors")
    (folder / "y.safetensors").symlink_to(folder / "new\nline.safetensors")
    try:
        (folder / "x.safetensors").rename(str(folder) + "/\udcff.safetensors")
    except OSError:
        pytest.skip("this file system has no such names")
    inputs = tried("security", "names that are no text")
    with served(webui.app.real()) as address:
        for _ in range(2):
            cards = json.loads(ask(address, "GET", "/lycoris/api/cards")[1])["cards"]
            ask(address, "POST", "/lycoris/api/refresh", {})
            next(page for page in webui.pages.extra_pages if page.title == "LyCORIS").tab.library.wait(60)
        (folder / "\udcff.safetensors").unlink()
        for (method, path), body in OF_THE_WEBUI.items():
            for card in cards:
                status, content = ask(address, method, filled(path, str(card["id"])), body)
                inputs.add()
                assert status in (200, 404, 409, 422), path
                assert content


def test_links_are_followed_and_show_nothing_but_what_their_name_says(webui, files, secret, tmp_path):
    """Whoever may put a link into the folders may show what it leads to, as in the web UI; no request makes one.

    A picture's name shows pictures alone, a sidecar's gives and takes the web UI's own keys alone.
    """
    away = tmp_path / "away"
    away.mkdir()
    (away / "real.safetensors").write_bytes(files.read_bytes())
    (away / "real.json").write_text(json.dumps({"notes": "n", "password": SECRET}))
    folder = files.parent
    for name, target in (("link.safetensors", away / "real.safetensors"), ("link.json", away / "real.json")):
        (folder / name).symlink_to(target)
    (folder / "link.png").symlink_to(secret)
    (folder / "no.safetensors").symlink_to(secret)
    (folder / "more").symlink_to(away)
    (away / "back").symlink_to(folder)
    with served(webui.app.real()) as address:
        found = {card["name"]: card for card in everything(webui, address)}
        assert sorted(found) == ["ink", "link", "no"]  # "more/real" is "link" once more, "more/back" is this folder
        for name in found:
            for rest in ("", "/preview", "/thumb", "/strengths", "/hashes"):
                _, content = ask(address, "GET", f"/lycoris/api/cards/{found[name]['id']}{rest}")
                assert SECRET.encode() not in content, (name, rest)
        assert ask(address, "GET", f"/lycoris/api/cards/{found['link']['id']}/preview")[0] == 404
        assert ask(address, "POST", f"/lycoris/api/cards/{found['link']['id']}", {"notes": "new"})[0] == 200
    assert json.loads((away / "real.json").read_text()) == {"notes": "new", "password": SECRET}
    assert (folder / "link.json").is_symlink()
