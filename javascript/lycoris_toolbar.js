/* The toolbar: search, sort order, card size, filters, and refresh with its progress. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const SORTS = [
        ["name", "Name"],
        ["mtime", "Date modified"],
        ["ctime", "Date created"],
        ["size", "File size"],
        ["used", "Last used"],
    ];
    const HELP =
        'Every word must occur; -word must not; "two words"; algo:loha family:sdxl tag:hair folder:style is:starred';

    function search(page) {
        const clear = lycoris.iconButton("close", "Clear the search", {
            onclick: () => {
                page.change({ query: "" });
                input.focus();
            },
        });
        const input = el("input.lycoris-search-input", {
            type: "search",
            placeholder: "Search names, words, tags",
            "aria-label": "Search the adapters",
            title: HELP,
            value: page.state.query,
            spellcheck: "false",
            autocomplete: "off",
            oninput: () => page.change({ query: input.value }),
            onkeydown: (event) => {
                if (event.key === "Escape" && input.value) page.change({ query: "" });
                if (event.key === "ArrowDown" || event.key === "Enter") page.grid.focusAt(0);
                if (["Escape", "ArrowDown", "Enter"].includes(event.key)) event.preventDefault();
            },
        });
        const node = el("div.lycoris-search", { role: "search" }, lycoris.icon("search"), input, clear);
        const update = () => {
            if (input.value !== page.state.query) input.value = page.state.query;
            clear.hidden = !page.state.query;
        };
        return { node, update, input };
    }

    function sort(page) {
        const options = SORTS.map(([value, label]) => el("option", { value }, label));
        const select = el(
            "select.lycoris-select",
            {
                "aria-label": "Sort by",
                title: "Sort by",
                onchange: () => page.change({ sort: select.value, down: select.value !== "name" }),
            },
            ...options,
        );
        const way = el("button.lycoris-icon-button", {
            type: "button",
            onclick: () => page.change({ down: !page.state.down }),
        });
        const update = () => {
            const label = page.state.down ? "Descending: reverse the order" : "Ascending: reverse the order";
            select.value = page.state.sort;
            way.title = label;
            way.setAttribute("aria-label", label);
            way.replaceChildren(lycoris.icon(page.state.down ? "down" : "up"));
        };
        return { node: el("div.lycoris-sort", {}, select, way), update };
    }

    function size(page) {
        const input = el("input.lycoris-range", {
            type: "range",
            min: "96",
            max: "320",
            step: "8",
            "aria-label": "Card size",
            title: "Card size",
            value: page.state.size,
            oninput: () => {
                page.state.size = Number(input.value);
                page.state.save();
                page.grid.layout();
            },
        });
        return { node: el("label.lycoris-size", {}, lycoris.icon("size"), input), update: () => undefined };
    }

    function refresh(page) {
        const button = lycoris.iconButton("refresh", "Look for new and changed files", {
            "data-part": "refresh",
            onclick: () => page.store.refresh(),
        });
        const update = () => {
            button.classList.toggle("lycoris-turning", page.store.progress.running);
            button.disabled = page.store.progress.running;
        };
        return { node: button, update };
    }

    function toggles(page) {
        const folders = lycoris.iconButton("folder", "Folders", {
            "data-part": "folders",
            onclick: () => page.change({ tree: !page.treeOpen() }),
        });
        const filters = el("button.lycoris-icon-button.lycoris-wide", {
            type: "button",
            "data-part": "filters",
            title: "Filters",
            onclick: () => page.change({ filters: !page.state.filters }),
        });
        const update = () => {
            const { state } = page;
            const used = state.families.length + state.algorithms.length + state.fits + state.starred + state.broken;
            filters.replaceChildren(
                lycoris.icon("filter"),
                el("span.lycoris-filters-label", {}, "Filters"),
                used ? el("span.lycoris-mark", {}, used) : "",
            );
            filters.setAttribute("aria-label", used ? `Filters, ${used} in use` : "Filters");
            filters.setAttribute("aria-expanded", String(state.filters));
            folders.setAttribute("aria-expanded", String(page.treeOpen()));
        };
        return { nodes: [folders, filters], update };
    }

    /** {node, update(), input}: redrawn from the page's state by update(). */
    lycoris.toolbar = function (page) {
        const parts = {
            search: search(page),
            sort: sort(page),
            size: size(page),
            refresh: refresh(page),
            toggles: toggles(page),
        };
        const [folders, filters] = parts.toggles.nodes;
        const right = el("div.lycoris-group", {}, parts.sort.node, parts.size.node, filters, parts.refresh.node);
        const node = el("div.lycoris-bar", {}, folders, parts.search.node, right);
        return { node, input: parts.search.input, update: () => Object.values(parts).forEach((part) => part.update()) };
    };

    /** The index at work: done of total, what it reads, and a way to stop it. */
    lycoris.progress = function (page) {
        const bar = el("progress.lycoris-progress", { "aria-label": "Reading the files" });
        const text = el("span.lycoris-progress-text");
        const cancel = el("button.lycoris-button", { type: "button", onclick: () => page.store.cancel() }, "Cancel");
        const node = el("div.lycoris-working", { hidden: true }, bar, text, cancel);
        const update = () => {
            const { running, done, total, what, cancelled } = page.store.progress;
            node.hidden = !running && !cancelled && !what;
            bar.hidden = cancel.hidden = !running;
            if (total) [bar.max, bar.value] = [total, done];
            else bar.removeAttribute("value");
            const count = total ? `${done.toLocaleString("en")} of ${total.toLocaleString("en")}` : "";
            if (running) text.textContent = [what || "Reading the files", count].filter(Boolean).join(": ");
            else
                text.textContent = cancelled
                    ? `Cancelled after ${count || "0"} files. Refresh goes on from there.`
                    : what;
        };
        return { node, update };
    };
})();
