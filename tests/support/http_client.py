"""The routes of both hosts, and somebody who asks them over a real connection, in whatever way."""

from __future__ import annotations

import base64
import http.client
import json
import re

from tests.support.sample_library import picture

JSON = {"Content-Type": "application/json"}
# What each of our routes is sent by somebody who may. A route that is not here makes the tests red.
OURS = {
    ("GET", "/lycoris/api/cards"): None,
    ("GET", "/lycoris/api/cards/{card}"): None,
    ("GET", "/lycoris/api/cards/{card}/strengths"): None,
    ("GET", "/lycoris/api/cards/{card}/hashes"): None,
    ("GET", "/lycoris/api/cards/{card}/thumb"): None,
    ("GET", "/lycoris/api/cards/{card}/preview"): None,
    ("POST", "/lycoris/api/cards/{card}"): {"notes": "n"},
    ("POST", "/lycoris/api/cards/{card}/star"): {"on": True},
    ("POST", "/lycoris/api/cards/{card}/preview"): {
        "image": "data:image/png;base64," + base64.b64encode(picture()).decode()
    },
    ("POST", "/lycoris/api/refresh"): {},
    ("POST", "/lycoris/api/cancel"): {},
    ("GET", "/lycoris/api/presets"): None,
    ("POST", "/lycoris/api/presets"): {"presets": [{"name": "mine", "text": "IN05"}], "elements": []},
    ("GET", "/lycoris/api/report"): None,
}
OF_THE_WEBUI = OURS | {
    ("GET", "/lycoris/report"): None,
    ("GET", "/sdapi/v1/lycos"): None,
    ("POST", "/sdapi/v1/refresh-lycos"): None,
}
OF_THE_PAGE = OURS | {("GET", "/lycoris/files/{name}"): None}
NOT_JSON = {("POST", "/sdapi/v1/refresh-lycos")}  # has no body


def routes_of(app):
    return {(method, route.path) for route in app.routes for method in getattr(route, "methods", None) or ()}


def ask(address, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(content))} | (JSON if content else {}) | given).items():
            connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def everything(webui, address):
    """All cards after a round of indexing."""
    catalogue = next(page for page in webui.pages.extra_pages if page.title == "LyCORIS").tab.library
    catalogue.start()
    assert catalogue.wait(60)
    return json.loads(ask(address, "GET", "/lycoris/api/cards")[1])["cards"]


def indexed(webui, address):
    """The number of the only card."""
    (card,) = everything(webui, address)
    return str(card["id"])


def filled(path, text):
    return re.sub(r"\{[^}]*\}", lambda _: text, path)


def tree(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts}
