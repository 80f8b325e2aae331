/* The adapters that are in the prompt now, read from its text: a weight to turn, and a way out. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);

    /** A tag may have moved since the bar was drawn: the tag of the same place in the row is meant. */
    function current(page, at, name) {
        const box = page.boxes.box();
        const tag = box && lycoris.tags(box.value)[at];
        return tag && tag.name === name ? { box, tag } : null;
    }

    function weigh(page, at, name, value) {
        const found = current(page, at, name);
        if (!found || !Number.isFinite(value)) return;
        const { box, tag } = found;
        lycoris.edit(box, { start: tag.start, end: tag.end, insert: lycoris.tag(name, value, tag.kind) });
        page.boxes.look();
    }

    function remove(page, at, name) {
        const found = current(page, at, name);
        if (!found) return;
        const card = [...page.store.cards.values()].find((one) => lycoris.means(name, one));
        const once = lycoris.tags(found.box.value).filter((tag) => tag.name === name).length === 1;
        if (card && once) page.say(page.inserter.takeOut(card));
        else lycoris.edit(found.box, lycoris.removal(found.box.value, found.tag.start, found.tag.end));
        page.boxes.look();
    }

    function weight(page, tag, at) {
        if (!tag.plain || !Number.isFinite(tag.te)) {
            const rest = tag.text.slice(0, -1).split(":").slice(2).join(":");
            return el("span.lycoris-written", { title: "Edit this one in the prompt" }, rest || "1");
        }
        const input = el("input.lycoris-weight-input", {
            type: "number",
            step: "0.05",
            "aria-label": `Weight of ${tag.name}`,
            onchange: () => weigh(page, at, tag.name, input.valueAsNumber),
        });
        return input;
    }

    function item(page, tag, at) {
        const label = el("span.lycoris-used-name", { title: tag.text }, tag.name);
        const out = lycoris.iconButton("close", `Take ${tag.name} out of the prompt`, {
            onclick: () => remove(page, at, tag.name),
        });
        return el("div.lycoris-used", {}, label, weight(page, tag, at), out);
    }

    const shape = (tags) =>
        tags.map((tag) => `${tag.kind}:${tag.name}:${tag.plain && Number.isFinite(tag.te) ? "" : tag.text}`).join("\n");

    lycoris.promptBar = function (page) {
        const caption = el("span.lycoris-caption");
        const items = el("div.lycoris-used-list");
        const node = el("div.lycoris-prompted", { hidden: true }, caption, items);
        let drawn = "";
        const update = () => {
            const tags = page.tagged;
            node.hidden = !tags.length;
            caption.textContent = `In the ${page.boxes.label()}`;
            if (shape(tags) !== drawn) items.replaceChildren(...tags.map((tag, at) => item(page, tag, at)));
            drawn = shape(tags);
            tags.forEach((tag, at) => {
                const input = items.children[at].querySelector("input");
                if (input && input.valueAsNumber !== tag.te) input.value = lycoris.number(tag.te);
            });
        };
        return { node, update };
    };
})();
