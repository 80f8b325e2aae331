"""The HTML element that the tab's JavaScript fills."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from lib_adapters.hosts.tab.backend import TabBackend

LOADING_TEXT = "The cards are drawn by JavaScript; if this stays, reload the page."


def shell(tab: TabBackend, *, prompts: Sequence[str], negatives: Sequence[str], gallery: str, name: str) -> str:
    """`prompts`, `negatives` and `gallery` are CSS selectors; `name` keeps several shells of one page apart."""
    data = {
        "lycoris": "1",
        "name": name,
        "key": tab.key,
        "base": ".",
        "prompts": json.dumps(list(prompts)),
        "negatives": json.dumps(list(negatives)),
        "gallery": gallery,
    }
    attributes = " ".join(f'data-{key}="{html.escape(value)}"' for key, value in data.items())
    return f'<div class="lycoris-tab" {attributes}><p class="lycoris-waiting">{html.escape(LOADING_TEXT)}</p></div>'
