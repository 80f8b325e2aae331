/* The form of one preset: a slider per block with the same list as text, or rules as lines. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const VALUE = /^(?:[RU]|X(?:[+-][0-9.]+)?)$/;
    const FAMILIES = {
        12: "SDXL, short",
        17: "LoRA of SD 1",
        20: "SDXL",
        25: "SD 3",
        26: "SD 1, all blocks",
        61: "Flux",
    };

    const isValue = (word) => VALUE.test(word) || lycoris.isNumber(word);

    /** R is random from 0 to 1, U from -0.5 to 1.5, X the tag's x=: what is drawn for them lies in the middle. */
    const drawn = (word) => (lycoris.isNumber(word) ? Number(word) : word[0] === "X" ? 1 : 0.5);

    /** The words of a list of values as they are written; null where the text is something else. */
    function wordsOf(text, lists) {
        const words = text.split(/[,;]/);
        const good = lists[words.length] && words.every((word) => isValue(lycoris.strip(word)));
        return good ? words : null;
    }

    /** The same weights in a list of another length; blocks that the old one left out are at 0 there. */
    function converted(text, lists, count) {
        const words = wordsOf(text, lists);
        const known = new Map(words ? lists[words.length].map((id, at) => [id, lycoris.strip(words[at])]) : []);
        return lists[count].map((id) => (words ? known.get(id) || "0" : "1")).join(",");
    }

    function block(fields, at) {
        const slider = el("input.lycoris-range", { type: "range", min: "-1", max: "2", step: "0.05", tabindex: "0" });
        const field = el("input.lycoris-input.lycoris-block-value", {
            type: "text",
            size: "5",
            autocomplete: "off",
            spellcheck: "false",
        });
        const label = el("span", { "aria-hidden": "true" });
        slider.addEventListener("input", () => {
            field.value = lycoris.number(slider.valueAsNumber);
            fields.put(at, field.value);
        });
        field.addEventListener("input", () => {
            const word = lycoris.strip(field.value);
            field.setAttribute("aria-invalid", String(!isValue(word)));
            if (isValue(word)) fields.put(at, word);
        });
        const node = el("div.lycoris-block-row", {}, label, slider, field);
        const fill = (id, word) => {
            label.textContent = id;
            slider.setAttribute("aria-label", `${id}, slider`);
            field.setAttribute("aria-label", `${id}: a number, R, U or X`);
            slider.disabled = !lycoris.isNumber(word);
            lycoris.show(slider, String(drawn(word)));
            if (field !== document.activeElement) field.value = word;
            if (field !== document.activeElement) field.setAttribute("aria-invalid", "false");
        };
        return { node, fill };
    }

    class BlockFields {
        /** `changed(text)` is told of every edit. */
        constructor(changed) {
            this.changed = changed;
            this.rows = [];
            this.list = lycoris.choice((count) => count && this.write(converted(this.text, this.lists, count)));
            this.list.node.setAttribute("aria-label", "Length of the list");
            this.graph = new lycoris.Graph(400, 80, "lycoris-block-graph");
            this.graph.node.setAttribute("role", "img");
            this.sliders = el("div.lycoris-block-list");
            this.raw = el("textarea.lycoris-input", {
                rows: "3",
                spellcheck: "false",
                oninput: () => this.write(this.raw.value),
            });
            const length = el("label.lycoris-field", {}, el("span", {}, "Blocks"), this.list.node);
            const raw = el("label.lycoris-field", {}, el("span", {}, "As text"), this.raw);
            this.hint = el("p.lycoris-quiet");
            this.node = el("div.lycoris-preset-fields", {}, length, this.graph.node, this.hint, this.sliders, raw);
        }

        put(at, word) {
            const words = wordsOf(this.text, this.lists);
            words[at] = words[at].replace(lycoris.strip(words[at]), () => word);
            this.write(words.join(","));
        }

        write(text) {
            this.changed(text);
            this.fill(text, this.lists, this.usual);
        }

        /** `usual`: how many blocks the loaded model has. */
        fill(text, lists, usual) {
            Object.assign(this, { text, lists, usual });
            if (this.raw.value !== text) this.raw.value = text;
            const words = wordsOf(text, lists);
            const counts = Object.keys(lists);
            const options = counts.map((count) => [
                count,
                `${count}: ${FAMILIES[count] || ""}${count === usual ? " (this model)" : ""}`,
            ]);
            this.list.fill(
                words ? options : [["", "Rules, or not complete"], ...options],
                words ? String(words.length) : "",
            );
            this.hint.textContent = words
                ? ""
                : "Not a list of numbers. Edit it as text, or choose a list of blocks.";
            this.hint.hidden = !!words;
            this.drawRows(words ? lists[words.length] : [], words || []);
        }

        drawRows(ids, words) {
            for (const row of this.rows.splice(ids.length)) row.node.remove();
            while (this.rows.length < ids.length) {
                this.rows.push(block(this, this.rows.length));
                this.sliders.append(this.rows[this.rows.length - 1].node);
            }
            const plain = words.map(lycoris.strip);
            this.rows.forEach((row, at) => row.fill(ids[at], plain[at]));
            this.graph.node.classList.toggle("lycoris-hidden", !ids.length);
            if (!ids.length) return;
            this.graph.draw(plain.map((word, at) => [at / (ids.length - 1), drawn(word)]));
            this.graph.node.setAttribute(
                "aria-label",
                `Weights from ${ids[0]} to ${ids[ids.length - 1]}: ${plain.join(", ")}`,
            );
        }
    }

    class ElementFields {
        constructor(changed) {
            this.raw = el("textarea.lycoris-input", { rows: "10", spellcheck: "false" });
            this.raw.addEventListener("input", () =>
                changed(this.raw.value.split("\n").map(lycoris.strip).filter(Boolean).join(",")),
            );
            const hint =
                "One rule in a line, blocks:kinds of layers:weight, such as IN05-OUT05:attn:0.5. The last one wins.";
            const label = el("label.lycoris-field", {}, el("span", {}, "Rules"), this.raw);
            this.node = el("div.lycoris-preset-fields", {}, label, el("p.lycoris-quiet", {}, hint));
        }

        fill(text) {
            if (this.raw !== document.activeElement)
                this.raw.value = text
                    .split(/[,;\n]/)
                    .map(lycoris.strip)
                    .join("\n");
        }
    }

    lycoris.presetFields = { presets: BlockFields, elements: ElementFields };
})();
