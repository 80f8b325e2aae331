/* The cards, loaded once per page for all tabs: fetched, merged by id, polled while the index runs. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const SLOW_MS = 4000;
    const FAST_MS = 400;

    /** Digits sort as numbers, case does not count; made once per card because ten thousand are sorted by it. */
    const order = (text) =>
        text
            .normalize("NFKD")
            .toLowerCase()
            .replace(/\d+/g, (digits) => digits.padStart(12, "0"));

    /** What is derived from a card once, when it arrives. */
    function prepare(card) {
        card.key = `${card.root || 0}/${card.file}`;
        card.dir = card.dir || "";
        card.place = `${card.root || 0}/${card.dir}`;
        card.stem = card.file
            .replace(/\.[^./]*$/, "")
            .normalize("NFC")
            .toLowerCase();
        card.tag = card.tag || card.name; // how a prompt carries the name
        card.lower = card.tag.normalize("NFC").toLowerCase();
        card.order = order(card.name);
        lycoris.searchable(card); // here, in windows: all at once would delay the first key
        return card;
    }

    class Store {
        constructor(base, key) {
            this.base = `${base}/lycoris/api`;
            this.key = key;
            this.cards = new Map();
            this.version = 0;
            this.after = 0; // the last card of that version that is here; 0: all are
            this.progress = { running: false, done: 0, total: 0, what: "" };
            this.model = { family: "", name: "" };
            this.folders = []; // what they are called
            this.places = []; // where they are
            this.loaded = false;
            this.failure = "";
            this.listeners = new Set();
            this.timer = 0;
            document.addEventListener("visibilitychange", () => this.seen() && this.pull());
        }

        /** `wanted()` says whether the listener can be seen now: polling is fast only for eyes. */
        subscribe(changed, wanted) {
            const listener = { changed, wanted };
            this.listeners.add(listener);
            return () => this.listeners.delete(listener);
        }

        tell() {
            for (const listener of this.listeners) listener.changed();
        }

        async call(path, body) {
            const options = { headers: { "X-Lycoris-Key": this.key }, credentials: "same-origin" };
            if (body !== undefined) {
                options.method = "POST";
                options.headers["Content-Type"] = "application/json";
                options.body = JSON.stringify(body);
            }
            const answer = await fetch(this.base + path, options).catch(() => null);
            if (!answer) throw new Error("The server does not answer. Is the web UI still running?");
            const said = await answer.json().catch(() => ({}));
            if (!answer.ok) throw new Error(sentence(answer.status, said));
            return said;
        }

        /** An address a picture or video can load: headers cannot be sent there, so the key is in the query. */
        url(card, what, stamp) {
            const query = new URLSearchParams({ v: stamp === undefined ? "" : stamp, key: this.key });
            return `${this.base}/cards/${card.id}/${what}?${query}`;
        }

        /** One pull at a time; a pull asked for during another follows it. */
        pull() {
            clearTimeout(this.timer);
            if (!this.pulling) this.pulling = this.pullNow().finally(() => this.next());
            else this.again = true;
            return this.pulling;
        }

        /** Window by window. A draw goes through all cards, so it comes when they have doubled, and at the end. */
        async pullNow() {
            let drawn = 0;
            try {
                do {
                    this.merge(await this.call(`/cards?since=${this.version}&after=${this.after}`));
                    if (this.after && this.cards.size >= 2 * drawn) {
                        drawn = this.cards.size;
                        this.tell();
                    }
                } while (this.after);
            } catch (error) {
                this.failure = error.message;
            }
            this.tell();
        }

        next() {
            this.pulling = null;
            const soon = this.again || (this.progress.running && !this.failure);
            this.again = false;
            if (soon) this.later(FAST_MS);
            else if (!this.model.family && !this.failure) this.later(SLOW_MS); // the checkpoint is still being loaded
        }

        /** While nobody looks it only waits. */
        later(wait) {
            this.timer = setTimeout(() => (this.seen() ? this.pull() : this.later(wait)), wait);
        }

        seen() {
            return document.visibilityState === "visible" && [...this.listeners].some((listener) => listener.wanted());
        }

        merge(said) {
            this.failure = "";
            if (said.version < this.version) this.cards.clear(); // another index: what we have is of no use
            for (const id of said.removed) this.cards.delete(id);
            for (const card of said.cards) this.cards.set(card.id, prepare(card));
            const restarted = said.version < this.version;
            this.version = restarted ? 0 : said.version;
            this.after = restarted ? 0 : said.after;
            this.again = this.again || restarted;
            this.progress = said.progress;
            this.model = { family: said.family, name: said.family_name };
            this.folders = said.folders;
            this.places = said.places;
            this.loaded = !restarted;
        }

        async star(card, on) {
            this.cards.set(card.id, { ...card, star: on });
            this.tell();
            await this.call(`/cards/${card.id}/star`, { on }).catch((error) => (this.failure = error.message));
            return this.pull();
        }

        async refresh() {
            await this.call("/refresh", {}).catch((error) => (this.failure = error.message));
            return this.pull();
        }

        async cancel() {
            await this.call("/cancel", {}).catch((error) => (this.failure = error.message));
            return this.pull();
        }
    }

    function sentence(status, said) {
        if (said.error) return said.error;
        if (status === 401 || status === 403) return "The server was restarted. Reload this page to go on.";
        return `The server answered ${status}. Its console says more.`;
    }

    const stores = new Map();

    lycoris.store = function (base, key) {
        const name = `${base} ${key}`;
        if (!stores.has(name)) stores.set(name, new Store(base, key));
        return stores.get(name);
    };
})();
