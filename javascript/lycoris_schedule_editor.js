/* The expanded schedule of one row: start, stop, the curve with its points, and the second pass. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const HINT = "5: after 5 steps. 50%: half of all. 4.2sigma: noise.";
    const PLACE = { share: "% of all steps", step: "Step", sigma: "Noise (sigma)" };

    const SECOND = [
        ["hr", "Hires strength"],
        ["hrte", "Hires TE"],
        ["hrunet", "Hires U-Net"],
    ];

    /** `read` is one of the reader's own functions, which raise what is wrong. */
    const readable = (read) => (text) => {
        try {
            read(text);
            return true;
        } catch (error) {
            if (error instanceof lycoris.BadTag) return false;
            throw error;
        }
    };

    /** A labelled field whose text becomes `key`'s value; what `wanted` refuses is not written. */
    function field(label, wanted, write) {
        const input = el("input.lycoris-input", { type: "text", size: "8", autocomplete: "off", spellcheck: "false" });
        input.addEventListener("change", () => {
            const text = lycoris.strip(input.value);
            const good = !text || wanted(text);
            input.setAttribute("aria-invalid", String(!good));
            if (good) write(text || null);
        });
        const fill = (text) => {
            if (input.getAttribute("aria-invalid") === "true" && input === document.activeElement) return;
            lycoris.show(input, text);
            input.setAttribute("aria-invalid", "false");
        };
        return { node: el("label.lycoris-field", {}, el("span", {}, label), input), input, fill };
    }

    const keyOf = (tag) => (lycoris.isLinked(tag) ? "te" : "unet");

    /** Where the text of the curve is, and the text. */
    const curveOf = (tag) => ({ key: keyOf(tag), text: tag.values[keyOf(tag)] });

    class Timing {
        constructor(row) {
            this.row = row;
            const end = (which) =>
                field(which === "start" ? "Start" : "Stop", readable(lycoris.readPosition), (text) =>
                    row.change((tag) => lycoris.windowChange(tag, which, text)),
                );
            [this.start, this.stop] = ["start", "stop"].map(end);
            this.second = SECOND.map(([key, label]) => {
                const one = field(label, readable(lycoris.readStrength), (text) => row.change(() => ({ [key]: text })));
                return { key, ...one };
            });
            this.elements = lycoris.presetChoice(row, "lbwe");
            this.hires = el("span.lycoris-quiet");
            this.graph = new lycoris.Graph(320, 96, "lycoris-big-graph");
            this.graph.node.setAttribute("role", "img");
            this.axis = el("div.lycoris-axis", { "aria-hidden": "true" });
            this.points = lycoris.points(this);
            this.build();
        }

        build() {
            const rules = el("label.lycoris-field", {}, el("span", {}, "Layers (lbwe)"), this.elements.node);
            const fields = [this.start.node, this.stop.node, rules, ...this.second.map((one) => one.node)];
            const plot = el("div.lycoris-plot", {}, this.graph.node, this.axis);
            this.node = el(
                "div.lycoris-timing",
                {},
                el("div.lycoris-timing-fields", {}, ...fields, el("p.lycoris-quiet", {}, HINT), this.hires),
                plot,
                this.points.node,
            );
        }

        fill(tag) {
            const { values } = tag;
            let ends = [undefined, undefined];
            if (!tag.problem) ends = lycoris.ends(values);
            [this.start, this.stop].forEach((one, at) => one.fill(ends[at] || ""));
            for (const { key, node, fill } of this.second) {
                node.hidden = key !== "hr" && values[key] === undefined;
                fill(values[key] || "");
            }
            this.second[0].input.placeholder = "as first";
            this.elements.fill(tag);
            const more = Object.entries(values).filter(([key]) => /^hr(?!$|te$|unet$)/.test(key));
            this.hires.textContent = more.length
                ? `Hires: ${more.map(([key, value]) => `${key}=${value}`).join(", ")}`
                : "";
            for (const node of this.node.querySelectorAll("input, select, button")) node.disabled = !!tag.problem;
            if (tag.problem) return;
            this.draw(tag);
            this.points.fill(tag);
        }

        draw(tag, range) {
            const steps = this.row.page.steps();
            const ghost = lycoris.isTimed(tag) ? lycoris.course(tag.unet, steps) : null;
            this.graph.draw(lycoris.trace(tag, steps), ghost, range);
            this.graph.node.setAttribute("aria-label", `Strength over ${steps} steps: ${lycoris.scheduleText(tag)}`);
            const { unit, most } = lycoris.axis(tag.unet, steps);
            const ends = unit === "sigma" ? [`noise ${lycoris.number(most)}`, "0"] : ["step 1", `step ${steps}`];
            this.axis.replaceChildren(...ends.map((text) => el("span", {}, text)));
            this.marks(tag, steps);
        }

        /** A handle for each point. They are moved and not made anew, because one of them may be held. */
        marks(tag, steps) {
            const points = tag.unet.points || [];
            const { marks } = this.graph;
            const axis = lycoris.axis(tag.unet, steps);
            while (marks.childElementCount > points.length) marks.lastChild.remove();
            while (marks.childElementCount < points.length) marks.append(lycoris.handle(this));
            points.forEach((point, at) => {
                const share = Math.max(0, Math.min(1, axis.at(point.position)));
                marks.children[at].setAttribute(
                    "transform",
                    `translate(${this.graph.x(share)} ${this.graph.y(point.value)})`,
                );
            });
        }

        /** What the tag would be with another curve. */
        trial(text) {
            const { tag } = this.row;
            const made = text === null ? null : lycoris.rewritten(tag.text, { [keyOf(tag)]: text });
            const [found] = made === null ? [] : lycoris.tags(made);
            return found && !found.problem ? { ...found, edits: tag.edits } : null;
        }

        /** `work` makes the new text of the curve from the old one. */
        bend(work) {
            this.row.change((tag) => {
                const { key, text } = curveOf(tag);
                const made = work(text, tag);
                if (made === null) this.row.page.say("The curve cannot have a point there.");
                return made === null ? {} : { [key]: made };
            });
        }

        /** A curve of the U-Net alone; the text encoder keeps its number. */
        begin() {
            this.row.change((tag) => ({ unet: lycoris.newCurve(lycoris.firstOf(tag.unet)) }));
        }
    }

    /** A point to drag: drawn while it is held, written when it is let go. */
    lycoris.handle = function (timing) {
        const area = lycoris.svg("circle", { r: 13, class: "lycoris-handle-area" });
        const dot = lycoris.svg("circle", { r: 5, class: "lycoris-handle" });
        const node = lycoris.svg("g", { class: "lycoris-handle-group" }, area, dot);
        let held = null;
        const moved = (event) => {
            const { graph, row } = timing;
            const { share, value } = graph.under(event);
            const axis = lycoris.axis(row.tag.unet, row.page.steps());
            const raw = axis.position(share);
            const position = axis.unit === "step" ? Math.round(raw) : Math.round(raw * 100) / 100;
            const text = lycoris.movedPoint(held.text, held.at, { position, value: Math.round(value * 20) / 20 });
            const trial = timing.trial(text);
            if (!trial) return;
            held.made = text;
            timing.draw(trial, held.range);
        };
        node.addEventListener("pointerdown", (event) => {
            const { low, high } = timing.graph;
            const at = [...node.parentNode.children].indexOf(node);
            held = { at, text: curveOf(timing.row.tag).text, range: [low, high], made: null };
            node.setPointerCapture(event.pointerId);
            event.preventDefault();
        });
        node.addEventListener("pointermove", (event) => held && moved(event));
        for (const name of ["pointerup", "pointercancel"])
            node.addEventListener(name, () => {
                const made = held && name === "pointerup" && held.made;
                held = null;
                if (made) timing.bend(() => made);
                else timing.row.again();
            });
        return node;
    };

    lycoris.timing = (row) => new Timing(row);
    lycoris.placeLabel = (unit) => PLACE[unit];
})();
