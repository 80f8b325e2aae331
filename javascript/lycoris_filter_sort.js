/* Filtering, sorting and per-filter counts, in one pass over all cards. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const SHORT = {
        sd1: "SD 1.x",
        sd2: "SD 2.x",
        sdxl: "SDXL",
        "sdxl-refiner": "Refiner",
        sd3: "SD 3",
        flux: "Flux",
        chroma: "Chroma",
        cascade: "Cascade",
        hunyuan: "Hunyuan",
        wan: "Wan",
        "qwen-image": "Qwen",
        hidream: "HiDream",
        lumina: "Lumina",
        auraflow: "AuraFlow",
        sana: "Sana",
        cosmos: "Cosmos",
        mochi: "Mochi",
        "ace-step": "ACE-Step",
        pixart: "PixArt",
        unknown: "Unknown base",
    };

    lycoris.family = (key) => SHORT[key] || key || "";

    /** SDXL's first text encoder is Stable Diffusion 1's, so what leads the one leads the other. */
    const isShared = (card, model) =>
        card.kind === "aesthetic" && card.family === "sd1" && model.family === "sdxl";

    /** Why a card cannot act on the loaded model, in words; "" where it can or nobody knows. */
    lycoris.misfit = function (card, model, brief = false) {
        const known = card.family && model.family && card.family !== "unknown" && model.family !== "unknown";
        if (!known || card.family === model.family || isShared(card, model)) return "";
        const [made, loaded] = [lycoris.family(card.family), lycoris.family(model.family)];
        return brief ? `For ${made}, not ${loaded}` : `Made for ${made}, but the loaded model is ${loaded}.`;
    };

    const below = (dir, top) => !top || dir === top || dir.startsWith(`${top}/`);

    function inFolder(card, state) {
        if (state.root === null) return true;
        if ((card.root || 0) !== state.root) return false;
        return state.deep ? below(card.dir, state.dir) : card.dir === state.dir;
    }

    /** The tests of a state; a card that fails exactly one of them still counts for that filter's own numbers. */
    function tests(state, model) {
        const match = lycoris.matcher(state.query);
        const one = (list, wanted) => (list || []).some((item) => wanted.includes(item));
        return {
            query: match && ((card) => match(card)),
            family: state.families.length > 0 && ((card) => state.families.includes(card.family || "unknown")),
            algorithm: state.algorithms.length > 0 && ((card) => one(card.algorithms, state.algorithms)),
            folder: state.root !== null && ((card) => inFolder(card, state)),
            fits: state.fits && ((card) => !card.error && !lycoris.misfit(card, model)),
            starred: state.starred && ((card) => !!card.star),
            broken: state.broken && ((card) => !!card.error),
        };
    }

    class Counts {
        constructor(model) {
            this.model = model;
            this.family = new Map();
            this.algorithm = new Map();
            this.folder = new Map();
            this.fits = this.starred = this.broken = 0;
        }

        static more(map, key) {
            map.set(key, (map.get(key) || 0) + 1);
        }

        /** `failed` names the only test the card fails, or is "" where it passes all. */
        add(card, failed) {
            const counts = (name) => !failed || failed === name;
            if (counts("family") && !card.error) Counts.more(this.family, card.family || "unknown");
            if (counts("algorithm")) for (const name of card.algorithms || []) Counts.more(this.algorithm, name);
            if (counts("folder")) Counts.more(this.folder, card.place);
            if (counts("fits") && !card.error && !lycoris.misfit(card, this.model)) this.fits += 1;
            if (counts("starred") && card.star) this.starred += 1;
            if (counts("broken") && card.error) this.broken += 1;
        }
    }

    const byName = (a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : a.id - b.id);

    function compare(state) {
        const way = state.down ? -1 : 1;
        if (state.sort === "name") return (a, b) => way * byName(a, b);
        return (a, b) => way * ((a[state.sort] || 0) - (b[state.sort] || 0)) || byName(a, b);
    }

    /** {list, counts, hidden}: the cards to draw in their order, numbers for the filters, how many are left out. */
    lycoris.select = function (cards, state, model) {
        const active = Object.entries(tests(state, model)).filter((entry) => entry[1]);
        const counts = new Counts(model);
        const list = [];
        for (const card of cards.values()) {
            const failed = active.filter((entry) => !entry[1](card));
            if (failed.length > 1) continue;
            counts.add(card, failed.length ? failed[0][0] : "");
            if (!failed.length) list.push(card);
        }
        list.sort(compare(state));
        return { list, counts, hidden: cards.size - list.length };
    };
})();
