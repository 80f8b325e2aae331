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
        const card = [...page.store.cards.values()].find((one) => lycoris.means(found.tag, one));
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

    /** Off: only the tag leaves, as it is written; its words stay, and back on it has the weight it had. */
    function turnOff(page, at, name) {
        const found = current(page, at, name);
        if (!found) return;
        lycoris.edit(found.box, lycoris.removal(found.box.value, found.tag.start, found.tag.end));
        keep(page, [...page.state.off, found.tag.text]);
    }

    function turnOn(page, text) {
        const box = page.boxes.box();
        lycoris.edit(box, lycoris.insertion(box.value, page.boxes.caret(box), text, ""));
        keep(page, without(page, text));
    }

    const without = (page, text) => page.state.off.filter((one) => one !== text);

    function keep(page, off) {
        page.state.off = off;
        page.state.save();
        page.prompted();
    }

    function item(page, tag, at) {
        const name = tag.name;
        const use = el("input.lycoris-use", {
            type: "checkbox",
            checked: at >= 0,
            "aria-label": `Use ${name}`,
            title: at >= 0 ? "Off, keeping its weight" : "On again",
            onchange: () => (at >= 0 ? turnOff(page, at, name) : turnOn(page, tag.text)),
        });
        const label = el("span.lycoris-used-name", { title: tag.text }, name);
        const out = lycoris.iconButton("close", at >= 0 ? `Take ${name} out of the prompt` : `Forget ${name}`, {
            onclick: () => (at >= 0 ? remove(page, at, name) : keep(page, without(page, tag.text))),
        });
        const middle = at >= 0 ? weight(page, tag, at) : el("span.lycoris-written", {}, "off");
        return el(`div.lycoris-used${at >= 0 ? "" : ".lycoris-off"}`, { "data-name": name }, use, label, middle, out);
    }

    const shape = (tag) => `${tag.kind}:${tag.name}:${tag.plain && Number.isFinite(tag.te) ? "" : tag.text}`;

    /** What is off, less what has come back into the prompt some other way. */
    const offs = (page) =>
        page.state.off
            .flatMap((text) => lycoris.tags(text))
            .filter((tag) => !page.tagged.some((one) => one.name === tag.name));

    function draw(page, items, tags, off) {
        const held =
            items.contains(document.activeElement) && document.activeElement.closest("[data-name]").dataset.name;
        items.replaceChildren(...tags.map((tag, at) => item(page, tag, at)), ...off.map((tag) => item(page, tag, -1)));
        const again = held && [...items.children].find((child) => child.dataset.name === held);
        if (again) again.querySelector("input").focus();
    }

    function fillWeights(items, tags) {
        tags.forEach((tag, at) => {
            const input = items.children[at].querySelector(".lycoris-weight-input");
            if (input && input.valueAsNumber !== tag.te) input.value = lycoris.number(tag.te);
        });
    }

    lycoris.promptBar = function (page) {
        const caption = el("span.lycoris-caption");
        const items = el("div.lycoris-used-list");
        const node = el("div.lycoris-prompted", { hidden: true }, caption, items);
        let drawn = "";
        const update = () => {
            const [tags, off] = [page.tagged, offs(page)];
            node.hidden = !tags.length && !off.length;
            caption.textContent = `In the ${page.boxes.label()}`;
            const now = [...tags.map(shape), "|", ...off.map((tag) => tag.text)].join("\n");
            if (now !== drawn) draw(page, items, tags, off);
            drawn = now;
            fillWeights(items, tags);
        };
        return { node, update };
    };
})();
