/* The adapters in the prompt: one row per tag, in prompt order. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const KINDS = { hypernet: "hypernetwork", aesthetic: "aesthetic" };

    /** The prompt may have changed since the row was filled: the tag of the same place and name is meant. */
    lycoris.tagAt = function (page, { at, tag }) {
        const box = page.boxes.box();
        const found = box && lycoris.tags(box.value)[at];
        return found && found.name === tag.name && found.kind === tag.kind ? { box, tag: found } : null;
    };

    lycoris.removeTag = function (page, row) {
        const found = lycoris.tagAt(page, row);
        if (!found) return;
        const card = [...page.store.cards.values()].find((one) => lycoris.means(found.tag, one));
        const once = lycoris.tags(found.box.value).filter((tag) => tag.name === found.tag.name).length === 1;
        if (card && once) page.say(page.inserter.takeOut(card));
        else lycoris.edit(found.box, lycoris.removal(found.box.value, found.tag.start, found.tag.end));
        page.boxes.look();
    };

    /** What has one number alone: a hypernetwork, an aesthetic embedding. */
    class SimpleRow {
        constructor(page) {
            Object.assign(this, { page, kind: "simple", stamp: "" });
            this.label = el("span.lycoris-used-name");
            this.weight = el("input.lycoris-weight-input", {
                type: "number",
                step: "0.05",
                onchange: () => this.weigh(),
            });
            this.written = el("span.lycoris-written", { title: "Edit this one in the prompt" });
            this.what = el("span.lycoris-part");
            this.out = lycoris.iconButton("close", "", { onclick: () => lycoris.removeTag(page, this) });
            const parts = [this.label, this.what, el("span.lycoris-spring"), this.written, this.weight, this.out];
            const line = el("div.lycoris-entry-line.lycoris-simple-line", {}, ...parts);
            this.node = el("div.lycoris-used.lycoris-entry", { role: "listitem" }, line);
        }

        fill(tag, at) {
            Object.assign(this, { tag, at });
            if (tag.text === this.stamp) return;
            this.stamp = tag.text;
            const plain = tag.plain && Number.isFinite(tag.te);
            this.node.dataset.name = this.label.textContent = tag.name;
            this.label.title = tag.text;
            this.what.textContent = KINDS[tag.kind];
            this.weight.hidden = !plain;
            this.weight.setAttribute("aria-label", `Weight of ${tag.name}`);
            this.written.textContent = plain ? "" : tag.text.slice(0, -1).split(":").slice(2).join(":");
            lycoris.show(this.weight, lycoris.number(tag.te));
            this.out.title = `Take ${tag.name} out of the prompt`;
            this.out.setAttribute("aria-label", this.out.title);
        }

        weigh() {
            const found = lycoris.tagAt(this.page, this);
            const value = this.weight.valueAsNumber;
            this.stamp = "";
            lycoris.showAnew();
            if (!found || !Number.isFinite(value)) return this.page.prompted();
            const text = lycoris.tag(found.tag.name, value, found.tag.kind);
            lycoris.edit(found.box, { start: found.tag.start, end: found.tag.end, insert: text });
            return this.page.boxes.look();
        }
    }

    /** Rows stay with the tags of their name; what is typed into a name keeps its row, so nothing is drawn anew. */
    function arranged(page, rows, tags) {
        const left = new Set(rows);
        const kind = (tag) => (tag.full ? "full" : "simple");
        const take = (row) => left.delete(row) && row;
        const fits = (tag) => (row) => left.has(row) && row.kind === kind(tag);
        const named = tags.map((tag) => take(rows.find((row) => fits(tag)(row) && row.tag.name === tag.name)));
        const found = named.map((row, at) => row || take(rows.find((one, old) => old === at && fits(tags[at])(one))));
        const made = (tag) => (tag.full ? new lycoris.Row(page) : new SimpleRow(page));
        return { now: found.map((row, at) => row || made(tags[at])), gone: [...left] };
    }

    /** What has the focus keeps it although rows are moved around it. */
    function place(list, rows, gone) {
        const held = document.activeElement;
        for (const row of gone) row.node.remove();
        rows.forEach((row, at) => {
            if (list.children[at] !== row.node) list.insertBefore(row.node, list.children[at] || null);
        });
        if (held && held !== document.activeElement && list.contains(held)) held.focus({ preventScroll: true });
    }

    lycoris.panel = function (page) {
        const caption = el("span.lycoris-caption");
        const edit = el(
            "button.lycoris-link",
            { type: "button", onclick: () => lycoris.editPresets(page, edit) },
            "Edit presets",
        );
        const head = el("div.lycoris-panel-head", {}, caption, el("span.lycoris-spring"), edit);
        const list = el("div.lycoris-used-list", { role: "list", "aria-label": "Adapters in the prompt" });
        const rest = el("ul.lycoris-rest", { "aria-label": "Problems of the last image" });
        const node = el(
            "section.lycoris-prompted",
            { hidden: true, "aria-label": "Active adapters" },
            head,
            list,
            rest,
        );
        let rows = [];
        const update = () => {
            const tags = page.tagged;
            node.hidden = !tags.length;
            caption.textContent = `In the ${page.boxes.label()}`;
            const { now, gone } = arranged(page, rows, tags);
            rows = now;
            place(list, rows, gone);
            const counts = new Map();
            rows.forEach((row, at) => {
                const nth = counts.get(tags[at].name) || 0;
                counts.set(tags[at].name, nth + 1);
                row.fill(tags[at], at, nth);
            });
            const others = tags.length ? page.told.others(tags) : [];
            rest.hidden = !others.length;
            rest.replaceChildren(...others.map((line) => el("li.lycoris-warned", {}, line)));
            if (!tags.length || !page.visible()) return;
            page.presets.need();
            page.told.watch();
        };
        return { node, update };
    };
})();
