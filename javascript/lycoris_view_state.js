/* View settings stored in this browser: search, sort order, filters, folder, card size, open panels. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    lycoris.read = function (key, fallback) {
        try {
            const found = JSON.parse(localStorage.getItem(key));
            return found && typeof found === "object" ? found : fallback;
        } catch {
            return fallback;
        }
    };

    /** Private windows and full disks refuse: then nothing is remembered, and the page works. */
    lycoris.write = function (key, value) {
        try {
            localStorage.setItem(key, JSON.stringify(value));
        } catch {
            return;
        }
    };

    const FRESH = {
        query: "",
        families: [],
        algorithms: [],
        fits: false,
        starred: false,
        broken: false,
        root: null,
        dir: "",
        deep: true,
        sort: "name",
        down: false,
        size: 168,
        tree: null,
        filters: false,
        open: [],
        inserted: {},
    };

    /** The remembered state with `save()` and `clear()`; values of a wrong type are replaced by fresh ones. */
    lycoris.state = function (name) {
        const key = `lycoris:${name}`;
        const stored = lycoris.read(key, {});
        const state = {};
        for (const [item, fresh] of Object.entries(FRESH)) {
            const kept = stored[item];
            const fits = fresh === null ? kept !== undefined : typeof kept === typeof fresh;
            state[item] = fits && Array.isArray(kept) === Array.isArray(fresh) ? kept : fresh;
        }
        const quiet = (value) => Object.defineProperty(state, value[0], { value: value[1], enumerable: false });
        quiet(["save", () => lycoris.write(key, state)]);
        quiet([
            "clear",
            () => {
                for (const item of ["query", "families", "algorithms", "fits", "starred", "broken", "root", "dir"]) {
                    state[item] = FRESH[item];
                }
                state.save();
            },
        ]);
        return state;
    };
})();
