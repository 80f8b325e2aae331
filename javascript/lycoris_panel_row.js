/* One row of the panel: an adapter tag with all its options. The tag's text is the only state. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const MODES = [
        ["auto", "Auto"],
        ["merged", "Merged"],
        ["live", "Live"],
    ];
    const READING = "This tag cannot be read";

    class Row {
        constructor(page) {
            this.page = page;
            this.kind = "full";
            this.stamp = "";
            this.build();
        }

        build() {
            this.use = el("input.lycoris-use", {
                type: "checkbox",
                onchange: () => this.change(() => ({ off: this.use.checked ? null : "off" })),
            });
            this.label = el("span.lycoris-used-name");
            this.strengths = lycoris.strengths(this);
            this.preset = lycoris.presetChoice(this, "lbw");
            this.mode = lycoris.choice((mode) => this.change(() => ({ mode: mode === "auto" ? null : mode })));
            this.thumb = new lycoris.Graph(84, 26, "lycoris-thumb-graph");
            this.thumb.node.setAttribute("aria-hidden", "true"); // the button around it says it
            this.schedule = el(
                "button.lycoris-schedule",
                { type: "button", onclick: () => this.toggle() },
                this.thumb.node,
            );
            this.out = lycoris.iconButton("close", "", { onclick: () => lycoris.removeTag(this.page, this) });
            this.said = el("div.lycoris-said");
            this.more = el("div.lycoris-more", { hidden: true });
            const parts = [
                this.use,
                this.label,
                this.strengths.node,
                this.preset.node,
                this.schedule,
                this.mode.node,
                this.out,
            ];
            const line = el("div.lycoris-entry-line", {}, ...parts);
            this.node = el("div.lycoris-used.lycoris-entry", { role: "listitem" }, line, this.said, this.more);
        }

        toggle() {
            this.more.hidden = !this.more.hidden;
            if (!this.timing) this.more.append((this.timing = lycoris.timing(this)).node);
            this.schedule.setAttribute("aria-expanded", String(!this.more.hidden));
            if (!this.more.hidden) this.timing.fill(this.tag);
        }

        /** `at`: which tag of the prompt it is; `nth`: which of its name. */
        fill(tag, at, nth) {
            const { presets, told } = this.page;
            Object.assign(this, { tag, at, nth });
            const shown = [tag.text, JSON.stringify(tag.edits), nth, this.page.steps()];
            const stamp = [...shown, presets.version, told.version].join("\n");
            if (stamp === this.stamp) return;
            this.stamp = stamp;
            this.naming(tag);
            this.strengths.fill(tag);
            this.preset.fill(tag);
            this.mode.fill(MODES, tag.mode);
            this.draw(tag);
            this.report(tag, nth);
            if (this.timing && !this.more.hidden) this.timing.fill(tag);
        }

        naming(tag) {
            const { name } = tag;
            this.node.dataset.name = name;
            this.node.classList.toggle("lycoris-off", tag.off);
            this.use.checked = !tag.off;
            this.use.title = tag.off ? "On again" : "Off, keeping its numbers";
            this.label.textContent = name;
            this.label.title = tag.text;
            this.out.title = `Take ${name} out of the prompt`;
            const labels = [
                [this.use, `Use ${name}`],
                [this.preset.node, `Block preset of ${name}`],
                [this.mode.node, `Mode of ${name}`],
                [this.out, this.out.title],
            ];
            for (const [node, label] of labels) node.setAttribute("aria-label", label);
            for (const node of [this.preset.node, this.mode.node]) node.disabled = !!tag.problem;
            this.mode.node.title = "How it is applied: merged into the weights, live beside them, or as it fits best";
        }

        draw(tag) {
            const text = lycoris.scheduleText(tag);
            this.schedule.setAttribute("aria-label", `Schedule of ${tag.name}: ${text}`);
            this.schedule.title = `Schedule: ${text}`;
            this.schedule.setAttribute("aria-expanded", String(!this.more.hidden));
            this.thumb.node.classList.toggle("lycoris-flat", !lycoris.isTimed(tag) && typeof tag.unet === "number");
            this.thumb.draw(
                tag.problem
                    ? [
                          [0, 0],
                          [1, 0],
                      ]
                    : lycoris.trace(tag, this.page.steps()),
            );
        }

        report(tag, nth) {
            const found = tag.problem
                ? { text: `${READING}: ${tag.problem}.`, bad: true }
                : this.page.told.about(tag, nth);
            const said = found.text && !tag.problem ? `Last image: ${found.text}` : found.text;
            this.said.textContent = tag.off && !tag.problem ? "Off: it stays in the prompt with its numbers." : said;
            this.said.title = this.said.textContent;
            this.said.classList.toggle("lycoris-warned", found.bad && !(tag.off && !tag.problem));
        }

        /** While a slider is moved: what would come of it, without touching the prompt. */
        preview(part, value) {
            if (!Number.isFinite(value)) return;
            const { parts } = this.strengths;
            const text = lycoris.rewritten(this.tag.text, lycoris.strengthChange(this.tag, part, value));
            const [found] = text === null ? [] : lycoris.tags(text);
            if (!found || found.problem) return;
            const tag = { ...found, edits: this.tag.edits };
            if (lycoris.isLinked(tag)) parts[part === "te" ? "unet" : "te"].fill(value, false);
            this.draw(tag);
        }

        strengthen(part, value) {
            if (Number.isFinite(value)) this.change((tag) => lycoris.strengthChange(tag, part, value));
            else this.again();
        }

        again() {
            this.stamp = "";
            lycoris.showAnew();
            this.page.prompted();
        }

        /** `make` gives the changes of values for the tag as it is now. */
        change(make) {
            const found = lycoris.tagAt(this.page, this);
            if (!found) return this.again();
            const text = lycoris.rewritten(found.tag.text, make(found.tag));
            if (text === null) this.page.say("This cannot be written into the tag. Edit it in the prompt.");
            else lycoris.edit(found.box, lycoris.difference(found.tag.text, text, found.tag.start));
            this.page.boxes.look();
            return this.again();
        }
    }

    lycoris.Row = Row;
})();
