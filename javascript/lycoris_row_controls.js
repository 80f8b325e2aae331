/* Form controls of a row: each displays one tag value and reports the user's changes. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const LOW = -1;
    const HIGH = 2;
    const LONGEST = 60; // characters of a value shown in a list

    const shown = new WeakMap();

    /** What the user is just typing stays as long as the value in the prompt is the old one. */
    lycoris.show = function (input, text) {
        const typing = input === document.activeElement && shown.get(input) === text;
        shown.set(input, text);
        if (!typing && input.value !== text) input.value = text;
    };

    /** What was typed is handed over, or refused: the field shows again what the prompt has. */
    lycoris.showAnew = () => shown.delete(document.activeElement);

    /** A list of choices: fill([[value, label]], value). Values that differ in nothing else are one choice. */
    lycoris.choice = function (pick) {
        let drawn = "";
        const node = el("select.lycoris-select", { onchange: () => pick(node.value) });
        const fill = (options, value) => {
            const now = JSON.stringify(options);
            if (now !== drawn)
                node.replaceChildren(...options.map(([one, label]) => el("option", { value: one }, label)));
            drawn = now;
            node.value = value;
        };
        return { node, fill };
    };

    const short = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);

    /** None, the presets, and what the tag says where that is no preset. `key` is lbw or lbwe. */
    lycoris.presetChoice = function (row, key) {
        const { presets } = row.page;
        const kind = key === "lbw" ? "presets" : "elements";
        const choice = lycoris.choice((value) => row.change(() => ({ [key]: value === "" ? null : value.slice(1) })));
        const fill = (tag) => {
            const text = tag.values[key] || "";
            const known = text && presets.named(kind, text);
            const names = presets.data[kind].map((one) => [`=${one.name}`, one.name]);
            const own = text && !known ? [[`=${text}`, short(text)]] : [];
            choice.fill([["", "None"], ...own, ...names], text ? `=${known || text}` : "");
            choice.node.title = text || "No block weights";
        };
        return { node: choice.node, fill };
    };

    /** A slider and a number for one part of the model. */
    function strength(row, part, label) {
        const props = { min: LOW, max: HIGH, step: "0.05" };
        const over = (from, to) => () => {
            to.value = from.value;
            row.preview(part, from.valueAsNumber);
        };
        const done = (from) => () => row.strengthen(part, from.valueAsNumber);
        const slider = el("input.lycoris-range", { type: "range", ...props });
        const number = el("input.lycoris-weight-input", { type: "number", step: "0.05" });
        slider.addEventListener("input", over(slider, number));
        number.addEventListener("input", over(number, slider));
        for (const input of [slider, number]) input.addEventListener("change", done(input));
        const node = el(
            "div.lycoris-strength",
            {},
            el("span.lycoris-part", { "aria-hidden": "true" }, label),
            slider,
            number,
        );
        const fill = (value, fixed) => {
            for (const input of [slider, number]) input.disabled = fixed;
            slider.min = Math.min(LOW, Math.floor(value) || 0);
            slider.max = Math.max(HIGH, Math.ceil(value) || 0);
            lycoris.show(slider, String(value));
            lycoris.show(number, Number.isFinite(value) ? lycoris.number(value) : "");
        };
        const name = (text) => {
            slider.setAttribute("aria-label", `${text}, slider`);
            number.setAttribute("aria-label", text);
        };
        return { node, slider, number, fill, name };
    }

    /** Both parts, and the chain between them. */
    lycoris.strengths = function (row) {
        const parts = { te: strength(row, "te", "TE"), unet: strength(row, "unet", "U-Net") };
        const chain = lycoris.iconButton("chain", "", { onclick: () => row.change(lycoris.linkChange) });
        const node = el("div.lycoris-strengths", {}, parts.te.node, chain, parts.unet.node);
        const fill = (tag) => {
            const linked = lycoris.isLinked(tag);
            const curve = typeof tag.unet !== "number";
            parts.te.fill(tag.te, !!tag.problem || (linked && curve));
            parts.unet.fill(curve ? lycoris.firstOf(tag.unet) : tag.unet, !!tag.problem || curve);
            parts.unet.node.title = curve ? "A curve: open the schedule to change it" : "";
            parts.te.name(`Text encoder of ${tag.name}`);
            parts.unet.name(`U-Net of ${tag.name}`);
            chain.disabled = !!tag.problem;
            chain.setAttribute("aria-pressed", String(linked));
            const label = linked ? "One number for both: part them" : "Two numbers: the U-Net's for both";
            chain.title = label;
            chain.setAttribute("aria-label", `${label} (${tag.name})`);
        };
        return { node, parts, fill };
    };
})();
