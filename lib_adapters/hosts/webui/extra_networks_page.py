"""The LyCORIS tab among the web UI's extra networks pages; JavaScript renders its cards.

Of the host's page only what its `create_ui` calls is answered, the same for every release: no items, so that nothing
is listed, walked or hashed when the page is opened, and no editor, because ours is in the page.
"""

from __future__ import annotations

from typing import Any

from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.shell import shell
from lib_adapters.hosts.webui import webui_modules

TITLE = "LyCORIS"
PROMPT_BOXES = {"txt2img": ("txt2img", "hires"), "img2img": ("img2img",)}  # whose prompts a click may go into


class LycorisPage:
    """What makes an ExtraNetworksPage of the host ours."""

    tab: TabBackend
    name: str  # the host's: the title in small letters

    def create_html(self, tabname: str, *_: Any, **__: Any) -> str:
        """Asked for once per tab when the page is built (from 1.8 on), and when a browser opens it.

        From 1.8 on the host's scripts wait until there are as many search boxes as tabs before they set up any of them.
        """
        boxes = PROMPT_BOXES.get(tabname, (tabname,))
        counted = f'<input type="hidden" id="{tabname}_{self.name}_extra_search">'
        return counted + shell(
            self.tab,
            prompts=[f"#{box}_prompt textarea" for box in boxes],
            negatives=[f"#{box}_neg_prompt textarea" for box in boxes],
            gallery=f"#{tabname}_gallery",
            name=tabname,
        )

    def refresh(self) -> None:
        """The host's own Refresh, which renews all pages."""
        self.tab.rescan()
        self.tab.library.start()

    def list_items(self) -> list[Any]:
        return []

    def allowed_directories_for_previews(self) -> list[str]:
        return []

    def create_user_metadata_editor(self, *_: Any) -> NullMetadataEditor:
        return NullMetadataEditor()


class NullMetadataEditor:
    """The host wants one for every page."""

    def create_ui(self) -> None: ...

    def setup_ui(self, gallery: Any) -> None: ...


def register(tab: TabBackend) -> None:
    """Safe to repeat; the host forgets all pages when its UI is reloaded."""
    pages = webui_modules.import_module("ui_extra_networks")
    if not any(getattr(page, "tab", None) is tab for page in pages.extra_pages):
        page = type("LycorisPage", (LycorisPage, pages.ExtraNetworksPage), {})(TITLE)
        page.tab, page.allow_negative_prompt = tab, True
        pages.register_page(page)
