/* Layout of the preset editor. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const VIEWS = [
        ["presets", "Blocks"],
        ["elements", "Layers"],
        ["whole", "Whole file"],
    ];

    const button = (label, onclick) => el("button.lycoris-button", { type: "button", onclick }, label);

    const viewButton = (dialog, [view, label]) =>
        el("button.lycoris-chip", { type: "button", "data-view": view, onclick: () => dialog.show(view) }, label);

    function side(dialog) {
        const list = el("div.lycoris-preset-list", { role: "group", "aria-label": "Presets" });
        const buttons = [
            button("New", () => dialog.add()),
            button("Duplicate", () => dialog.copy()),
            button("Delete", () => dialog.remove()),
        ];
        const node = el("div.lycoris-preset-side", {}, list, el("div.lycoris-line", {}, ...buttons));
        return { list, buttons, side: node };
    }

    function form(dialog) {
        const text = { autocomplete: "off", spellcheck: "false" };
        const name = el("input.lycoris-input", { type: "text", ...text, oninput: () => dialog.rename() });
        const state = el("span.lycoris-quiet");
        const body = el("div.lycoris-preset-body");
        const label = el("label.lycoris-field", {}, el("span", {}, "Name"), name);
        const whole = el("textarea.lycoris-input", {
            rows: "18",
            ...text,
            "aria-label": "The whole file",
            oninput: () => dialog.readWhole(),
        });
        return { name, state, body, whole, form: el("div.lycoris-preset-form", {}, label, state, body) };
    }

    function frame(dialog, parts) {
        const note = el("div.lycoris-note", { role: "status", "aria-live": "polite" });
        const keep = el(
            "button.lycoris-button.lycoris-primary",
            { type: "button", onclick: () => dialog.save() },
            "Save",
        );
        const path = el("div.lycoris-quiet");
        const views = VIEWS.map((one) => viewButton(dialog, one));
        const title = el("h2.lycoris-title", {}, "Block-weight presets");
        const close = lycoris.iconButton("close", "Close", { onclick: () => dialog.leave() });
        const main = el("div.lycoris-preset-main", {}, parts.side, parts.form, parts.whole);
        const node = el(
            "dialog.lycoris-ui.lycoris-dialog.lycoris-presets",
            { "aria-label": "Block-weight presets" },
            el("header.lycoris-details-head", {}, el("div.lycoris-heads", {}, title, path), close),
            el("div.lycoris-line.lycoris-preset-views", { role: "group", "aria-label": "What to edit" }, ...views),
            main,
            el("div.lycoris-preset-foot", {}, note, keep),
        );
        return { node, note, keep, path, views, main };
    }

    /** The nodes that the dialog works with, by name. */
    lycoris.presetParts = function (dialog) {
        const parts = { ...side(dialog), ...form(dialog) };
        const found = { ...parts, ...frame(dialog, parts) };
        found.node.addEventListener("cancel", (event) => {
            event.preventDefault();
            dialog.leave();
        });
        found.node.addEventListener("close", () => dialog.closed());
        found.node.addEventListener("keydown", (event) => event.stopPropagation()); // the host has keys of its own
        return found;
    };

    /** Buttons stay where they are: only their words change. */
    lycoris.drawPresetList = function (dialog) {
        const { list, mine, at, view } = dialog;
        while (list.childElementCount > mine.length) list.lastChild.remove();
        while (list.childElementCount < mine.length) {
            const place = list.childElementCount;
            const onclick = () => dialog.choose(place);
            list.append(el("button.lycoris-preset-item", { type: "button", onclick }));
        }
        mine.forEach((row, place) => {
            const node = list.children[place];
            node.textContent = row.name || "(no name)";
            node.classList.toggle("lycoris-own", row.own);
            node.setAttribute("aria-current", String(place === at[view]));
            node.setAttribute("aria-label", `${row.name}${row.own ? ", your own" : ""}`);
        });
    };
})();
