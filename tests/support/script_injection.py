"""Texts that want to be more than text, and what sees it when one succeeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# Everything that is ever put into the document is looked at, also what is gone again before a test can look.
WATCH = """
window.hurts = [];
window.hurt = (who) => window.hurts.push(`ran: ${who}`);
const URLS = ["href", "src", "action", "formaction", "xlink:href", "data", "poster", "background", "srcset"];
const bad = (node) => {
    if (node.nodeType !== 1) return [];
    const found = [...node.attributes].flatMap(({ name, value }) => {
        if (/^on/i.test(name) || name === "srcdoc") return [`${node.nodeName} ${name}=${value}`];
        if (name === "style" && /evil|url\\(|expression/i.test(value)) return [`style ${value}`];
        if (!URLS.includes(name) || /^(data:image|blob:)/.test(value)) return [];
        const url = new URL(value, document.baseURI);
        return url.origin === location.origin ? [] : [`${node.nodeName} ${name}=${value}`];
    });
    const own = node.nodeName === "SCRIPT" && node.src.startsWith(location.origin);
    const kind = /^(SCRIPT|IFRAME|OBJECT|EMBED|BASE|META|STYLE|LINK|MARQUEE)$/i.test(node.nodeName);
    return kind && !own && node.closest(".lycoris-tab, .lycoris-ui") ? [...found, node.nodeName] : found;
};
new MutationObserver((records) => {
    for (const record of records) {
        for (const node of record.addedNodes)
            for (const one of [node, ...(node.querySelectorAll ? node.querySelectorAll("*") : [])])
                window.hurts.push(...bad(one));
        if (record.type === "attributes") window.hurts.push(...bad(record.target));
    }
}).observe(document, { childList: true, subtree: true, attributes: true });
"""
EVIL = (
    "{0}\"'><img src=x onerror=hurt('{0}')><svg/onload=hurt('{0}')><script>hurt('{0}')</script>javascript:hurt('{0}')"
    ";background:url(//evil.example/{0});{{{{constructor.constructor('hurt(1)')()}}}}${{hurt('{0}')}}&lt;b&gt;\u202e\u2028"
)
OF_A_FILE = "{0}\"'><img src=x onerror=hurt('{0}')>;background:url(evil);<svg onload=hurt()>"  # a name without a slash


def evil(field: str) -> str:
    return EVIL.format(field)


def evil_name(field: str) -> str:
    return OF_A_FILE.format(field)


# What a page counts with and compares; everything else that an answer holds is text for somebody to read.
MEANT = {"kind", "v", "family", "block"}


def poisoned(value: Any, path: str = "") -> Any:
    """Every text in an answer, made hostile; the names of tables too where they are shown."""
    if isinstance(value, str):
        return value if path.rpartition(".")[2] in MEANT else value + evil(path)
    if isinstance(value, list):
        return [poisoned(item, f"{path}[]") for item in value]
    if isinstance(value, dict):
        shown = path.rpartition(".")[2] in ("metadata", "layers", "hashes")
        return {
            key + (evil(f"{path} key") if shown else ""): poisoned(item, f"{path}.{key}") for key, item in value.items()
        }
    return value


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all texts in it."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, (list, dict)):
        pairs = value.items() if isinstance(value, dict) else (("[]", item) for item in value)
        for key, item in pairs:
            yield from leaves(item, f"{path}.{key}")


class Poison:
    """Between page and server: every answer's texts become hostile. `refuse`: what is asked for changes nothing."""

    def __init__(self, refuse: bool = False) -> None:
        self.refuse, self.seen = refuse, set()

    def __call__(self, route: Any) -> None:
        path = route.request.url.partition("/lycoris/api")[2].partition("?")[0]
        if self.refuse and (route.request.method == "POST" or path.count("/") > 1):
            route.fulfill(status=409, json={"error": evil("refused")})
            self.seen.add("error")
            return
        answer = route.fetch()
        if "json" not in answer.headers.get("content-type", ""):
            route.fulfill(response=answer)
            return
        said = answer.json()
        self.seen |= {f"{''.join('#' if c.isdigit() else c for c in path)}{leaf}" for leaf in leaves(said)}
        route.fulfill(response=answer, body=json.dumps(poisoned(said)))
