/* One tab: its state, its view of the shared cards, and the components that render it. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const WIDE = 820;
    const STEPS = 20;
    const MOST_STEPS = 1000;

    const selectors = (text) => {
        try {
            return JSON.parse(text || "[]");
        } catch {
            return [];
        }
    };

    class Page {
        constructor(shell) {
            const { name, key, base, prompts, negatives, gallery } = shell.dataset;
            this.shell = shell;
            this.gallery = gallery;
            this.stepping = `#${CSS.escape(name || "")}_steps`;
            this.state = lycoris.state(name);
            this.store = lycoris.store(base || "", key || "");
            this.choices = lycoris.choices();
            this.boxes = new lycoris.Boxes(selectors(prompts), selectors(negatives), () => this.prompted());
            this.inserter = new lycoris.Inserter(this.boxes, this.state, this.choices);
            this.presets = lycoris.presets(this.store);
            this.told = new lycoris.Told(this, () => this.prompted());
            this.tagged = [];
            this.prompted = lycoris.perFrame(() => this.drawPrompt());
            this.build();
            this.draw = lycoris.perFrame(() => this.update());
            this.over = new AbortController();
            this.listen();
            this.unsubscribe = this.store.subscribe(
                () => this.draw(),
                () => this.visible(),
            );
            new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.seen()).observe(shell);
            this.update();
        }

        build() {
            this.grid = new lycoris.Grid(this);
            this.toolbar = lycoris.toolbar(this);
            this.progress = lycoris.progress(this);
            this.filters = lycoris.filters(this);
            this.folders = new lycoris.Folders(this);
            this.bar = lycoris.panel(this);
            this.status = lycoris.status(this);
            this.empty = el("div.lycoris-empty", { hidden: true });
            this.live = el("div.lycoris-live", { role: "status", "aria-live": "polite" });
            const cards = el("div.lycoris-cards", {}, this.grid.node, this.empty);
            const right = el("div.lycoris-right", {}, this.status.node, cards);
            this.main = el("div.lycoris-main", {}, this.folders.node, right);
            const parts = [this.toolbar, this.progress, this.filters, this.bar].map((part) => part.node);
            this.shell.replaceChildren(...parts, this.main, this.live);
            this.shell.classList.add("lycoris-ui");
            this.shell.setAttribute("data-ready", "1");
        }

        /** A schedule is drawn over the steps that the tab is set to. */
        listen() {
            const stepped = (event) => event.target.closest && event.target.closest(this.stepping) && this.prompted();
            for (const name of ["input", "change"])
                document.addEventListener(name, stepped, { signal: this.over.signal });
            this.forget = this.presets.subscribe(() => this.prompted());
        }

        /** The host has drawn the tab anew: this one is gone. */
        close() {
            this.boxes.close();
            this.told.close();
            this.over.abort();
            this.forget();
            this.unsubscribe();
        }

        /** Return the number of sampling steps; 20 if the page does not show it. */
        steps() {
            const input = document.querySelector(`${this.stepping} input`);
            const found = input ? Math.round(Number(input.value)) : 0;
            return found >= 1 && found <= MOST_STEPS ? found : STEPS;
        }

        /** The tab was opened. */
        seen() {
            this.store.pull();
            if (this.tagged.length) this.told.pull();
            this.prompted();
        }

        visible() {
            return this.shell.isConnected && this.shell.getClientRects().length > 0;
        }

        /** Until the user says: open where there is room for it and more than one folder. */
        treeOpen() {
            return this.state.tree === null ? this.shell.clientWidth > WIDE && this.several : this.state.tree;
        }

        /** The one way a part changes what is shown. */
        change(what) {
            Object.assign(this.state, what);
            this.state.save();
            this.toTop = [
                "query",
                "families",
                "algorithms",
                "fits",
                "starred",
                "broken",
                "root",
                "deep",
                "sort",
                "down",
            ].some((item) => item in what);
            this.update();
        }

        clear() {
            this.state.clear();
            this.change({ query: "" });
        }

        update() {
            const { list, counts, hidden } = lycoris.select(this.store.cards, this.state, this.store.model);
            Object.assign(this, { list, hidden, several: lycoris.severalFolders(this.store) });
            this.readPrompt();
            for (const part of [this.toolbar, this.progress, this.bar]) part.update();
            this.filters.update(counts);
            this.folders.update(counts.folder);
            this.status.update();
            lycoris.drawEmpty(this);
            this.grid.show(list, this.toTop);
            this.toTop = false;
        }

        readPrompt() {
            const box = this.boxes.box();
            this.tagged = box ? lycoris.tags(box.value) : [];
        }

        tagOf(card) {
            return this.tagged.find((tag) => lycoris.means(tag, card));
        }

        /** The prompt has changed: the cards in sight and the panel say so, at most once in a frame. */
        drawPrompt() {
            if (!this.bar) return;
            this.readPrompt();
            this.bar.update();
            this.grid.render();
        }

        say(text) {
            this.live.textContent = text;
        }

        act(card, what, node) {
            if (what === "toggle") this.say(this.inserter.toggle(card));
            if (what === "star") this.store.star(card, !card.star);
            if (what === "details") lycoris.details(this, card, node);
        }
    }

    lycoris.Page = Page;
})();
