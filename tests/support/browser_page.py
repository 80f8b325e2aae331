"""What a test does on the page, in the words of somebody who uses it."""

from __future__ import annotations

from typing import Any

HIDE = "document.querySelector('#one').hidden = {}; document.querySelector('#two').hidden = {}"


class View:
    """One opened page; `name` is the tab that is looked at."""

    def __init__(self, page: Any, name: str = "txt2img") -> None:
        self.page = page
        self.name = name
        self.tab = page.locator(f".lycoris-tab[data-name={name}]")
        self.prompt = page.locator(f"#{name}_prompt textarea")
        self.hires = page.locator("#hires_prompt textarea")
        self.negative = page.locator(f"#{name}_neg_prompt textarea")
        self.cells = self.tab.locator(".lycoris-cell")
        self.dialog = page.locator(".lycoris-dialog")
        self.query = self.tab.get_by_role("searchbox")
        self.total = self.tab.locator(".lycoris-total")

    def ready(self) -> View:
        self.cells.first.wait_for()
        return self

    def search(self, text: str, shown: str | None = None) -> None:
        """`shown`: the text of the total to wait for."""
        self.query.fill(text)
        if shown is not None:
            self.total.get_by_text(shown, exact=True).wait_for()

    def names(self) -> list[str]:
        """The names in sight, as they are read: by row, then by column. What a click changes is drawn a frame later."""
        self.page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        return self.tab.evaluate(
            """tab => [...tab.querySelectorAll('.lycoris-row')]
                .sort((a, b) => a.getAttribute('aria-rowindex') - b.getAttribute('aria-rowindex'))
                .flatMap(row => [...row.querySelectorAll('.lycoris-name')].map(name => name.textContent))"""
        )

    def card(self, name: str) -> Any:
        """Found by searching for it, so that it is in the page."""
        label = self.page.locator(".lycoris-name").get_by_text(name, exact=True)
        return self.cells.filter(has=label).first

    def press(self, name: str) -> None:
        """A click on the middle of a card's picture, where no button is."""
        self.card(name).locator(".lycoris-thumb").click()

    def details(self, name: str) -> Any:
        self.card(name).hover()
        self.card(name).get_by_role("button", name=f"Details of {name}").click()
        self.dialog.get_by_role("heading", name="Edit").wait_for()
        return self.dialog

    def write(self, text: str, caret: int | None = None) -> None:
        """Types into the prompt and leaves the caret there (at the end where not said)."""
        self.prompt.fill(text)
        at = len(text) if caret is None else caret
        self.prompt.evaluate("(box, at) => { box.focus(); box.setSelectionRange(at, at); }", at)
        # selectionchange comes a frame later, and what it changes is drawn one more later
        self.page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")

    def note(self, text: str) -> None:
        """Waits until the dialog says so."""
        self.dialog.locator(".lycoris-note").get_by_text(text).wait_for()
