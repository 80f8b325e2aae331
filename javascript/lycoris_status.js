/* The line above the cards (folder and count), and the message for an empty list. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);

    function subfolders(page) {
        const box = el("input", { type: "checkbox", onchange: () => page.change({ deep: box.checked }) });
        const node = el("label.lycoris-check", {}, box, "Include subfolders");
        const update = () => {
            box.checked = page.state.deep;
            node.hidden = page.state.root === null;
        };
        return { node, update };
    }

    lycoris.status = function (page) {
        const deep = subfolders(page);
        const count = el("span.lycoris-total");
        const clear = el("button.lycoris-link", { type: "button", onclick: () => page.clear() });
        const failure = el("div.lycoris-failure", { role: "alert", hidden: true });
        const line = el(
            "div.lycoris-status",
            {},
            page.folders.crumbs,
            deep.node,
            el("span.lycoris-spring"),
            clear,
            count,
        );
        const update = () => {
            deep.update();
            count.textContent = lycoris.plural(page.list.length, "adapter", "adapters");
            clear.hidden = !page.hidden || !page.list.length;
            clear.textContent = `${page.hidden.toLocaleString("en")} hidden by filters: clear`;
            failure.hidden = !page.store.failure;
            failure.replaceChildren(page.store.failure, " ", retry(page));
        };
        return { node: el("div.lycoris-head", {}, line, failure), update };
    };

    const retry = (page) =>
        el("button.lycoris-link", { type: "button", onclick: () => page.store.pull() }, "Try again");

    const note = (title, ...rest) => [el("div.lycoris-empty-title", {}, title), ...rest];

    function nothing(page) {
        const { store } = page;
        const places = store.places.map((folder) => el("code.lycoris-path", {}, folder));
        return note(
            "No adapters yet",
            el("p", {}, "Put adapter files (.safetensors) into one of these folders, or into folders inside them:"),
            ...places,
            el(
                "button.lycoris-button.lycoris-primary",
                { type: "button", onclick: () => store.refresh() },
                "Look again",
            ),
        );
    }

    function filtered(page) {
        const { query, families, algorithms, fits, starred, broken, root } = page.state;
        const others = families.length || algorithms.length || fits || starred || broken || root !== null;
        const text = !query
            ? "Nothing fits these filters."
            : `Nothing matches "${query}"${others ? " with these filters" : ""}.`;
        const label = `${page.hidden.toLocaleString("en")} hidden by filters: clear`;
        return note(
            "No adapter to show",
            el("p", {}, text),
            el("button.lycoris-button.lycoris-primary", { type: "button", onclick: () => page.clear() }, label),
        );
    }

    function content(page) {
        const { store } = page;
        if (store.cards.size) return filtered(page);
        if (!store.loaded) return note(store.failure ? "The cards could not be read" : "Reading the catalogue…");
        return store.progress.running
            ? note("Reading the files…", el("p", {}, "Cards appear here as they are read."))
            : nothing(page);
    }

    /** Says why there is nothing to see and what to do; drawn only when that changes, so that focus stays. */
    lycoris.drawEmpty = function (page) {
        const { empty, store } = page;
        empty.hidden = page.list.length > 0;
        page.grid.node.hidden = !empty.hidden;
        const stamp = [
            store.cards.size,
            store.loaded,
            store.failure,
            store.progress.running,
            page.state.query,
            store.folders,
        ].join("|");
        if (empty.hidden || empty.dataset.stamp === stamp) return;
        empty.dataset.stamp = stamp;
        empty.replaceChildren(...content(page));
    };
})();
