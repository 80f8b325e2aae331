/* Filter chips, each with the number of cards it would show given the other filters. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);

    function chip(label, count, on, title, work) {
        const number = el("span.lycoris-count", {}, count.toLocaleString("en"));
        const props = { type: "button", "aria-pressed": String(on), title, onclick: work, "data-chip": label };
        return el("button.lycoris-chip", props, el("span", {}, label), number);
    }

    function flags(page, counts) {
        const { state, store } = page;
        const flag = (name, label, title) =>
            chip(label, counts[name], state[name], title, () => page.change({ [name]: !state[name] }));
        const model = store.model.name || lycoris.family(store.model.family);
        return [
            store.model.family && flag("fits", "Fits the model", `Only what can act on the loaded model (${model})`),
            flag("starred", "Starred", "Only starred"),
            (counts.broken > 0 || state.broken) && flag("broken", "Broken", "Only files that cannot be used"),
        ];
    }

    /** One chip per value; a chosen value stays to be seen even where nothing is left of it. */
    function values(page, field, counts, label) {
        const chosen = page.state[field];
        const names = [...new Set([...counts.keys(), ...chosen])];
        names.sort((a, b) => (counts.get(b) || 0) - (counts.get(a) || 0) || (a < b ? -1 : 1));
        return names.map((name) => {
            const on = chosen.includes(name);
            const next = on ? chosen.filter((item) => item !== name) : [...chosen, name];
            return chip(label(name), counts.get(name) || 0, on, `Only ${label(name)}`, () =>
                page.change({ [field]: next }),
            );
        });
    }

    const group = (title, chips) =>
        el(
            "div.lycoris-filter-group",
            { role: "group", "aria-label": title },
            el("span.lycoris-caption", {}, title),
            ...chips,
        );

    lycoris.filters = function (page) {
        const node = el("div.lycoris-filters");
        const update = (counts) => {
            node.hidden = !page.state.filters;
            if (node.hidden) return;
            const held = node.contains(document.activeElement) ? document.activeElement.dataset.chip : null;
            const { state } = page;
            const groups = [
                group("Show", flags(page, counts)),
                group("Base model", values(page, "families", counts.family, lycoris.family)),
                group(
                    "Algorithm",
                    values(page, "algorithms", counts.algorithm, (name) => name),
                ),
            ];
            const used = state.families.length + state.algorithms.length + state.fits + state.starred + state.broken;
            const clear = el("button.lycoris-link", { type: "button", onclick: () => page.clear() }, "Clear all");
            node.replaceChildren(...groups, used ? clear : "");
            const again = held && [...node.querySelectorAll("[data-chip]")].find((item) => item.dataset.chip === held);
            if (again) again.focus();
        };
        return { node, update };
    };
})();
