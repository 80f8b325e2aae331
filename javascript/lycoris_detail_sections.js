/* Sections of the details dialog that describe the file. Each function returns a node for the open dialog. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const sections = (lycoris.sections = lycoris.sections || {});
    const el = (...args) => lycoris.el(...args);

    lycoris.section = (title, ...content) =>
        el("section.lycoris-section", {}, el("h3.lycoris-heading", {}, title), ...content);

    /** Copies where the page may; a plain http page may not, so the text is selected instead. */
    lycoris.copyButton = function (label, text, dialog) {
        const copy = async () => {
            try {
                await navigator.clipboard.writeText(text());
                dialog.say("Copied.");
            } catch {
                dialog.say(`The browser allows no copying here. It says: ${text()}`);
            }
        };
        return el("button.lycoris-button", { type: "button", onclick: copy }, lycoris.icon("copy"), label);
    };

    const bytes = (size) => (size >= 2 ** 20 ? `${(size / 2 ** 20).toFixed(1)} MB` : `${Math.ceil(size / 1024)} KB`);

    const date = (seconds) => new Date(seconds * 1000).toLocaleString();

    const short = (value) => (typeof value === "number" ? Number(value.toPrecision(4)) : value);

    /** What is known, as pairs; what is not is left out. */
    function facts(found) {
        const algorithms = Array.isArray(found.algorithms) ? found.algorithms : Object.keys(found.algorithms || {});
        return [
            ["Base model", found.family_name || lycoris.family(found.family)],
            ["Algorithm", algorithms.join(", ")],
            ["Rank", found.rank],
            ["Alpha", short(found.alpha)],
            ["Acts on", [].concat(found.parts || []).join(", ")],
            ["Title", found.title],
            ["Size", found.size && bytes(found.size)],
            ["Modified", found.mtime && date(found.mtime)],
            ["Last used", found.used && date(found.used)],
            ["Embeddings", [].concat(found.embeddings || []).join(", ")],
            ["File", found.path],
        ].filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== 0);
    }

    function hashes(dialog) {
        const list = el("dl.lycoris-facts");
        const draw = (known) =>
            list.replaceChildren(
                ...Object.entries(known).flatMap(([name, value]) => [
                    el("dt", {}, name),
                    el("dd.lycoris-code", {}, value),
                ]),
            );
        const ask = el(
            "button.lycoris-button",
            {
                type: "button",
                onclick: () =>
                    dialog.attempt(async () => {
                        draw(await dialog.page.store.call(`/cards/${dialog.card.id}/hashes`));
                        ask.remove();
                    }, "Hashes computed."),
            },
            "Compute hashes",
        );
        const known = dialog.found.hashes || {};
        draw(known);
        return [list, Object.keys(known).length < 3 ? ask : null];
    }

    sections.facts = function (dialog) {
        const rows = facts(dialog.found).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
        const misfit = lycoris.misfit(dialog.card, dialog.page.store.model);
        const warning = dialog.card.error || misfit;
        return lycoris.section(
            "File",
            warning && el("p.lycoris-failure", {}, warning),
            el("dl.lycoris-facts", {}, ...rows),
            ...[].concat(dialog.found.engine_notes || []).map((note) => el("p.lycoris-quiet", {}, note)),
            ...hashes(dialog),
        );
    };

    sections.unusable = function (dialog) {
        const rows = dialog.found.unusable || [];
        if (!rows.length) return null;
        const lines = rows.map(([key, reason]) => el("tr", {}, el("td.lycoris-code", {}, key), el("td", {}, reason)));
        return lycoris.section(
            lycoris.plural(rows.length, "layer that is left out", "layers that are left out"),
            el("div.lycoris-scroll", {}, el("table.lycoris-table", {}, el("tbody", {}, ...lines))),
        );
    };

    sections.metadata = function (dialog) {
        const rows = Object.entries(dialog.found.metadata || {});
        if (!rows.length) return null;
        const body = el("tbody");
        const draw = (asked) => {
            const shown = rows.filter(([key, value]) => `${key}\n${value}`.toLowerCase().includes(asked.toLowerCase()));
            body.replaceChildren(
                ...shown.map(([key, value]) =>
                    el("tr", {}, el("td.lycoris-code", {}, key), el("td", {}, el("div.lycoris-value", {}, value))),
                ),
            );
        };
        const filter = el("input.lycoris-input", {
            type: "search",
            placeholder: "Filter",
            "aria-label": "Filter the metadata",
            oninput: () => draw(filter.value),
        });
        draw("");
        const copy = lycoris.copyButton("Copy as JSON", () => JSON.stringify(dialog.found.metadata, null, 2), dialog);
        return lycoris.section(
            `Metadata (${rows.length})`,
            el("div.lycoris-line", {}, filter, copy),
            el("div.lycoris-scroll", {}, el("table.lycoris-table", {}, body)),
        );
    };

    function chart(rows) {
        const most = Math.max(...rows.map((row) => row.strength || 0)) || 1;
        return rows.map((row) => {
            const bar = el("div.lycoris-bar-fill");
            bar.style.width = `${((row.strength || 0) / most) * 100}%`;
            const value = row.strength === null ? "–" : row.layers ? row.strength.toPrecision(2) : "";
            const title = `${row.block}: ${lycoris.plural(row.layers, "layer", "layers")}, strength ${value}`;
            return el(
                "div.lycoris-block",
                { title },
                el("span", {}, row.block),
                el("div.lycoris-bar-track", {}, bar),
                el("span", {}, value),
            );
        });
    }

    sections.blocks = function (dialog) {
        if (dialog.card.error) return null;
        const box = el("div.lycoris-chart");
        const ask = el(
            "button.lycoris-button",
            {
                type: "button",
                onclick: () =>
                    dialog.attempt(async () => {
                        const { blocks } = await dialog.page.store.call(`/cards/${dialog.card.id}/strengths`);
                        box.replaceChildren(...chart(blocks));
                        ask.remove();
                    }, ""),
            },
            "Measure the blocks",
        );
        const what = el(
            "p.lycoris-quiet",
            {},
            "How much is added to each block at weight 1 (norm). A dash: it depends on the model.",
        );
        return lycoris.section("Blocks", what, box, ask);
    };
})();
