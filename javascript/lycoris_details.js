/* The details dialog of one card: opened with the card's data, completed when the server has read the file. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);

    class Details {
        constructor(page, card, opener) {
            this.page = page;
            this.card = card;
            this.opener = opener;
            this.body = el("div.lycoris-details-body", {}, el("p.lycoris-quiet", {}, "Reading the file…"));
            this.note = el("div.lycoris-note", { role: "status", "aria-live": "polite" });
            this.node = el(
                "dialog.lycoris-ui.lycoris-dialog",
                { "aria-label": `Details of ${card.name}` },
                this.head(),
                this.body,
                this.note,
            );
            this.node.addEventListener("close", () => this.closed());
            this.node.addEventListener("click", (event) => event.target === this.node && this.node.close());
            this.node.addEventListener("keydown", (event) => event.stopPropagation()); // the host has keys of its own
        }

        head() {
            const close = lycoris.iconButton("close", "Close", { onclick: () => this.node.close() });
            const title = el("h2.lycoris-title", {}, this.card.name);
            const file = el("div.lycoris-quiet", {}, this.card.file);
            return el("header.lycoris-details-head", {}, el("div.lycoris-heads", {}, title, file), close);
        }

        open() {
            document.body.append(this.node);
            this.node.showModal();
            return this.load();
        }

        closed() {
            this.node.remove();
            const { grid } = this.page;
            if (this.opener.isConnected && this.opener.closest(`[data-id="${this.card.id}"]`)) this.opener.focus();
            else if (grid.indexOf(this.card.id) >= 0) grid.focusAt(grid.indexOf(this.card.id));
        }

        async load() {
            try {
                this.fill(await this.page.store.call(`/cards/${this.card.id}`));
            } catch (error) {
                this.body.replaceChildren(el("p.lycoris-failure", {}, error.message));
            }
        }

        fill(found) {
            this.found = found;
            const parts = lycoris.sections;
            const left = el("div.lycoris-details-left", {}, parts.preview(this), parts.use(this), parts.facts(this));
            const right = el(
                "div.lycoris-details-right",
                {},
                parts.words(this),
                parts.edit(this),
                parts.training(this),
                parts.blocks(this),
                parts.unusable(this),
                parts.metadata(this),
            );
            this.body.replaceChildren(left, right);
        }

        /** What came of something the user did, where they look and where a screen reader hears it. */
        say(text, bad = false) {
            this.note.textContent = text;
            this.note.classList.toggle("lycoris-failure", bad);
        }

        /** Runs `work`; its error becomes the sentence below. The card is fetched anew afterwards. */
        async attempt(work, done) {
            try {
                this.say("Working…");
                await work();
                await this.page.store.pull();
                this.card = this.page.store.cards.get(this.card.id) || this.card;
                this.say(done);
                return true;
            } catch (error) {
                this.say(error.message, true);
                return false;
            }
        }
    }

    lycoris.details = (page, card, opener) => new Details(page, card, opener).open();
})();
