"""The host's pages of extra networks and its X/Y/Z plot, as each release has them."""

from __future__ import annotations

import types
from types import SimpleNamespace

RELEASES = ("1.6.1", "1.7.0", "1.8.0", "1.9.4", "1.10.1")


class Html:
    """A component of the page: what the browser shows in it."""

    def __init__(self, value=""):
        self.value = value


class _Page:
    def __init__(self, title):
        self.title, self.name = title, title.lower()
        self.allow_negative_prompt = False
        self.metadata, self.items = {}, {}

    def refresh(self):
        pass

    def read_user_metadata(self, item):
        item["user_metadata"] = item.get("filename", None)

    def create_item(self, name, index=None):
        raise NotImplementedError()

    def list_items(self):
        raise NotImplementedError()

    def allowed_directories_for_previews(self):
        return []

    def create_user_metadata_editor(self, ui, tabname):
        return SimpleNamespace(create_ui=lambda: None, setup_ui=lambda gallery: None)


class OldPage(_Page):
    """Up to 1.7: nothing on the page until a browser opens it."""

    def __init__(self, title):
        super().__init__(title)
        self.id_page = self.name.replace(" ", "_")

    def create_html(self, tabname):
        self.items = {item["name"]: item for item in self.list_items()}
        return "".join(f"{item['name']}{item['local_preview']}{item['prompt']}" for item in self.items.values())


class NewPage(_Page):
    """From 1.8 on: built empty, and a tree view that wants a hash of every item."""

    def __init__(self, title):
        super().__init__(title)
        self.extra_networks_tabname = self.name.replace(" ", "_")
        self.allow_prompt = True

    def create_html(self, tabname, *, empty=False):
        self.items = {} if empty else {item["name"]: item for item in self.list_items()}
        cards = (f"{item['name']}{item['shorthash']}{item['prompt']}" for item in self.items.values())
        return f"<input id='{tabname}_{self.extra_networks_tabname}_extra_search'>" + "".join(cards)


class Pages(types.ModuleType):
    """`modules.ui_extra_networks` of one release."""

    def __init__(self, release):
        super().__init__("modules.ui_extra_networks")
        self.release, self.lazy = release, release in RELEASES[:2]
        self.ExtraNetworksPage = OldPage if self.lazy else NewPage
        self.extra_pages = []
        self.register_page = self._register

    def _register(self, page):
        self.extra_pages.append(page)
        assert all(isinstance(page.allowed_directories_for_previews(), list) for page in self.extra_pages)

    def create_ui(self, tabname):
        """The page as it is built; `load` of what it gives is a browser that opens it."""
        pages = list(self.extra_pages)
        ids = [getattr(page, "id_page" if self.lazy else "extra_networks_tabname") for page in pages]
        shown = [Html("Loading..." if self.lazy else page.create_html(tabname, empty=True)) for page in pages]
        editors = [page.create_user_metadata_editor(self, tabname) for page in pages]
        for editor in editors:
            editor.create_ui()
        for editor in editors:
            editor.setup_ui(Html())
        contents: list[str] = []

        def load():
            if not contents:
                for page in pages if self.lazy else ():
                    page.refresh()
                contents[:] = [page.create_html(tabname) for page in pages]
            for html, text in zip(shown, contents, strict=True):
                html.value = text

        def refresh():
            for page in pages:
                page.refresh()
            contents.clear()
            load()

        def set_up():
            """Do the page's scripts begin? From 1.8 on they wait for a search box in every tab."""
            return self.lazy or sum(html.value.count("_extra_search") for html in shown) >= len(pages)

        return SimpleNamespace(ids=ids, shown=shown, load=load, refresh=refresh, set_up=set_up)

    def get_single_card(self, name, page):
        """A request of anybody: the name is whatever the address says."""
        found = next(one for one in self.extra_pages if one.name == page)
        try:
            found.items[name] = found.create_item(name)
        except Exception:  # noqa: BLE001 - the host prints it
            found.read_user_metadata(found.items.get(name))


class AxisOption:
    def __init__(  # noqa: PLR0917
        self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None
    ):
        self.label, self.type, self.apply = label, type, apply
        self.confirm, self.cost, self.choices = confirm, cost, choices


class Grid(types.ModuleType):
    """The module of `xyz_grid.py`, executed and not imported."""

    def __init__(self, name="xyz_grid.py"):
        super().__init__(name)
        self.AxisOption, self.axis_options = AxisOption, [AxisOption("Nothing", str, lambda p, x, xs: None)]

    def data(self):
        """Its entry among the scripts' data."""
        return SimpleNamespace(script_class=type("Script", (), {"__module__": self.__name__}), module=self)

    def axis(self, label):
        (found,) = [option for option in self.axis_options if option.label == label]
        return found
