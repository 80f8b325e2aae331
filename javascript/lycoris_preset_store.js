/* Block-weight presets, shared by the page: names for the rows, full data for the editor. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    const NONE = { presets: [], elements: [], layouts: {}, lists: {}, path: "", problems: [] };

    class Presets {
        constructor(store) {
            Object.assign(this, { store, data: NONE, version: 0, failure: "", listeners: new Set() });
        }

        subscribe(changed) {
            this.listeners.add(changed);
            return () => this.listeners.delete(changed);
        }

        /** Fetched when first needed. */
        need() {
            if (!this.asked) this.load();
        }

        async load() {
            this.asked = true;
            try {
                this.take(await this.store.call("/presets"));
            } catch (error) {
                this.failure = error.message;
            }
        }

        /** These, and no others, are the user's own. Raises what the server says. */
        async save(presets, elements) {
            const own = (rows) => rows.filter((one) => one.own).map(({ name, text }) => ({ name, text }));
            this.take(await this.store.call("/presets", { presets: own(presets), elements: own(elements) }));
        }

        take(said) {
            Object.assign(this, { data: { ...NONE, ...said }, failure: "", version: this.version + 1 });
            for (const changed of this.listeners) changed();
        }

        /** As the prompt is read: the name as written, else the only one that differs in case alone. */
        named(kind, text) {
            const names = this.data[kind].map((one) => one.name);
            if (names.includes(text)) return text;
            const alike = names.filter((name) => name.toLowerCase() === text.toLowerCase());
            return alike.length === 1 ? alike[0] : null;
        }
    }

    const known = new Map();

    lycoris.presets = function (store) {
        if (!known.has(store)) known.set(store, new Presets(store));
        return known.get(store);
    };
})();
